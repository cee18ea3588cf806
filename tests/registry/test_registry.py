"""Finding runs: by fingerprint, prefix and alias, across pages, inside one experiment; and trusting no altered file."""

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import TINY, Chain, Cli

from rewindctl.datasets import load_dataset
from rewindctl.errors import IntegrityError, RegistryError, UsageError
from rewindctl.pipeline.requests import dense_spec
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry.claiming.ownership import this_process
from rewindctl.registry.records import OWNER, SCHEMA
from rewindctl.specs import DenseSpec

MANY = 1_100  # more than the 1,000 rows of a page of MLflow's


def edit(store: Path, sql: str, *values: object) -> None:
    """Change a store behind the registry's back."""
    with closing(sqlite3.connect(store)) as connection, connection:
        assert connection.execute(sql, values).rowcount > 0


def copies(store: Path, run_id: str) -> None:
    """`MANY` finished copies of a run, their IDs 0, 1, 2, ... in hexadecimal."""
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM runs WHERE run_uuid = ?", (run_id,)).fetchone())
        marks = ",".join("?" * len(row))
        rows = [(*(row | {"run_uuid": f"{number:032x}"}).values(),) for number in range(MANY)]
        connection.executemany(f"INSERT INTO runs ({','.join(row)}) VALUES ({marks})", rows)
        tags = [(SCHEMA, "1", f"{number:032x}") for number in range(MANY)]
        connection.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", tags)


def folder_of(run: RunRecord) -> Path:
    return Path(unquote(urlsplit(run.artifact_uri).path))


def spec_of(seed: int = 0) -> DenseSpec:
    return dense_spec("resnet8", load_dataset("digits"), seed, iterations=24)


@pytest.fixture
def registry(store: Path) -> Registry:
    return Registry(f"sqlite:///{store}")


# Search


def test_search_lists_the_runs_oldest_first_or_those_with_a_tag(chain: Chain) -> None:
    registry = chain.registry()
    made = [chain.dense, chain.prune, chain.finetune, chain.weight_rewind, chain.lr_rewind]
    assert [run.run_id for run in registry.search()] == made
    assert [run.run_id for run in registry.search(kind="prune")] == [chain.prune]
    assert [run.run_id for run in registry.search(kind="retrain", method="lr_rewind")] == [chain.lr_rewind]
    assert registry.search(kind="dense", seed="1") == []


def test_search_reads_every_page(copied_chain: Chain) -> None:
    copies(copied_chain.store, copied_chain.dense)
    assert len({run.run_id for run in copied_chain.registry().search()}) == MANY + 5


def test_foreign_runs_of_the_experiment_are_not_ours(store: Path, registry: Registry) -> None:
    from mlflow import MlflowClient

    run = MlflowClient(f"sqlite:///{store}").create_run(registry.experiment_id)
    assert registry.search() == []
    assert registry.get(run.info.run_id).kind == ""


def test_find_takes_the_newest_finished_run_of_a_fingerprint(copied_chain: Chain, cli: Cli) -> None:
    registry = copied_chain.registry()
    first = registry.get(copied_chain.prune)
    again = cli(
        "prune", "--parent", copied_chain.dense, "--compression", "5", "--force", "--tracking-uri", registry.uri
    )
    found = registry.find(first.fingerprint)
    assert found is not None
    assert found.run_id == again.run_id != first.run_id
    edit(copied_chain.store, "UPDATE runs SET status = 'FAILED' WHERE run_uuid = ?", again.run_id)
    assert registry.find(first.fingerprint) == first


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_find_takes_no_unfinished_run(copied_chain: Chain, status: str) -> None:
    registry = copied_chain.registry()
    fingerprint = registry.get(copied_chain.dense).fingerprint
    edit(copied_chain.store, "UPDATE runs SET status = ? WHERE run_uuid = ?", status, copied_chain.dense)
    assert registry.find(fingerprint) is None


# References


def test_a_run_is_found_by_id_prefix_and_alias(chain: Chain) -> None:
    registry = chain.registry()
    for reference in (chain.dense, chain.dense[:31], chain.dense[:6], "models:/resnet8-digits-dense@seed-0"):
        assert registry.resolve(reference).run_id == chain.dense


def test_a_prefix_is_looked_for_in_every_experiment(chain: Chain, copied_chain: Chain) -> None:
    elsewhere = Registry(copied_chain.uri, "elsewhere")
    assert elsewhere.search() == []
    assert elsewhere.resolve(chain.prune[:8]).run_id == chain.prune


def test_an_ambiguous_prefix_counts_every_page_of_candidates(copied_chain: Chain) -> None:
    copies(copied_chain.store, copied_chain.dense)
    with pytest.raises(UsageError, match=f"'000000' is the start of {MANY} runs"):
        copied_chain.registry().resolve("000000")


# Lineage


