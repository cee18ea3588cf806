"""rewindctl gc"""

import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from conftest import Chain, Cli, quickly

from rewindctl.registry import RunWriter
from rewindctl.registry import records as tag
from rewindctl.registry.claiming.ownership import this_process
from rewindctl.registry.runs.writer import resume_file
from rewindctl.registry.store.connect import connect
from rewindctl.system.files import state_folder
from rewindctl.system.temporary import temporary_name

RETRAINED = ("finetune", "weight_rewind", "lr_rewind")
DAY = 86_400


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary files of other tests and of the user are not this test's to collect."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def gone() -> str:
    """The owner that a process of this machine was before it ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    host, _, start, *rest = this_process().rsplit(":", 4)
    return ":".join((host, str(process.pid), start, *rest))


def at(chain: Chain) -> tuple[str, str]:
    return "--tracking-uri", chain.uri


def folder(chain: Chain, run: str) -> Path:
    return Path(unquote(urlsplit(chain.registry().get(run, deleted=True).artifact_uri).path))


def edit(chain: Chain, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(chain.store)) as connection, connection:
        assert connection.execute(sql, values).rowcount > 0


def purge(chain: Chain, run: str) -> None:
    """What `mlflow gc` does to the rows of a deleted run."""
    for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
        edit(chain, f"DELETE FROM {table} WHERE run_uuid = ?", run)


def found(chain: Chain, cli: Cli, *options: str) -> dict[str, set[str]]:
    """What gc lists, by class."""
    answer = cli("gc", *options, "--json", *at(chain))
    assert answer.code == 0, answer.err
    classes: dict[str, Any] = json.loads(answer.out)["classes"]
    return {name: {item["what"] for item in one["items"]} for name, one in classes.items() if one["items"]}


def world(chain: Chain) -> tuple[list[Any], list[str]]:
    with closing(sqlite3.connect(chain.store)) as connection:
        runs = connection.execute("SELECT run_uuid, status, lifecycle_stage FROM runs ORDER BY run_uuid").fetchall()
    places = (chain.store.parent, state_folder(), Path(tempfile.gettempdir()))
    names = sorted(str(path) for place in places for path in place.rglob("*"))
    return runs, [name for name in names if "mlflow.db" not in name and f"-{os.getpid()}-" not in name]


def started(chain: Chain, stage: str = "finetune", iterations: int | None = None) -> RunWriter:
    """A run of the stage `stage`, or of a longer one, that this process is at."""
    registry = chain.registry()
    run, parent = registry.get(getattr(chain, stage)), registry.get(chain.prune)
    spec = run.spec if iterations is None else run.spec.model_copy(update={"iterations": iterations})
    return registry.start(spec, "begun", parent, {}, resume=False)


def left_by(chain: Chain, owner: str, iterations: int | None = None, status: str = "KILLED") -> str:
    """A run that ended in `status`, or whose process `owner` is gone, with its resume point."""
    writer = started(chain, iterations=iterations)
    resume_file(writer.run_id).parent.mkdir(parents=True, exist_ok=True)
    writer.fail(KeyboardInterrupt())
    resume_file(writer.run_id).write_bytes(b"point")
    edit(chain, "UPDATE runs SET status = ? WHERE run_uuid = ?", status, writer.run_id)
    edit(chain, "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?", owner, writer.run_id, tag.OWNER)
    return writer.run_id


def test_a_store_in_order_has_no_garbage(chain: Chain, cli: Cli) -> None:
    before = world(chain)
    answer = cli("gc", "--yes", "--unfinished", "--orphans", *at(chain))
    assert (answer.code, answer.out) == (0, "")
    assert "removed 0, 0 bytes" in answer.err
    assert world(chain) == before


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--dry-run", "--unfinished"), ("--orphans",)])
def test_without_yes_it_lists_classes_with_bytes_and_touches_nothing(
    copied_chain: Chain, cli: Cli, gone: str, options: tuple[str, ...]
) -> None:
    run = left_by(copied_chain, gone, iterations=99)
    point = resume_file(copied_chain.dense)
    point.write_bytes(b"1234567")
    before = world(copied_chain)
    answer = cli("gc", *options, *at(copied_chain))
    size = sum(path.stat().st_size for path in folder(copied_chain, run).rglob("*.json")) + len(b"point")
    assert [line.split()[:3] for line in answer.out.splitlines()] == [
        ["resume", "7", str(point)],
        ["unfinished", f"{size:,}", run],
    ]
    assert ("kept: add --unfinished" in answer.err) == ("--unfinished" not in options)
    assert f"{7 + (size if '--unfinished' in options else 0):,} bytes can be freed; --yes" in answer.err
    assert world(copied_chain) == before


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_work_that_can_go_on_is_kept_unless_asked_for(copied_chain: Chain, cli: Cli, gone: str, status: str) -> None:
    run = left_by(copied_chain, gone, iterations=99, status=status)
    assert found(copied_chain, cli)["unfinished"] == {run}
    assert found(copied_chain, cli, "--yes")["unfinished"] == {run}
    assert copied_chain.registry().get(run).status == status
    assert folder(copied_chain, run).is_dir()
    assert resume_file(run).exists() == (status != "FAILED"), "a failed run never goes on"
    found(copied_chain, cli, "--yes", "--unfinished")
    assert not folder(copied_chain, run).exists()
    assert not resume_file(run).exists()
    assert found(copied_chain, cli) == {}


@pytest.mark.parametrize("status", ["RUNNING", "FAILED"])
def test_what_another_run_finished_goes_by_default(copied_chain: Chain, cli: Cli, gone: str, status: str) -> None:
    run = left_by(copied_chain, gone, status=status)
    assert found(copied_chain, cli, "--yes")["superseded"] == {run}
    assert not folder(copied_chain, run).exists()
    assert not resume_file(run).exists()
    assert cli("verify", "--all", *at(copied_chain)).code == 0
    assert found(copied_chain, cli) == {}


def test_a_run_that_a_living_process_is_at_is_in_no_class(copied_chain: Chain, cli: Cli) -> None:
    writer = started(copied_chain)
    resume_file(writer.run_id).parent.mkdir(parents=True)
    resume_file(writer.run_id).write_bytes(b"point")
    resume_file(writer.run_id).with_name(f".{writer.run_id}-{'0' * 32}.safetensors").write_bytes(b"half")
    before = world(copied_chain)
    assert found(copied_chain, cli, "--yes", "--unfinished", "--orphans") == {}
    assert world(copied_chain) == before
    writer.fail(KeyboardInterrupt())


REMOVALS: dict[str, Callable[[Chain, str], object]] = {
    "softly": lambda chain, run: connect(chain.uri).delete_run(run),
    "for good": purge,
}


@pytest.mark.parametrize("how", REMOVALS)
@pytest.mark.parametrize("stage", ["dense", quickly("prune")])
def test_orphans_are_listed_and_go_only_when_asked_for(copied_chain: Chain, cli: Cli, how: str, stage: str) -> None:
    REMOVALS[how](copied_chain, getattr(copied_chain, stage))
    orphans = {getattr(copied_chain, name) for name in (*RETRAINED, *(["prune"] if stage == "dense" else []))}
    assert found(copied_chain, cli)["orphans"] == orphans
    found(copied_chain, cli, "--yes")
    assert all(folder(copied_chain, run).is_dir() for run in orphans)
    found(copied_chain, cli, "--yes", "--orphans", "--unreferenced")
    assert not any(folder(copied_chain, run).exists() for run in orphans)
    assert {run.run_id for run in copied_chain.registry().search()} == {copied_chain.dense} - {
        getattr(copied_chain, stage)
    }
    assert found(copied_chain, cli) == {}


def test_a_deleted_parent_keeps_its_files_while_living_runs_need_it(copied_chain: Chain, cli: Cli) -> None:
    client = connect(copied_chain.uri)
    client.delete_run(copied_chain.prune)
    answer = cli("gc", "--yes", *at(copied_chain))
    assert f"run {copied_chain.prune}, since 3 living runs were made from it" in answer.err
    assert f"mlflow runs restore --run-id {copied_chain.prune}" in answer.err
    client.restore_run(copied_chain.prune)
    assert cli("verify", "--all", *at(copied_chain)).code == 0


def test_files_of_deleted_runs_go(copied_chain: Chain, cli: Cli) -> None:
    connect(copied_chain.uri).delete_run(copied_chain.finetune)
    size = sum(path.stat().st_size for path in folder(copied_chain, copied_chain.finetune).rglob("*.*"))
    answer = cli("gc", "--yes", *at(copied_chain))
    assert answer.out.split()[:3] == ["deleted", f"{size:,}", copied_chain.finetune]
    assert f"removed 1, {size:,} bytes" in answer.err
    assert not folder(copied_chain, copied_chain.finetune).exists()
    assert found(copied_chain, cli) == {}
    assert cli("verify", "--all", *at(copied_chain)).code == 0


def test_other_programs_runs_are_left_alone(copied_chain: Chain, cli: Cli) -> None:
    client, registry = connect(copied_chain.uri), copied_chain.registry()
    runs = [
        client.create_run(registry.experiment_id, tags={tag.PARENT: parent}).info.run_id for parent in ("nobody", "x")
    ]
    (Path.cwd() / "note.txt").write_text("somebody's")
    for run in runs:
        client.log_artifact(run, "note.txt")
    client.set_terminated(runs[0], "FAILED")
    client.delete_run(runs[1])
    before = world(copied_chain)
    assert found(copied_chain, cli, "--yes", "--unfinished", "--orphans") == {}
    assert world(copied_chain) == before


def test_folders_of_runs_that_are_nowhere_go(copied_chain: Chain, cli: Cli) -> None:
    place = folder(copied_chain, copied_chain.lr_rewind).parent
    purge(copied_chain, copied_chain.lr_rewind)
    assert found(copied_chain, cli, "--yes") == {"unreferenced": {str(place)}}
    assert place.exists(), "another store may have them"
    assert found(copied_chain, cli, "--yes", "--unreferenced") == {"unreferenced": {str(place)}}
    assert not place.exists()
    assert folder(copied_chain, copied_chain.finetune).is_dir()


def test_a_folder_that_another_store_beside_it_refers_to_stays(copied_chain: Chain, cli: Cli) -> None:
    """Two stores of one folder have one artifact root for an experiment's name."""
    shutil.copy(copied_chain.store, copied_chain.store.with_name("other.db"))
    purge(copied_chain, copied_chain.lr_rewind)
    assert found(copied_chain, cli, "--yes", "--unreferenced") == {}


