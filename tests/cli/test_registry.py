"""rewindctl registry: what is selected, what is printed, what is refused before anything is written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Answer, Chain, Cli

from rewindctl.registry import Registry


@pytest.fixture
def at(chain: Chain) -> tuple[str, ...]:
    return ("--tracking-uri", chain.uri)


def export(cli: Cli, chain: Chain, *arguments: str) -> Answer:
    return cli("registry", "export", *arguments, "--tracking-uri", chain.uri)


def exported(cli: Cli, chain: Chain, *arguments: str) -> list[str]:
    """The runs that a selection writes."""
    answer = export(cli, chain, "selected.bundle", "--overwrite", "--json", *arguments)
    assert answer.code == 0, answer.err
    runs: list[str] = json.loads(answer.out)["runs"]
    return runs


def imported(cli: Cli, *arguments: str) -> dict[str, object]:
    answer = cli("registry", "import", *arguments, "--json")
    assert answer.code == 0, answer.err
    found: dict[str, object] = json.loads(answer.out)
    return found


def test_export_prints_the_path_and_import_the_run_ids(cli: Cli, chain: Chain, store: Path) -> None:
    first = export(cli, chain, "a.bundle")
    assert (first.code, first.out) == (0, "a.bundle\n")
    assert "5 runs, 26 files" in first.err
    answer = cli("registry", "import", "a.bundle")
    assert answer.code == 0
    assert answer.out.split() == [run.run_id for run in Registry(f"sqlite:///{store}").search()]
    assert "5 runs imported, 0 were there" in answer.err
    assert cli("verify", "--all").code == 0
    again = cli("registry", "import", "a.bundle")
    assert (again.out, "0 runs imported, 5 were there" in again.err) == (answer.out, True)


def test_one_run_is_not_several(cli: Cli, chain: Chain, store: Path) -> None:
    assert "1 run, " in export(cli, chain, "one.bundle", "--run", chain.dense).err
    assert "1 run imported, 0 were there" in cli("registry", "import", "one.bundle").err
    assert "0 runs imported, 1 was there" in cli("registry", "import", "one.bundle").err


def test_quiet_is_silent(cli: Cli, chain: Chain, store: Path) -> None:
    assert export(cli, chain, "a.bundle", "--quiet").err == ""
    assert cli("registry", "import", "a.bundle", "--quiet").err == ""


def test_json_has_counts_and_the_new_id_of_every_run(cli: Cli, chain: Chain, store: Path) -> None:
    facts = json.loads(export(cli, chain, "a.bundle", "--json").out)
    assert facts["bytes"] == Path("a.bundle").stat().st_size
    assert facts["paths"] == ["a.bundle"]
    found = imported(cli, "a.bundle")
    assert (found["imported"], found["reused"], found["completed"]) == (5, 0, 0)
    assert isinstance(found["runs"], dict)
    assert list(found["runs"]) == facts["runs"]


def test_a_selection_brings_ancestors(cli: Cli, chain: Chain) -> None:
    lineage = [chain.dense, chain.prune, chain.lr_rewind]
    assert exported(cli, chain, "--run", chain.lr_rewind[:8]) == lineage
    assert exported(cli, chain, "--tag", "method=lr_rewind") == lineage
    assert exported(cli, chain, "--tag", "rewindctl.method=lr_rewind", "--tag", "seed=0") == lineage
    assert exported(cli, chain, "--kind", "prune") == lineage[:2]
    assert exported(cli, chain, "--kind", "dense", "--kind", "prune") == lineage[:2]
    assert exported(cli, chain, "--run", "models:/resnet8-digits-dense@seed-0") == lineage[:1]
    assert exported(cli, chain, "--kind", "retrain") == exported(cli, chain)
    assert exported(cli, chain, "--run", chain.dense, "--descendants") == exported(cli, chain)


def test_any_part_or_all_of_them_in_any_order_stand_for_the_bundle(cli: Cli, chain: Chain, store: Path) -> None:
    paths = export(cli, chain, "p", "--max-size", "512K").out.split()
    assert paths == [f"p.{number:03d}" for number in range(1, len(paths) + 1)]
    assert len(paths) > 3
    assert {Path(path).stat().st_size for path in paths[:-1]} == {1 << 19}
    runs = imported(cli, "p")["runs"]
    Path("joined").write_bytes(b"".join(Path(path).read_bytes() for path in paths))
    for given in (["p.001"], ["p.003"], paths, reversed(paths), ["joined"]):
        assert imported(cli, *given)["runs"] == runs


def test_what_fits_into_one_part_is_one_file(cli: Cli, chain: Chain, store: Path) -> None:
    line = ("--max-size", "64M", "--kind", "prune")
    assert export(cli, chain, "p", *line).out == "p\n"
    assert imported(cli, "p")["imported"] == 2


def test_overwriting_leaves_no_part_of_the_old_bundle(cli: Cli, chain: Chain, store: Path) -> None:
    many = export(cli, chain, "p", "--max-size", "300K").out.split()
    few = export(cli, chain, "p", "--max-size", "1M", "--overwrite").out.split()
    assert len(few) < len(many)
    assert sorted(path.name for path in Path().glob("p*")) == few
    assert export(cli, chain, "p", "--overwrite").out == "p\n"
    assert [path.name for path in Path().glob("p*")] == ["p"]
    assert export(cli, chain, "p", "--max-size", "1M", "--overwrite").out.split() == few
    assert sorted(path.name for path in Path().glob("p*")) == few
    assert imported(cli, "p")["imported"] == 5


def test_without_checkpoints_a_bundle_is_small_and_verify_says_so(cli: Cli, chain: Chain, store: Path) -> None:
    export(cli, chain, "light", "--no-checkpoints")
    assert Path("light").stat().st_size < 200_000
    dense, prune = list(imported(cli, "light")["runs"].values())[:2]  # type: ignore[attr-defined]
    answer = cli("verify", "--all")
    assert (answer.code, answer.out) == (0, "")
    assert "5 of 5 runs are intact" in answer.err
    assert "4 of them are without checkpoints, which were left out at export" in answer.err
    rows = {row["run_id"]: row for row in json.loads(cli("verify", "--all", "--json").out)}
    assert (rows[dense]["omitted"], rows[prune]["omitted"]) == (True, False)
    assert "checkpoints were left out at export" in cli("show", dense).out
    refused = cli("retrain", "--parent", prune, "--method", "weight_rewind", "--k", "12", "--no-replay")
    assert refused.code == 2
    assert "its checkpoints were left out at export" in refused.err.splitlines()[0]


# Refusals


def refused(answer: Answer, code: int, words: str) -> None:
    assert (answer.code, answer.out) == (code, "")
    lines = answer.err.splitlines()
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert lines[1].startswith("hint: ")


USAGE = {
    "size": (("b", "--max-size", "much"), "--max-size 'much'"),
    "size zero": (("b", "--max-size", "0"), "--max-size '0'"),
    "size small": (("b", "--max-size", "1K"), "65,536 bytes or more"),
    "size negative": (("b", "--max-size=-1M"), "--max-size '-1M'"),
    "tag": (("b", "--tag", "seed"), "--tag 'seed' is not KEY=VALUE"),
    "tag key": (("b", "--tag", "=0"), "--tag '=0' is not KEY=VALUE"),
    "kind": (("b", "--kind", "mask"), "'mask'"),
    "run": (("b", "--run", "ffffffffff"), "no run starts with 'ffffffffff'"),
    "nothing": (("b", "--tag", "seed=77"), "no finished run matches the options"),
    "part name": (("b.001",), "b.001 is the name of a part"),
    "folder": ((".",), "is a folder"),
    "no bundle": ((), "'bundle'"),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_wrong_export_is_refused_and_writes_nothing(cli: Cli, chain: Chain, case: str) -> None:
    line, words = USAGE[case]
    refused(export(cli, chain, *line), 2, words)
    assert list(Path().iterdir()) == []


def test_what_is_there_is_not_replaced(cli: Cli, chain: Chain) -> None:
    Path("b").write_text("mine")
    Path("c.002").write_text("mine")
    refused(export(cli, chain, "b"), 2, "b exists")
    refused(export(cli, chain, "c"), 2, "c.002 exists")
    assert (Path("b").read_text(), Path("c.002").read_text()) == ("mine", "mine")


def test_a_place_that_cannot_be_written_is_named(cli: Cli, chain: Chain) -> None:
    Path("file").write_text("")
    refused(export(cli, chain, "file/b"), 1, "file/b cannot be written")
    refused(export(cli, chain, "n" * 300), 1, "cannot be written")


def test_only_intact_finished_runs_leave(cli: Cli, copied_chain: Chain) -> None:
    registry = Registry(copied_chain.uri)
    path = registry.artifact(registry.get(copied_chain.finetune), "checkpoints/final.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    refused(export(cli, copied_chain, "b"), 1, f"final.safetensors of run {copied_chain.finetune} is damaged")
    assert not Path("b").exists()
    assert len(exported(cli, copied_chain, "--run", copied_chain.lr_rewind)) == 3
    registry.client.update_run(copied_chain.lr_rewind, status="FAILED")
    refused(export(cli, copied_chain, "b", "--run", copied_chain.lr_rewind), 2, "is FAILED, not FINISHED")
    registry.client.update_run(copied_chain.prune, status="RUNNING")
    refused(export(cli, copied_chain, "b", "--run", copied_chain.weight_rewind), 2, "is RUNNING")
    registry.client.delete_run(copied_chain.prune)
    refused(export(cli, copied_chain, "b", "--run", copied_chain.weight_rewind), 1, "is gone")


EDITS = {
    "metric": ("log_metric", ("test_accuracy", 1.0, None, 25), "metric test_accuracy was edited"),
    "group": ("set_tag", ("rewindctl.group", "0" * 64), "group"),
    "label": ("set_tag", ("rewindctl.model", "resnet20"), "rewindctl.model"),
    "name": ("set_tag", ("mlflow.runName", "two\nlines"), "name"),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_run_that_was_edited_does_not_leave(cli: Cli, copied_chain: Chain, case: str) -> None:
    method, arguments, words = EDITS[case]
    getattr(Registry(copied_chain.uri).client, method)(copied_chain.finetune, *arguments)
    answer = export(cli, copied_chain, "b")
    refused(answer, 1, copied_chain.finetune)
    assert words in answer.err.splitlines()[0]
    assert not Path("b").exists()


IMPORTS = {
    "missing": (("nothing",), "nothing does not exist"),
    "part missing": (("b.001",), "b.001 does not exist"),
    "folder": ((".",), "is not a file"),
    "device": (("/dev/zero",), "/dev/zero is not a file"),
    "empty name": (("",), "is not a file"),
    "two bundles": (("b", "b"), "b is not a part of a bundle"),
    "parts of two": (("p.001", "q.002"), "are not parts of one bundle"),
    "part twice": (("p.001", "p.001"), "are not parts of one bundle"),
}


@pytest.mark.parametrize("case", IMPORTS)
def test_a_wrong_import_is_refused_and_makes_no_store(cli: Cli, case: str) -> None:
    for name in ("b", "p.001", "q.002"):
        Path(name).write_text("x")
    line, words = IMPORTS[case]
    if case == "part missing":
        shutil.move("b", "c")
    refused(cli("registry", "import", *line), 2, words)
    refused(cli("registry", "import", "q"), 1, "q.001 is missing")
    refused(cli("registry", "import", "p"), 1, "p.001 is not a bundle of rewindctl")
    assert not Path("mlflow.db").exists()


def test_a_list_of_parts_with_a_gap_is_not_whole(cli: Cli, store: Path, chain: Chain) -> None:
    export(cli, chain, "p", "--max-size", "1M")
    refused(cli("registry", "import", "p.001", "p.003"), 1, "p.002 is missing")
    refused(cli("registry", "import", "p.001", "p.002"), 1, "p.003 is missing")


def test_a_temporary_folder_without_room_is_named(cli: Cli, chain: Chain, store: Path) -> None:
    """A limit of file sizes is what a full disk looks like to a process."""
    export(cli, chain, "b")
    cli("list")  # makes the experiment
    before = store.read_bytes()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))"
    program = f"{limit}; import sys; from rewindctl.cli import run; sys.exit(run(['registry', 'import', 'b']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    refused(Answer(done.returncode, done.stdout, done.stderr), 1, "b cannot be unpacked")
    assert store.read_bytes() == before
