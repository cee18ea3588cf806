"""The same chain on a real MLflow server: the same bytes, tags, params and metrics as on SQLite."""

import json
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import lengths
import pandas as pd
import pytest
from conftest import TINY, Chain, Cli
from servers import BACKENDS, Server
from started import Started

from rewindctl.checks.verify import verify
from rewindctl.cli import run as run_command
from rewindctl.errors import BusyError, RegistryError
from rewindctl.registry import Registry, RunRecord, RunWriter
from rewindctl.registry import records as tag
from rewindctl.registry.bundle import export_bundle, import_bundle, matching, select
from rewindctl.registry.bundle.merge import discard
from rewindctl.registry.store.connect import connect
from rewindctl.report.frame import tidy_frame
from rewindctl.system.files import sha256

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", BACKENDS, indirect=True)]

STAGES = ("dense", "prune", "finetune", "weight_rewind", "lr_rewind")
# What differs between two runs of one stage: IDs, the process, and files that hold the two or times.
OWN = {
    tag.PARENT,
    tag.DENSE_RUN,
    tag.WEIGHTS_FROM,
    tag.OWNER,
    tag.HEARTBEAT,
    tag.MANIFEST,
    tag.RECORD,
    tag.NOTE,
    "mlflow.user",
}
MEASURED_TIMES = {"duration_seconds", "iterations_per_second"}


@pytest.fixture(scope="session")
def made(server: Server) -> dict[str, RunRecord]:
    """The stages of `chain`, by the same commands, on the server."""

    def make(*arguments: str) -> RunRecord:
        registry = Registry(server.uri)
        before = {run.run_id for run in registry.search()}
        assert run_command([*arguments, "--tracking-uri", server.uri, "--quiet"]) == 0
        return next(run for run in registry.search() if run.run_id not in before)

    runs = {"dense": make("train-dense", *TINY, "--seed", "0")}
    runs["prune"] = make("prune", "--parent", runs["dense"].run_id, "--compression", "5")
    for method, extra in {"finetune": (), "weight_rewind": ("--k", "6"), "lr_rewind": ()}.items():
        runs[method] = make("retrain", "--parent", runs["prune"].run_id, "--method", method, *extra)
    return runs


@pytest.fixture(params=STAGES)
def pair(request: pytest.FixtureRequest, made: dict[str, RunRecord], chain: Chain) -> tuple[RunRecord, RunRecord]:
    """A stage on the server, and on SQLite."""
    return made[request.param], chain.registry().get(getattr(chain, request.param))


Pair = tuple[RunRecord, RunRecord]


def test_every_network_and_mask_has_the_same_bytes(pair: Pair, server: Server, chain: Chain) -> None:
    remote, local = Registry(server.uri), chain.registry()
    manifests = remote.manifest(pair[0]), local.manifest(pair[1])
    names = [name for name in manifests[0] if name.endswith((".safetensors", ".csv", ".png"))]
    assert any(name.endswith(".safetensors") for name in names)
    for name in names:
        assert manifests[0][name] == manifests[1][name], name
        assert sha256(remote.artifact(pair[0], name)) == sha256(local.artifact(pair[1], name)), name


def test_artifacts_are_the_same_and_kept_by_the_server(pair: Pair, server: Server, chain: Chain) -> None:
    names = set(Registry(server.uri).manifest(pair[0]))
    assert names == set(chain.registry().manifest(pair[1]))
    (folder,) = server.artifacts.rglob(f"{pair[0].run_id}/artifacts")
    kept = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert kept == names | {"manifest.json"}


def test_params_and_metrics_are_the_same(pair: Pair) -> None:
    over_http, over_sqlite = pair
    assert over_http.params == over_sqlite.params
    assert set(over_http.metrics) == set(over_sqlite.metrics)
    for name in {name for name in over_http.metrics if not name.startswith("system/")} - MEASURED_TIMES:
        assert over_http.metrics[name] == over_sqlite.metrics[name], name


def test_tags_are_the_same_but_for_run_ids(pair: Pair) -> None:
    tags = [{key: value for key, value in run.tags.items() if key not in OWN} for run in pair]
    assert tags[0] == tags[1]
    assert set(pair[0].tags) == set(pair[1].tags)
    assert pair[0].fingerprint == pair[1].fingerprint


def test_a_spec_of_any_length_is_whole(server: Server) -> None:
    lengths.check(server.uri, "lengths")