FOREIGN: dict[str, Callable[[Path], object]] = {
    "no file": lambda folder: folder.joinpath("artifacts").mkdir(),
    "another spec": lambda folder: write(folder / "artifacts" / "spec.json", '{"lr": 0.1}'),
    "no JSON": lambda folder: write(folder / "artifacts" / "manifest.json", "schema, artifacts"),
    "something beside": lambda folder: (ours(folder), write(folder / "notes.txt", "mine")),
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def ours(folder: Path) -> None:
    write(folder / "artifacts" / "manifest.json", '{"schema": 1, "artifacts": {}}')


@pytest.mark.parametrize("content", FOREIGN)
def test_a_folder_that_we_did_not_write_stays(copied_chain: Chain, cli: Cli, content: str) -> None:
    root = folder(copied_chain, copied_chain.dense).parents[1]
    theirs, own, named = (root / name for name in ("0" * 32, "1" * 32, "archive"))
    theirs.mkdir()
    FOREIGN[content](theirs)
    ours(own)
    ours(named)
    assert found(copied_chain, cli, "--yes", "--unreferenced") == {"unreferenced": {str(own)}}
    assert theirs.exists()
    assert named.exists()


def test_a_link_in_the_artifact_root_is_not_followed(copied_chain: Chain, cli: Cli, tmp_path: Path) -> None:
    root = folder(copied_chain, copied_chain.dense).parents[1]
    ours(tmp_path / "elsewhere")
    (root / ("2" * 32)).symlink_to(tmp_path / "elsewhere")
    assert found(copied_chain, cli, "--yes", "--unreferenced") == {}
    assert (tmp_path / "elsewhere" / "artifacts" / "manifest.json").exists()


def test_resume_points_that_no_run_needs_go_and_those_of_other_stores_stay(copied_chain: Chain, cli: Cli) -> None:
    connect(copied_chain.uri).delete_run(copied_chain.finetune)
    shutil.rmtree(folder(copied_chain, copied_chain.finetune))
    needless = [resume_file(run) for run in (copied_chain.lr_rewind, copied_chain.finetune)]
    others = resume_file("a" * 32)
    for path in (*needless, others):
        write(path, "point")
    answer = cli("gc", *at(copied_chain))
    assert "note: 1 resume point in " in answer.err
    assert "another store may need them" in answer.err
    assert found(copied_chain, cli, "--yes") == {"resume": {str(path) for path in needless}}
    assert others.exists()
    assert not any(path.exists() for path in needless)


def aged(path: Path, seconds: float) -> Path:
    moment = time.time() - seconds
    os.utime(path, (moment, moment), follow_symlinks=False)
    return path


def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(copied_chain: Chain, cli: Cli) -> None:
    resume, optuna = resume_file("").parent, state_folder() / "optuna"
    machine, _, start, random = temporary_name().split("-")
    run = copied_chain.finetune
    dead = resume / f".{run}-{machine}-{2**22 - 1}-{start}-{random}.safetensors"
    living = resume / f".{run}-{temporary_name()}.safetensors"
    elsewhere = resume / f".{run}-{'0' * 8}-1-1-{random}.safetensors"
    for path in (dead, living, elsewhere, optuna / "a.log"):
        write(path, "half")
    for name in ("a.log.lock", "b.log.lock"):
        (optuna / name).symlink_to(optuna / "a.log")
    aged(optuna / "a.log.lock", DAY)
    removed = {str(path) for path in (dead, optuna / "a.log.lock")}
    assert found(copied_chain, cli, "--yes") == {"temporary": removed}
    assert all(os.path.lexists(path) for path in (living, elsewhere, optuna / "a.log", optuna / "b.log.lock"))
    assert not any(os.path.lexists(path) for path in removed)


def test_a_run_outside_the_artifact_root_is_kept_and_named(copied_chain: Chain, cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "precious" / copied_chain.finetune / "artifacts"
    write(place / "spec.json", "{}")
    edit(copied_chain, "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", place.as_uri(), copied_chain.finetune)
    connect(copied_chain.uri).delete_run(copied_chain.finetune)
    answer = cli("gc", "--yes", *at(copied_chain))
    assert (answer.code, answer.out) == (0, "")
    assert "outside the store's artifact root" in answer.err
    assert (place / "spec.json").exists()


def test_json_says_what_each_class_has_and_what_was_removed(copied_chain: Chain, cli: Cli, gone: str) -> None:
    run = left_by(copied_chain, gone, iterations=99)
    connect(copied_chain.uri).delete_run(copied_chain.finetune)
    for options, removed in (((), False), (("--yes",), True)):
        answer = json.loads(cli("gc", *options, "--json", *at(copied_chain)).out)
        assert answer["removed"] is removed
        assert answer["bytes"] == answer["classes"]["deleted"]["bytes"] > 0
        assert answer["classes"]["deleted"]["removed"] is removed
        assert answer["classes"]["unfinished"]["removed"] is False
        assert [item["what"] for item in answer["classes"]["unfinished"]["items"]] == [run]


def test_yes_and_dry_run_contradict_each_other(cli: Cli, tmp_path: Path) -> None:
    answer = cli("gc", "--yes", "--dry-run")
    assert (answer.code, answer.out) == (2, "")
    assert "--yes and --dry-run" in answer.err
    assert not (tmp_path / "mlflow.db").exists()