def test_lineage_starts_with_the_dense_run(chain: Chain) -> None:
    registry = chain.registry()
    line = registry.lineage(registry.get(chain.finetune))
    assert [run.run_id for run in line] == [chain.dense, chain.prune, chain.finetune]


def test_a_deleted_parent_is_named(copied_chain: Chain) -> None:
    registry = copied_chain.registry()
    edit(copied_chain.store, "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", copied_chain.dense)
    with pytest.raises(RegistryError, match=f"run {copied_chain.prune} is gone: run {copied_chain.dense} was deleted"):
        registry.lineage(registry.get(copied_chain.finetune))


def test_a_lost_parent_tag_is_noticed(copied_chain: Chain) -> None:
    edit(copied_chain.store, "DELETE FROM tags WHERE key = 'mlflow.parentRunId' AND run_uuid = ?", copied_chain.prune)
    registry = copied_chain.registry()
    with pytest.raises(RegistryError, match=f"run {copied_chain.prune} has no parent"):
        registry.lineage(registry.get(copied_chain.prune))


# Who is at work


def test_a_stage_that_another_live_process_is_at_is_not_started_twice(registry: Registry) -> None:
    writer = registry.start(spec_of(), "first", None, {})
    with pytest.raises(RegistryError, match=f"{writer.run_id} .* is already running this stage"):
        registry.start(spec_of(), "second", None, {})
    registry.start(spec_of(seed=1), "another stage", None, {})
    assert [run.status for run in registry.search()] == ["RUNNING", "RUNNING"]


def test_a_run_of_another_host_with_a_fresh_heartbeat_is_not_taken_for_dead(registry: Registry) -> None:
    writer = registry.start(spec_of(), "first", None, {})
    writer.tag({OWNER: "elsewhere:1"})
    with pytest.raises(RegistryError, match="is already running this stage"):
        registry.start(spec_of(), "second", None, {})
    assert registry.get(writer.run_id).status == "RUNNING"


def test_a_run_whose_process_is_gone_is_marked_killed_and_started_anew(registry: Registry) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    dead = registry.start(spec_of(), "first", None, {})
    dead.tag({OWNER: f"{this_process().partition(':')[0]}:{process.pid}"})
    fresh = registry.start(spec_of(), "second", None, {})
    assert registry.get(dead.run_id).status == "KILLED"
    assert registry.get(fresh.run_id).status == "RUNNING"
    assert registry.get(fresh.run_id).tags[OWNER] == this_process()


# Experiments


def test_experiments_do_not_see_each_others_runs(copied_chain: Chain, cli: Cli) -> None:
    elsewhere = Registry(copied_chain.uri, "elsewhere")
    parent = ("--parent", copied_chain.dense, "--compression", "5", "--tracking-uri", copied_chain.uri)
    made = cli("prune", *parent, "--experiment", "elsewhere")
    assert [run.run_id for run in elsewhere.search()] == [made.run_id]
    assert made.run_id != copied_chain.prune
    assert cli("prune", *parent).run_id == copied_chain.prune


def test_the_experiment_given_wins_over_the_environment(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment")
    assert Registry(f"sqlite:///{store}").experiment == "from the environment"
    assert Registry(f"sqlite:///{store}", "given").experiment == "given"
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert Registry(f"sqlite:///{store}").experiment == "rewindctl"


def test_artifacts_lie_beside_the_store_in_a_folder_that_any_name_makes(store: Path) -> None:
    registry = Registry(f"sqlite:///{store}", "a b/ü:1")
    writer = registry.start(spec_of(), "a run", None, {})
    folder = folder_of(registry.get(writer.run_id))
    assert (folder / "spec.json").is_file()
    assert folder.parents[2] == store.parent / "mlruns"
    assert folder.parents[1].name.startswith("a_b___1-")


NAMES = ["a/b", "a_b", "a b", "..", ".", "/", "../..", "é" * 200, "x" * 499, "a.b", ".a.b"]


def test_every_experiment_has_a_folder_of_its_own_below_the_store(store: Path) -> None:
    client = Registry(f"sqlite:///{store}").client
    for name in NAMES:
        assert Registry(client.uri, name).experiment == name
    roots = [one.artifact_location for one in client.search_experiments() if one.name in NAMES]
    assert len(set(roots)) == len(NAMES)
    mlruns = (store.parent / "mlruns").as_uri()
    assert {root.rpartition("/")[0] for root in roots} == {mlruns}
    assert not any(root.rpartition("/")[2].startswith(".") for root in roots)


def test_a_folder_that_an_earlier_rewindctl_gave_to_another_name_is_not_shared(store: Path) -> None:
    client = Registry(f"sqlite:///{store}").client
    client.create_experiment("a/b", (store.parent / "mlruns" / "a_b").as_uri())
    Registry(client.uri, "a_b")
    roots = {one.name: one.artifact_location for one in client.search_experiments()}
    assert roots["a/b"] != roots["a_b"]


@pytest.mark.parametrize(
    ("name", "words"), [("", "''"), (" ", "' '"), ("a\nb", "control"), ("x" * 501, "500 characters")]
)
def test_a_name_that_no_experiment_is_to_have_is_refused(store: Path, cli: Cli, name: str, words: str) -> None:
    answer = cli("init", "--experiment", name, "--tracking-uri", f"sqlite:///{store}")
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 2)
    assert words in answer.err.splitlines()[0]