def test_inputs_and_outputs_are_the_same_but_for_ids(pair: Pair, server: Server, chain: Chain) -> None:
    runs = [
        client.get_run(run.run_id) for client, run in zip((connect(server.uri), connect(chain.uri)), pair, strict=True)
    ]
    data = [[(i.dataset.to_dictionary(), i.tags[0].value) for i in run.inputs.dataset_inputs] for run in runs]
    assert data[0] == data[1]
    models = [(len(run.inputs.model_inputs), [model.step for model in run.outputs.model_outputs]) for run in runs]
    assert models[0] == models[1]


def test_parents_and_sources_are_those_of_the_server(made: dict[str, RunRecord]) -> None:
    dense, prune = made["dense"].run_id, made["prune"].run_id
    assert made["prune"].parent_id == dense
    for method, iteration in (("finetune", 24), ("weight_rewind", 6), ("lr_rewind", 24)):
        assert made[method].parent_id == prune
        assert made[method].tags[tag.WEIGHTS_FROM] == f"{dense}@{iteration}"


def test_the_registered_model_resolves_by_its_alias(made: dict[str, RunRecord], server: Server) -> None:
    registry = Registry(server.uri)
    assert registry.resolve("models:/resnet8-digits-dense@seed-0").run_id == made["dense"].run_id
    assert registry.resolve(made["prune"].run_id[:8]).run_id == made["prune"].run_id


def test_the_same_commands_reuse_every_run(made: dict[str, RunRecord], server: Server, cli: Cli) -> None:
    before = len(Registry(server.uri).search())
    at = ("--tracking-uri", server.uri)
    prune = made["prune"].run_id
    assert cli("train-dense", *TINY, *at).run_id == made["dense"].run_id
    alias = "models:/resnet8-digits-dense@seed-0"
    assert cli("prune", "--parent", alias, "--sparsity", "0.8", *at).run_id == prune
    again = cli("retrain", "--parent", prune[:8], "--method", "lr_rewind", "--json", *at)
    assert json.loads(again.out)["run_id"] == made["lr_rewind"].run_id
    assert json.loads(again.out)["reused"] is True
    assert len(Registry(server.uri).search()) == before


def test_what_reads_runs_reads_the_server(made: dict[str, RunRecord], server: Server, cli: Cli) -> None:
    at = ("--tracking-uri", server.uri)
    assert made["lr_rewind"].run_id in cli("list", *at).out
    assert cli("lineage", made["finetune"].run_id, *at).out.split()[0] == made["dense"].run_id
    assert "checkpoints/final.safetensors" in cli("show", made["dense"].run_id, *at).out
    assert cli("compare", *at).out.count("one-shot") == 3


def test_stdout_is_the_run_id_alone_and_quiet_is_silent(made: dict[str, RunRecord], server: Server, cli: Cli) -> None:
    """MLflow alone prints the addresses of run and experiment here, and a bar for each download."""
    line = ("--method", "rewind", "--weights-k", "6", "--lr-k", "12", "--experiment", "quiet")
    answer = cli("retrain", "--parent", made["prune"].run_id, *line, "--quiet", "--tracking-uri", server.uri)
    assert answer.out == f"{Registry(server.uri).resolve(answer.run_id).run_id}\n"
    assert (answer.code, answer.err) == (0, "")


def refusals(made: dict[str, RunRecord]) -> dict[str, tuple[tuple[str, ...], int, str]]:
    return {
        "no run": (("show", "f" * 32), 2, f"no run '{'f' * 32}'"),
        "no prefix": (("show", "f" * 10), 2, f"no run starts with '{'f' * 10}'"),
        "no alias": (
            ("show", "models:/resnet8-digits-dense@seed-9"),
            2,
            "no model models:/resnet8-digits-dense@seed-9",
        ),
        "no model": (("show", "models:/nothing@seed-0"), 2, "no model models:/nothing@seed-0"),
        "kind": (("iterate", "--parent", made["prune"].run_id, "--method", "lr_rewind"), 2, "a dense run is needed"),
        "ui": (("ui",), 1, "is a tracking server"),
    }


@pytest.mark.parametrize("case", ["no run", "no prefix", "no alias", "no model", "kind", "ui"])
def test_refusals_are_those_of_sqlite(made: dict[str, RunRecord], server: Server, cli: Cli, case: str) -> None:
    line, code, words = refusals(made)[case]
    answer = cli(*line, "--tracking-uri", server.uri)
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith("error: ")
    assert words in answer.err.splitlines()[0]


BREAKS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "damaged": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
}


