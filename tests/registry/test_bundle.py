"""Runs travel whole: the same numbers, bytes and lineage in another registry, nothing twice, all or nothing."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import TINY, Chain, Cli, quickly
from started import Started

from rewindctl.checks.verify import verify
from rewindctl.errors import RegistryError
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.bundle import Merged, export_bundle, import_bundle, matching, select
from rewindctl.registry.roots.binding import MARKER
from rewindctl.report.frame import tidy_frame
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.system.files import sha256

FINAL = "checkpoints/final.safetensors"
IDS = {tag.PARENT, tag.DENSE_RUN, tag.WEIGHTS_FROM, tag.NOTE, tag.OWNER, tag.HEARTBEAT, tag.TICKET}
OF_IMPORT = {tag.IMPORT, tag.IMPORTED_FROM}


@pytest.fixture(scope="module")
def bundle(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of `chain`."""
    return export(chain.registry(), tmp_path_factory.mktemp("bundle") / "all.bundle")


@pytest.fixture(scope="module")
def light(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of `chain` without checkpoints."""
    return export(chain.registry(), tmp_path_factory.mktemp("bundle") / "light.bundle", checkpoints=False)


@pytest.fixture
def target(store: Path) -> Registry:
    return Registry(f"sqlite:///{store}")


def export(registry: Registry, path: Path, checkpoints: bool = True, **tags: str) -> Path:
    runs = select(registry, matching(tags=tags.items()))
    (written,) = export_bundle(registry, runs, path, checkpoints).paths
    return written


def frame_without_ids(registry: Registry) -> pd.DataFrame:
    return tidy_frame(registry).drop(columns=["run_id", "prune_run_id", "dense_run_id"])


def histories(registry: Registry, run_id: str) -> dict[str, list[tuple[int, int, float]]]:
    run = registry.get(run_id)
    return {key: sorted(registry.shown_history(run, key)) for key in run.metrics}


def digests(registry: Registry, run_id: str) -> dict[str, str]:
    run = registry.get(run_id)
    return {path: sha256(registry.artifact(run, path)) for path in registry.manifest(run)}


def assert_equal(one: Registry, other: Registry, runs: dict[str, str]) -> None:
    """Each run of `one` is that of `other`: numbers, times, bytes, tags but for IDs, and lineage."""
    for old, new in runs.items():
        before, after = one.get(old), other.get(new)
        assert (before.name, before.started, before.ended) == (after.name, after.started, after.ended)
        assert before.params == after.params
        assert before.metrics == after.metrics
        assert histories(one, old) == histories(other, new)
        assert digests(one, old) == digests(other, new)
        plain = [{k: v for k, v in run.tags.items() if k not in IDS | OF_IMPORT} for run in (before, after)]
        assert plain[0] == plain[1]
        assert after.parent_id == (runs[before.parent_id] if before.parent_id else None)
        assert after.dense_run_id == runs[before.dense_run_id]
        for key in (tag.WEIGHTS_FROM, tag.NOTE):
            assert after.tags.get(key) == relinked(before.tags.get(key), runs)


def relinked(text: str | None, runs: dict[str, str]) -> str | None:
    for old, new in runs.items():
        text = text.replace(old, new) if text else text
    return text


def assert_intact(registry: Registry, count: int) -> None:
    """`count` finished runs, each intact, and no other."""
    runs = registry.search()
    assert [run.status for run in runs] == ["FINISHED"] * count
    assert [problem for run in runs for problem in verify(registry, run)] == []


# Round trip


def test_a_registry_arrives_as_it_left(chain: Chain, bundle: Path, target: Registry) -> None:
    merged = import_bundle(lambda: target, [bundle])
    assert len(merged.runs) == len(merged.imported) == 5
    assert_equal(chain.registry(), target, merged.runs)
    assert_intact(target, 5)
    pd.testing.assert_frame_equal(frame_without_ids(chain.registry()), frame_without_ids(target))
    assert [run.tags[tag.IMPORTED_FROM] for run in target.search()] == list(merged.runs)
    assert target.resolve("models:/resnet8-digits-dense@seed-0").run_id == merged.runs[chain.dense]


def test_the_bundle_of_what_arrived_has_the_same_runs(
    chain: Chain, bundle: Path, target: Registry, tmp_path: Path
) -> None:
    runs = import_bundle(lambda: target, [bundle]).runs
    back = export(target, tmp_path / "back.bundle")
    again = import_bundle(chain.registry, [back])
    assert again.imported == ()
    assert again.runs == {new: old for old, new in runs.items()}


def test_equal_runs_make_equal_bytes(chain: Chain, bundle: Path, tmp_path: Path) -> None:
    assert export(Registry(chain.uri), tmp_path / "again.bundle").read_bytes() == bundle.read_bytes()


def test_work_goes_on_from_an_imported_parent(chain: Chain, bundle: Path, target: Registry, cli: Cli) -> None:
    runs = import_bundle(lambda: target, [bundle]).runs
    line = ("retrain", "--parent", runs[chain.prune], "--method", "lr_rewind")
    assert cli(*line).run_id == runs[chain.lr_rewind]
    assert cli(*line[:-1], "weight_rewind", "--k", "12").code == 0
    again = cli("train-dense", *TINY, "--seed", "0")
    assert again.run_id == runs[chain.dense]
    assert_intact(target, 6)


# Merging


def test_importing_twice_changes_nothing(bundle: Path, target: Registry, store: Path) -> None:
    first = import_bundle(lambda: target, [bundle])
    before = dump(store)
    again = import_bundle(lambda: Registry(target.uri), [bundle])
    assert (again.runs, again.imported) == (first.runs, ())
    assert dump(store) == before


def test_runs_made_here_are_reused_and_their_children_relinked(
    chain: Chain, bundle: Path, target: Registry, cli: Cli
) -> None:
    dense = cli("train-dense", *TINY, "--seed", "0").run_id
    prune = cli("prune", "--parent", dense, "--compression", "5").run_id
    merged = import_bundle(lambda: target, [bundle])
    assert (merged.runs[chain.dense], merged.runs[chain.prune]) == (dense, prune)
    assert len(merged.imported) == 3
    for child in merged.imported:
        assert target.get(child).parent_id == prune
        assert target.get(child).dense_run_id == dense
    assert_intact(target, 5)


def retouch(chain: Chain) -> None:
    """Make the dense run of `chain` that of another device: other weights, all in order otherwise."""
    registry = Registry(chain.uri)
    run = registry.get(chain.dense)
    path = registry.artifact(run, FINAL)
    state = TrainState.load(path)
    next(iter(state.parameters.values())).mul_(1.001)
    state.save(path)
    manifest = path.parent.parent / "manifest.json"
    content = json.loads(manifest.read_text())
    content["artifacts"][FINAL]["sha256"] = sha256(path)
    manifest.write_text(json.dumps(content))
    registry.client.set_tag(run.run_id, tag.MANIFEST, sha256(manifest))


def test_children_are_never_hung_under_a_run_of_other_bytes(chain: Chain, copied_chain: Chain, bundle: Path) -> None:
    retouch(copied_chain)
    target = Registry(copied_chain.uri)
    merged = import_bundle(lambda: target, [bundle])
    assert len(merged.imported) == 5
    assert merged.runs[chain.dense] != chain.dense
    assert target.get(merged.runs[chain.finetune]).parent_id == merged.runs[chain.prune] != chain.prune
    assert target.resolve("models:/resnet8-digits-dense@seed-0").run_id == chain.dense, "the alias is not moved"
    again = import_bundle(lambda: Registry(copied_chain.uri), [bundle])
    assert (again.imported, again.runs) == ((), merged.runs)


@pytest.mark.slow
def test_an_import_names_the_longest_baseline_and_moves_no_name(
    copied_chain: Chain, target: Registry, cli: Cli, tmp_path: Path
) -> None:
    alias, at = "models:/resnet8-digits-dense@seed-0", ("--tracking-uri", copied_chain.uri)
    for length in ("25", "12"):
        assert cli("train-dense", *TINY, "--iterations", length, *at).code == 0
    several = export(copied_chain.registry(), tmp_path / "several.bundle", kind="dense")
    import_bundle(lambda: target, [several])
    assert target.resolve(alias).params["iterations"] == "25"
    assert cli("remove", target.resolve(alias).run_id, "--yes").code == 0
    assert target.resolve(alias).params["iterations"] == "24"
    import_bundle(lambda: target, [several])
    assert target.resolve(alias).params["iterations"] == "24"


@pytest.mark.slow
def test_equal_reruns_are_imported_once(copied_chain: Chain, target: Registry, cli: Cli, tmp_path: Path) -> None:
    at = ("--force", "--tracking-uri", copied_chain.uri)
    rerun = cli("prune", "--parent", copied_chain.dense, "--compression", "5", *at).run_id
    child = cli("retrain", "--parent", rerun, "--method", "lr_rewind", *at).run_id
    path = export(Registry(copied_chain.uri), tmp_path / "b")
    merged = import_bundle(lambda: target, [path])
    assert merged.runs[rerun] == merged.runs[copied_chain.prune]
    assert merged.runs[child] == merged.runs[copied_chain.lr_rewind]
    assert import_bundle(lambda: target, [path]).imported == ()
    assert_intact(target, 5)
    back = import_bundle(lambda: Registry(copied_chain.uri), [export(target, tmp_path / "back")])
    assert back.imported == (), "each is there, under one of the equal parents"


# Selection


def chosen(chain: Chain, *references: str, descendants: bool = False, **tags: str) -> list[str]:
    wanted = matching(tags=tags.items(), run_ids=references)
    return [run.run_id for run in select(chain.registry(), wanted, descendants=descendants)]


def test_a_selected_run_brings_its_ancestors_first(chain: Chain) -> None:
    lineage = [chain.dense, chain.prune, chain.lr_rewind]
    assert chosen(chain, chain.lr_rewind) == lineage
    assert chosen(chain, method="lr_rewind") == lineage
    assert chosen(chain, chain.dense) == [chain.dense]
    assert chosen(chain, chain.prune, descendants=True) == chosen(chain)
    assert [run.run_id for run in select(chain.registry(), matching(kinds=["prune"]))] == lineage[:2]


def test_tags_take_our_short_keys_or_whole_ones(chain: Chain) -> None:
    both = matching(tags=[("method", "lr_rewind"), ("rewindctl.method", "finetune"), ("mlflow.source.type", "LOCAL")])
    runs = select(chain.registry(), both)
    assert {run.run_id for run in runs} == {chain.dense, chain.prune, chain.lr_rewind, chain.finetune}


def test_the_same_lineage_comes_from_other_experiments(copied_chain: Chain, cli: Cli, target: Registry) -> None:
    at = ("--experiment", "other", "--tracking-uri", copied_chain.uri)
    child = cli("retrain", "--parent", copied_chain.prune, "--method", "finetune", "--lr", "0.01", *at).run_id
    registry = Registry(copied_chain.uri, "other")
    assert [run.run_id for run in select(registry, matching())] == [copied_chain.dense, copied_chain.prune, child]
    merged = import_bundle(lambda: target, [export(registry, Path("other.bundle"))])
    assert len(merged.imported) == 3
    assert_intact(target, 3)


# Without checkpoints


def test_checkpoints_left_out_are_no_damage_and_serve_reports(chain: Chain, light: Path, target: Registry) -> None:
    merged = import_bundle(lambda: target, [light])
    assert_intact(target, 5)
    pd.testing.assert_frame_equal(frame_without_ids(chain.registry()), frame_without_ids(target))
    dense = target.get(merged.runs[chain.dense])
    assert len(target.artifacts.omitted(dense)) == 4
    assert target.artifacts.omitted(target.get(merged.runs[chain.prune])) == set()


def test_a_parent_without_checkpoints_is_refused_with_a_hint(
    chain: Chain, light: Path, target: Registry, cli: Cli
) -> None:
    runs = import_bundle(lambda: target, [light]).runs
    answer = cli("prune", "--parent", runs[chain.dense], "--sparsity", "0.5")
    assert (answer.code, answer.out) == (2, "")
    assert f"{FINAL} of run {runs[chain.dense]} was left out when the run was exported" in answer.err
    assert "import a bundle that has the checkpoints" in answer.err
    assert len(target.search()) == 5


def test_a_file_that_is_lost_as_well_is_damage(chain: Chain, light: Path, target: Registry) -> None:
    prune = target.get(import_bundle(lambda: target, [light]).runs[chain.prune])
    target.artifact(prune, "mask/mask.safetensors").unlink()
    assert any("mask/mask.safetensors" in problem for problem in verify(target, prune))


def test_a_bundle_with_checkpoints_completes_what_came_without(
    chain: Chain, light: Path, bundle: Path, target: Registry, cli: Cli, tmp_path: Path
) -> None:
    runs = import_bundle(lambda: target, [light]).runs
    assert import_bundle(lambda: target, [export(target, tmp_path / "back")]).imported == ()
    merged = import_bundle(lambda: target, [bundle])
    assert (merged.runs, merged.imported, len(merged.completed)) == (runs, (), 4)
    assert_equal(chain.registry(), target, runs)
    assert import_bundle(lambda: target, [bundle]).completed == ()
    assert cli("prune", "--parent", runs[chain.dense], "--sparsity", "0.5").code == 0


# All or nothing

FINISHED = "(SELECT COUNT(*) FROM runs WHERE status = 'FINISHED')"
FAILURES = {
    "third run": "INSERT ON runs WHEN (SELECT COUNT(*) FROM runs) >= 2",
    "param of a later run": "INSERT ON params WHEN NEW.key = 'k'",
    "metric of a later run": "INSERT ON metrics WHEN (SELECT COUNT(DISTINCT run_uuid) FROM metrics) >= 2",
    "first end": "UPDATE ON runs WHEN NEW.status = 'FINISHED' AND OLD.status != 'FINISHED'",
    "fourth end": f"UPDATE ON runs WHEN NEW.status = 'FINISHED' AND OLD.status != 'FINISHED' AND {FINISHED} >= 3",
}


def edit(store: Path, *statements: str) -> None:
    with closing(sqlite3.connect(store)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def dump(store: Path) -> list[str]:
    with closing(sqlite3.connect(store)) as connection:
        return list(connection.iterdump())


def nothing_is_left(registry: Registry) -> None:
    assert registry.search() == []
    assert list(registry.client.search_registered_models()) == []
    assert [path.name for path in Path("mlruns").rglob("*") if path.is_file()] in ([], [MARKER])


@pytest.mark.parametrize("table", ["registered_models", "model_versions", "registered_model_aliases"])
def test_runs_that_cannot_be_registered_are_there_and_the_same_import_registers_them(
    bundle: Path, target: Registry, store: Path, table: str
) -> None:
    edit(store, f"CREATE TRIGGER full BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no room'); END")
    first = import_bundle(lambda: target, [bundle])
    assert_intact(target, 5)
    (note,) = first.notes
    assert "is finished, but not registered as a version of resnet8-digits-dense" in note
    edit(store, "DROP TRIGGER full")
    assert import_bundle(lambda: target, [bundle]).notes == ()
    (version,) = target.client.search_model_versions()
    assert target.resolve("models:/resnet8-digits-dense@seed-0").run_id == version.run_id


@pytest.mark.parametrize("failure", [quickly(one, "third run", "fourth end") for one in FAILURES])
def test_a_store_that_fails_midway_is_left_as_it_was(bundle: Path, target: Registry, store: Path, failure: str) -> None:
    edit(store, f"CREATE TRIGGER full BEFORE {FAILURES[failure]} BEGIN SELECT RAISE(ABORT, 'no room'); END")
    with pytest.raises(RegistryError, match="tracking store"):
        import_bundle(lambda: target, [bundle])
    nothing_is_left(target)
    edit(store, "DROP TRIGGER full")
    assert len(import_bundle(lambda: target, [bundle]).imported) == 5
    assert_intact(target, 5)


def test_artifacts_that_cannot_be_written_leave_the_store_as_it_was(bundle: Path, target: Registry) -> None:
    blocked = Path("mlruns") / "rewindctl"
    shutil.rmtree(blocked, ignore_errors=True)
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("in the way")
    with pytest.raises(RegistryError):
        import_bundle(lambda: target, [bundle])
    assert target.search() == []
    blocked.unlink()
    assert len(import_bundle(lambda: target, [bundle]).imported) == 5
    assert_intact(target, 5)


def test_a_failed_completion_is_undone(light: Path, bundle: Path, target: Registry, store: Path) -> None:
    runs = import_bundle(lambda: target, [light]).runs
    edit(
        store,
        "CREATE TRIGGER full BEFORE DELETE ON tags WHEN OLD.key = 'rewindctl.omitted' AND "
        "(SELECT COUNT(*) FROM tags WHERE key = 'rewindctl.omitted') <= 2 BEGIN SELECT RAISE(ABORT, 'no room'); END",
    )
    with pytest.raises(RegistryError, match="tracking store"):
        import_bundle(lambda: target, [bundle])
    assert sum(bool(target.artifacts.omitted(target.get(run))) for run in runs.values()) == 4
    edit(store, "DROP TRIGGER full")
    assert len(import_bundle(lambda: target, [bundle]).completed) == 4
    assert_intact(target, 5)


def count(store: Path, table: str) -> int:
    with closing(sqlite3.connect(store, timeout=20)) as connection:
        return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


KILLS = {
    "first run": "runs",
    "fourth run": "runs WHERE name LIKE '%weight_rewind%'",
    "first end": "runs WHERE status = 'FINISHED'",
}


@pytest.mark.parametrize("moment", KILLS)
@pytest.mark.slow
def test_a_killed_import_counts_for_nothing_and_can_be_repeated(
    bundle: Path, target: Registry, store: Path, moment: str
) -> None:
    process = Started("registry", "import", str(bundle))
    process.until(lambda: count(store, KILLS[moment]), every=0.002)
    process.kill()
    process.wait()
    by_id = {run.run_id: run for run in target.search()}
    for run in by_id.values():  # what is finished has finished ancestors
        assert not run.finished or run.parent_id is None or by_id[run.parent_id].finished
    assert process.returncode in (-signal.SIGKILL, 0)
    import_bundle(lambda: target, [bundle])
    assert_intact(target, 5)
    assert len(list(target.client.search_model_versions())) == 1


@pytest.mark.slow
def test_an_interrupted_import_takes_its_runs_back(bundle: Path, target: Registry, store: Path) -> None:
    process = Started("registry", "import", str(bundle))
    process.until(lambda: count(store, "runs"), every=0.002)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.startswith("error: interrupted")
    nothing_is_left(target)


def test_a_run_made_in_the_moment_of_an_interrupt_is_taken_back_too(
    bundle: Path, target: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, made = target.client.create_run, list[str]()

    def interrupted(*arguments: Any, **options: Any) -> Any:
        made.append(create(*arguments, **options).info.run_id)
        raise KeyboardInterrupt

    monkeypatch.setattr(target.client, "create_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_bundle(lambda: target, [bundle])
    assert len(made) == 1
    nothing_is_left(target)


@pytest.mark.slow
def test_imports_at_the_same_time_make_nothing_twice(bundle: Path, target: Registry) -> None:
    processes = [Started("registry", "import", str(bundle)) for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 0 or re.match("error: run [0-9a-f]{32} (is being imported by|was added by)", error)
    import_bundle(lambda: target, [bundle])
    assert_intact(target, 5)


def test_a_run_that_finished_meanwhile_is_not_doubled(bundle: Path, chain: Chain, target: Registry) -> None:
    def finish_another(done: int, total: int) -> None:
        if done == total:
            run = next(run for run in target.search(kind="prune"))
            other = target.client.create_run(target.experiment_id, tags=run.tags)
            target.client.set_terminated(other.info.run_id, "FINISHED")

    with pytest.raises(RegistryError, match="added by another process during the import"):
        import_bundle(lambda: target, [bundle], finish_another)
    assert [run.status for run in target.search()] == ["FINISHED"]


def test_an_import_under_way_elsewhere_is_not_disturbed(bundle: Path, target: Registry) -> None:
    def start(owner: str) -> RunRecord:
        tags = {tag.SCHEMA: "1", tag.IMPORT: "0" * 64, tag.OWNER: owner}
        return RunRecord.from_mlflow(target.client.create_run(target.experiment_id, tags=tags))

    other = start("elsewhere:1")
    with pytest.raises(RegistryError, match=f"run {other.run_id} is being imported by elsewhere:1"):
        import_bundle(lambda: target, [bundle])
    assert [run.run_id for run in target.search()] == [other.run_id]
    target.client.set_terminated(other.run_id, "KILLED")
    assert len(import_bundle(lambda: target, [bundle]).imported) == 5
    assert_intact(target, 5)


def test_the_runs_of_a_dead_import_on_this_host_are_replaced(bundle: Path, target: Registry) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    owner = f"{os.uname().nodename}:{gone.pid}"
    target.client.create_run(target.experiment_id, tags={tag.SCHEMA: "1", tag.IMPORT: "0" * 64, tag.OWNER: owner})
    import_bundle(lambda: target, [bundle])
    assert_intact(target, 5)


def test_no_host_of_the_exporter_travels(chain: Chain, bundle: Path) -> None:
    owner = chain.registry().get(chain.dense).tags[tag.OWNER]
    head = bundle.read_bytes()[: 1 << 16]
    assert re.search(rb"rewindctl-bundle", head)
    assert owner.encode() not in head


def test_merged_names_every_run_of_the_bundle(chain: Chain, bundle: Path, target: Registry) -> None:
    merged: Merged = import_bundle(lambda: target, [bundle])
    assert list(merged.runs) == [run.run_id for run in select(chain.registry(), matching())]
    assert re.fullmatch("[0-9a-f]{64}", merged.digest)
    assert {run.tags[tag.IMPORT] for run in target.search()} == {merged.digest}