@pytest.mark.parametrize("left", ["gone", "deleted", "of another experiment"])
def test_variables_left_of_an_mlflow_run_neither_fail_nor_misplace_a_run(
    store: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    client = registry.client
    other = client.create_experiment("other")
    outer = client.create_run(other).info.run_id
    if left == "deleted":
        client.delete_run(outer)
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32 if left == "gone" else outer)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77" if left == "of another experiment" else other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    opened = Registry()
    writer = opened.start(spec_of(), "a run", None, {})
    nested = left == "of another experiment"  # the run's own counts
    assert opened.experiment == ("other" if nested else "rewindctl")
    assert opened.get(writer.run_id).tags.get("mlflow.parentRunId") == (outer if nested else None)


def test_a_deleted_experiment_is_refused_with_the_way_to_restore_it(store: Path, registry: Registry) -> None:
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{store}").delete_experiment(registry.experiment_id)
    with pytest.raises(RegistryError, match="experiment 'rewindctl' was deleted") as caught:
        Registry(f"sqlite:///{store}")
    assert f"mlflow experiments restore -x {registry.experiment_id}" in caught.value.hint


@pytest.mark.slow
def test_inside_mlflow_run_parents_are_kept_and_runs_go_to_its_experiment(
    store: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow alone would resume the project's run here, and drop the parent."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store}")
    experiment = client.create_experiment("project", artifact_location=(store.parent / "project").as_uri())
    outer = client.create_run(experiment)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", outer.info.run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    dense = cli("train-dense", *TINY).run_id
    answer = cli("prune", "--parent", dense, "--compression", "5")
    assert answer.code == 0, answer.err
    prune = client.get_run(answer.run_id)
    assert prune.data.tags["mlflow.parentRunId"] == dense != outer.info.run_id
    assert prune.info.experiment_id == client.get_run(dense).info.experiment_id == experiment
    after = client.get_run(outer.info.run_id)
    assert (after.data.to_dictionary(), after.info.status) == (outer.data.to_dictionary(), outer.info.status)


# Artifacts


def test_an_artifact_comes_back_with_the_bytes_of_its_manifest(chain: Chain) -> None:
    registry = chain.registry()
    run = registry.get(chain.dense)
    entry = registry.manifest(run)["spec.json"]
    path = registry.artifact(run, "spec.json")
    assert path.stat().st_size == entry["size"]
    assert json.loads(path.read_text()) == json.loads(run.tags["rewindctl.spec"])


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "longer"])
def test_a_damaged_artifact_is_refused(copied_chain: Chain, damage: str) -> None:
    registry = copied_chain.registry()
    run = registry.get(copied_chain.prune)
    path = folder_of(run) / "mask/mask.safetensors"
    data = path.read_bytes()
    changed = {"flipped bit": data[:-1] + bytes([data[-1] ^ 1]), "cut short": data[:-1], "longer": data + b"\0"}
    path.write_bytes(changed[damage])
    with pytest.raises(IntegrityError, match=rf"mask/mask\.safetensors of run {run.run_id} is damaged"):
        registry.artifact(run, "mask/mask.safetensors")


@pytest.mark.parametrize("name", ["mask/mask.safetensors", "manifest.json"])
def test_a_missing_artifact_is_named(copied_chain: Chain, name: str) -> None:
    registry = copied_chain.registry()
    run = registry.get(copied_chain.prune)
    (folder_of(run) / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name} of run {run.run_id} is missing"):
        registry.artifact(run, "mask/mask.safetensors")


def test_an_altered_manifest_vouches_for_nothing(copied_chain: Chain) -> None:
    registry = copied_chain.registry()
    run = registry.get(copied_chain.prune)
    path = folder_of(run) / "manifest.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(IntegrityError, match=f"the manifest of run {run.run_id} was altered"):
        registry.artifact(run, "mask/mask.safetensors")


def test_a_file_that_the_manifest_does_not_list_is_not_read(copied_chain: Chain) -> None:
    registry = copied_chain.registry()
    run = registry.get(copied_chain.prune)
    (folder_of(run) / "stranger.txt").write_text("hello")
    with pytest.raises(RegistryError, match=r"has no stranger\.txt"):
        registry.artifact(run, "stranger.txt")


@pytest.mark.slow
def test_a_relative_store_in_the_folder_of_a_project_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with pytest.raises(RegistryError, match="the run that mlflow run started is not in"):
        Registry()
    assert Registry(f"sqlite:///{store.parent / 'other.db'}", "ours").search() == [], "one that was asked for"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    assert Registry(None, "ours").search() == []