@pytest.mark.parametrize("damage", BREAKS)
def test_a_broken_file_on_the_server_is_named(
    made: dict[str, RunRecord], server: Server, cli: Cli, damage: str
) -> None:
    target = {"missing": "0.5", "damaged": "0.6"}[damage]
    parent = ("--parent", made["dense"].run_id, "--sparsity", target, "--tracking-uri", server.uri)
    prune = cli("prune", *parent, "--experiment", "broken").run_id
    (mask,) = server.artifacts.rglob(f"{prune}/artifacts/mask/mask.safetensors")
    BREAKS[damage](mask)
    line = ("--method", "lr_rewind", "--tracking-uri", server.uri, "--experiment", "broken")
    answer = cli("retrain", "--parent", prune, *line)
    assert answer.code == 1
    assert f"mask/mask.safetensors of run {prune} is {damage}" in answer.err


def test_of_many_that_start_a_stage_one_gets_it(server: Server, chain: Chain) -> None:
    gate, got = threading.Barrier(8), []

    def start() -> None:
        registry = Registry(server.uri, "contended")
        gate.wait()
        try:
            got.append(registry.start(chain.registry().get(chain.dense).spec, "a run", None, {}))
        except BusyError as error:
            got.append(error)

    threads = [threading.Thread(target=start) for _ in range(gate.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [one for one in got if isinstance(one, RunWriter)]
    assert len(got) == gate.parties
    assert [run.run_id for run in Registry(server.uri, "contended").search()] == [winner.run_id]
    winner.fail(KeyboardInterrupt())


@pytest.mark.slow
def test_of_many_processes_that_start_a_stage_one_runs_it(server: Server) -> None:
    # Of a seed of its own: the alias of a seed goes to its newest run, in whatever experiment.
    line = ("train-dense", *TINY, "--seed", "6", "--experiment", "many", "--tracking-uri", server.uri)
    started = [Started(*line) for _ in range(5)]
    answers = [one.communicate(timeout=300) for one in started]
    (run,) = Registry(server.uri, "many").search()
    assert run.finished
    assert [one.returncode for one in started] == [0] * len(started), answers
    assert [out for out, _ in answers] == [f"{run.run_id}\n"] * len(started)


@pytest.fixture
def tree(server: Server, cli: Cli) -> dict[str, str]:
    """A baseline with a mask and a retraining, in an experiment of their own."""
    at = ("--tracking-uri", server.uri, "--experiment", "removed")
    dense = cli("train-dense", *TINY, "--seed", "5", *at).run_id
    prune = cli("prune", "--parent", dense, "--sparsity", "0.5", *at).run_id
    return {
        "dense": dense,
        "prune": prune,
        "retrain": cli("retrain", "--parent", prune, "--method", "lr_rewind", *at).run_id,
    }


def kept_files(server: Server, runs: dict[str, str]) -> list[Path]:
    return [path for run in runs.values() for path in server.artifacts.rglob(f"{run}/artifacts/**/*")]


@pytest.mark.slow
def test_removal_gives_the_servers_disk_back(tree: dict[str, str], server: Server, cli: Cli) -> None:
    at = ("--tracking-uri", server.uri, "--experiment", "removed")
    sizes = sum(path.stat().st_size for path in kept_files(server, tree) if path.is_file())
    refused = cli("remove", tree["dense"], *at)
    assert refused.code == 2
    assert "has 2 live descendants" in refused.err
    line = ("remove", "models:/resnet8-digits-dense@seed-5", "--recursive", *at)
    planned = json.loads(cli(*line, "--dry-run", "--json").out)
    assert [row["run_id"] for row in planned["runs"]] == [tree["retrain"], tree["prune"], tree["dense"]]
    assert planned["bytes"] == sizes > 0
    assert cli(*line, "--yes").out.split() == [tree["retrain"], tree["prune"], tree["dense"]]
    assert [path for path in kept_files(server, tree) if path.is_file()] == []
    assert Registry(server.uri, "removed").search() == []
    assert cli("show", "models:/resnet8-digits-dense@seed-5", *at).code == 2


@pytest.mark.slow
def test_gc_finds_what_was_deleted_on_the_server(
    tree: dict[str, str], server: Server, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # other tests' temporary files are not this one's
    at = ("--tracking-uri", server.uri, "--experiment", "removed")
    connect(server.uri).delete_run(tree["retrain"])
    listed = json.loads(cli("gc", "--json", *at).out)
    assert [item["what"] for item in listed["classes"]["deleted"]["items"]] == [tree["retrain"]]
    assert any("the store is a server" in note for note in listed["notes"])
    done = cli("gc", "--yes", *at)
    assert done.code == 0, done.err
    assert [path for path in kept_files(server, {"retrain": tree["retrain"]}) if path.is_file()] == []
    assert cli("verify", tree["prune"], *at).code == 0
    connect(server.uri).delete_run(tree["dense"])
    listed = json.loads(cli("gc", "--json", *at).out)
    assert [item["what"] for item in listed["classes"]["orphans"]["items"]] == [tree["prune"]]
    assert cli("gc", "--yes", "--orphans", *at).code == 0
    assert [path for path in kept_files(server, tree) if path.is_file()] == []


def travelled(source: Registry, target: Registry, path: Path, checkpoints: bool = True) -> dict[str, str]:
    """Export all of `source` and import it into `target`: old run IDs to new ones."""
    export_bundle(source, select(source, matching()), path, checkpoints)
    return import_bundle(lambda: target, [path]).runs


def histories(registry: Registry, run_id: str) -> dict[str, list[tuple[int, int, float]]]:
    run = registry.get(run_id)
    return {key: sorted(registry.shown_history(run, key)) for key in run.metrics}


def numbers(registry: Registry) -> pd.DataFrame:
    return tidy_frame(registry).drop(columns=["run_id", "prune_run_id", "dense_run_id"])


@pytest.mark.slow
def test_a_registry_travels_to_a_server_and_back(chain: Chain, server: Server, store: Path, tmp_path: Path) -> None:
    registries = [chain.registry(), Registry(server.uri, "travelled"), Registry(f"sqlite:///{store}")]
    there = travelled(registries[0], registries[1], tmp_path / "there")
    back = travelled(registries[1], registries[2], tmp_path / "back")
    for old, new in there.items():
        runs = list(zip(registries, (old, new, back[new]), strict=True))
        first, *others = [histories(*run) for run in runs]
        assert others == [first, first]
        records = [registry.get(run_id) for registry, run_id in runs]
        assert (
            len({(run.name, run.started, run.ended, run.fingerprint, run.tags[tag.MANIFEST]) for run in records}) == 1
        )
        assert records[2].parent_id == (back[records[1].parent_id] if records[1].parent_id else None)
    for registry in registries[1:]:
        assert [problem for run in registry.search() for problem in verify(registry, run)] == []
        pd.testing.assert_frame_equal(numbers(registry), numbers(registries[0]))
    assert travelled(registries[0], registries[1], tmp_path / "again") == there


@pytest.mark.slow
def test_work_goes_on_where_a_server_got_its_runs(chain: Chain, server: Server, cli: Cli, tmp_path: Path) -> None:
    runs = travelled(chain.registry(), Registry(server.uri, "worked"), tmp_path / "bundle")
    at = ("--tracking-uri", server.uri, "--experiment", "worked")
    parent = ("--parent", runs[chain.prune], *at)
    assert cli("retrain", "--method", "lr_rewind", *parent).run_id == runs[chain.lr_rewind]
    assert cli("retrain", "--method", "weight_rewind", "--k", "12", *parent).code == 0
    assert cli("verify", "--all", *at).code == 0


@pytest.mark.slow
def test_a_server_keeps_what_was_left_out_apart_from_damage(
    chain: Chain, server: Server, cli: Cli, tmp_path: Path
) -> None:
    target = Registry(server.uri, "light")
    runs = travelled(chain.registry(), target, tmp_path / "light", checkpoints=False)
    at = ("--tracking-uri", server.uri, "--experiment", "light")
    assert "4 of them are without checkpoints" in cli("verify", "--all", *at).err
    assert travelled(chain.registry(), target, tmp_path / "bundle") == runs
    answer = cli("verify", "--all", *at)
    assert (answer.code, "without checkpoints" in answer.err) == (0, False)


def test_a_run_discarded_on_a_server_leaves_no_file(chain: Chain, server: Server, tmp_path: Path) -> None:
    target = Registry(server.uri, "discarded")
    for run_id in reversed(travelled(chain.registry(), target, tmp_path / "bundle").values()):
        discard(target, target.get(run_id))
        assert [path for path in server.artifacts.rglob("*") if run_id in str(path) and path.is_file()] == []
    assert target.search() == []


def test_a_server_that_fails_midway_is_left_as_it_was(chain: Chain, server: Server, tmp_path: Path) -> None:
    target = Registry(server.uri, "failing")
    before = {path for path in server.artifacts.rglob("*") if path.is_file()}
    with server.refusing("params", "NEW.key = 'k' AND NEW.value = '6'"), pytest.raises(RegistryError, match="store"):
        travelled(chain.registry(), target, tmp_path / "bundle")
    assert target.search() == []
    assert {path for path in server.artifacts.rglob("*") if path.is_file()} == before
    assert len(travelled(chain.registry(), target, tmp_path / "again")) == len(target.search()) == 5
