"""Baselines as versions of a registered model, and what an alias that was moved by hand does not stand for."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from conftest import TINY, Chain, Cli
from sealing import reseal
from servers import Server

from rewindctl.console import Console
from rewindctl.pipeline import Pipeline, run_stage
from rewindctl.pipeline.requests import dense_spec
from rewindctl.registry import Registry
from rewindctl.registry import shell_lookup as glance
from rewindctl.registry.delivery.recovery import register_rest
from rewindctl.registry.models import longer_baseline
from rewindctl.registry.runs.manifest import MANIFEST_FILE, RECORD_FILE
from rewindctl.registry.runs.opening import open_report
from rewindctl.registry.store.address import local_path
from rewindctl.specs import DenseSpec

MODEL = "resnet8-digits-dense"
ALIASES = "registered_model_aliases"
ALIAS = f"models:/{MODEL}@seed-0"


def edit(store: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute(statement, values)


def versions(registry: Registry) -> list[str]:
    return [one.run_id for one in registry.client.search_model_versions(f"name = '{MODEL}'")]


def move(registry: Registry, run_id: str | None) -> None:
    """The alias to a new version of a run, by hand."""
    made = registry.client.create_model_version(MODEL, "file:///elsewhere", run_id)
    registry.client.set_registered_model_alias(MODEL, "seed-0", made.version)


# Registered when finished


def test_the_alias_moves_to_the_newest_of_equally_long_baselines(copied_chain: Chain, cli: Cli) -> None:
    again = cli("train-dense", *TINY, "--seed", "0", "--force", "--tracking-uri", copied_chain.uri)
    registry = copied_chain.registry()
    assert registry.resolve(ALIAS).run_id == again.run_id
    registry.register(registry.get(copied_chain.dense))  # the older one, once more
    assert registry.resolve(ALIAS).run_id == again.run_id
    assert sorted(versions(registry)) == sorted([copied_chain.dense, again.run_id])


@pytest.fixture
def opened(store: Path) -> Registry:
    """Opened before a test adds the trigger that a store must not have."""
    return Registry(f"sqlite:///{store}")


@contextmanager
def refusing(store: Path, table: str) -> Iterator[None]:
    edit(store, f"CREATE TRIGGER full BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no room'); END")
    yield
    edit(store, "DROP TRIGGER full")


@pytest.mark.parametrize("table", ["registered_models", "model_versions", "registered_model_aliases"])
def test_a_training_that_cannot_be_registered_is_finished_and_is_registered_later(
    store: Path, opened: Registry, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    pipeline = Pipeline(lambda: opened, Console(), "cpu")
    spec = dense_spec("resnet8", pipeline.dataset("digits"), 0, iterations=24, batch_size=32)
    with refusing(store, table):
        trained = run_stage(pipeline, spec).run
        note = f"note: run {trained.run_id} is finished, but not registered as a version of {MODEL}: "
        assert note in capsys.readouterr().err
        assert run_stage(pipeline, spec).run.run_id == trained.run_id
        assert note in (told := capsys.readouterr().err)
        assert "then rewindctl recover" in told
        rest = register_rest(opened)
        assert [(one.run_id, one.state) for one in rest] == [(trained.run_id, "failed")] * (table != ALIASES)
    assert opened.get(trained.run_id).finished
    assert run_stage(pipeline, spec).reused
    assert (opened.resolve(ALIAS).run_id, versions(opened)) == (trained.run_id, [trained.run_id])
    assert "note" not in capsys.readouterr().err


def test_recover_registers_baselines_that_are_no_versions(copied_chain: Chain, cli: Cli) -> None:
    registry = copied_chain.registry()
    registry.client.delete_registered_model(MODEL)
    at = ("--tracking-uri", copied_chain.uri)
    planned = cli("recover", "--dry-run", *at)
    assert (planned.code, planned.out, versions(registry)) == (0, "", [])
    assert f"is no version of {MODEL} yet" in planned.err
    done = cli("recover", *at)
    assert (done.code, done.run_id, versions(registry)) == (0, copied_chain.dense, [copied_chain.dense])
    assert registry.resolve(ALIAS).run_id == copied_chain.dense
    again = cli("recover", *at)
    assert (again.code, again.out) == (0, "")


def test_recover_makes_no_store(cli: Cli, tmp_path: Path) -> None:
    answer = cli("recover")
    assert (answer.code, answer.out, answer.err) == (0, "", "no results are kept here\n")
    assert not (tmp_path / "mlflow.db").exists()


def test_recover_makes_no_experiment(store: Path, cli: Cli) -> None:
    before = store.read_bytes()
    for line in (("recover", "--dry-run"), ("recover",)):
        answer = cli(*line)
        assert (answer.code, answer.out, answer.err) == (0, "", "no results are kept here\n")
    wrong = cli("recover", "--experiment", "nowhere")
    assert (wrong.code, "nowhere" in wrong.err) == (2, True)
    assert store.read_bytes() == before


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_recover_did_is_told_though_baselines_cannot_be_looked_for(
    copied_chain: Chain, cli: Cli, form: tuple[str, ...]
) -> None:
    """What is kept for one store is listed and uploaded where another is asked for its baselines, and is away."""
    registry = copied_chain.registry()
    writer = open_report(registry.client, registry.experiment_id, "kept", "")
    writer.seal()
    writer._keep(writer._end_entry())
    writer.fail(KeyboardInterrupt())
    line = ("recover", *form, "--tracking-uri", "http://127.0.0.1:9")
    planned = cli(*line, "--dry-run")
    assert (planned.code, writer.run_id in planned.out) == (0, bool(form))
    assert writer.run_id in planned.out + planned.err
    assert "note: unregistered baselines were not searched for: the tracking server" in planned.err
    done = cli(*line)
    assert (done.code, writer.run_id in done.out) == (1, True), done
    assert "error: unregistered baselines were not searched for: the tracking server" in done.err
    assert registry.get(writer.run_id).finished


def test_a_damaged_baseline_that_is_no_version_stops_no_recover(copied_chain: Chain, cli: Cli) -> None:
    registry = copied_chain.registry()
    registry.client.delete_registered_model(MODEL)
    folder = local_path(registry.get(copied_chain.dense).artifact_uri)
    assert folder is not None
    (folder / RECORD_FILE).write_text("{}")
    (folder / MANIFEST_FILE).write_text("{}")
    registry.client.set_tag(copied_chain.dense, "rewindctl.device", "edited")
    assert copied_chain.registry().get(copied_chain.dense).damage
    answer = cli("recover", "--tracking-uri", copied_chain.uri)
    assert (answer.code, answer.out, versions(registry)) == (0, "", [])


def test_the_version_that_an_earlier_rewindctl_made_of_a_killed_run_goes(copied_chain: Chain, cli: Cli) -> None:
    registry = copied_chain.registry()
    registry.client.set_terminated(copied_chain.dense, "KILLED")
    trained = cli("train-dense", *TINY, "--seed", "0", "--tracking-uri", copied_chain.uri)
    assert versions(registry) == [trained.run_id]
    assert registry.resolve(ALIAS).run_id == trained.run_id


# Moved by hand

Case = Callable[[Registry, Chain], str | None]


def of_another_model(registry: Registry, chain: Chain) -> str:
    reseal(registry, chain.dense, {"rewindctl.model": "resnet20"})
    return chain.dense


def of_another_seed(registry: Registry, chain: Chain) -> str:
    reseal(registry, chain.dense, {"rewindctl.seed": "7"})
    return chain.dense


def unfinished(registry: Registry, chain: Chain) -> str:
    registry.client.update_run(chain.dense, status="KILLED")
    return chain.dense


def deleted(registry: Registry, chain: Chain) -> str:
    registry.client.delete_run(chain.dense)
    return chain.dense


ODD: dict[str, tuple[Case, str]] = {
    "without a run": (lambda registry, chain: None, "which has no run"),
    "with an empty run": (lambda registry, chain: "", "which has no run"),
    "of a prune run": (lambda registry, chain: chain.prune, "is of the kind prune"),
    "of a retraining": (lambda registry, chain: chain.lr_rewind, "is of the kind retrain"),
    "of a run that is nowhere": (lambda registry, chain: "f" * 32, "no run"),
    "of another model": (of_another_model, "is of resnet20-digits-dense, seed 0"),
    "of another seed": (of_another_seed, f"is of {MODEL}, seed 7"),
    "of an unfinished run": (unfinished, "is KILLED"),
    "of a deleted run": (deleted, "was deleted"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_baseline_is_none_wherever_an_alias_is_read(copied_chain: Chain, cli: Cli, case: str) -> None:
    make, words = ODD[case]
    registry, at = copied_chain.registry(), ("--tracking-uri", copied_chain.uri)
    spec = registry.get(copied_chain.dense).spec
    assert isinstance(spec, DenseSpec)
    move(registry, make(registry, copied_chain))
    assert longer_baseline(registry.client, spec.model_copy(update={"iterations": 1})) is None
    for line in (("prune", "--sparsity", "0.5", "--parent"), ("show",), ("iterate", "--until", "0.9", "--parent")):
        answer = cli(*line, ALIAS, *(["--method", "finetune"] if "iterate" in line else []), *at)
        assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 2), answer
        assert words in answer.err.splitlines()[0]
    if "another" not in case:
        assert glance.baselines(copied_chain.uri) == []
    trained = cli("train-dense", *TINY, "--seed", "0", "--force", *at)
    assert trained.code == 0, trained.err
    assert "note" not in trained.err
    assert registry.resolve(ALIAS).run_id == trained.run_id


def test_no_alias_moves_to_what_is_no_baseline(copied_chain: Chain, cli: Cli) -> None:
    registry = copied_chain.registry()
    for run_id in (None, "", copied_chain.prune):
        registry.client.create_model_version(MODEL, "file:///elsewhere", run_id, {"rewindctl.seed": "0"})
    assert cli("remove", copied_chain.dense, "--recursive", "--yes", "--tracking-uri", copied_chain.uri).code == 0
    assert registry.client.get_registered_model(MODEL).aliases == {}


@pytest.mark.slow
def test_on_a_server_a_version_without_a_run_is_no_baseline_either(server: Server, cli: Cli) -> None:
    at = ("--tracking-uri", server.uri, "--experiment", "hand")
    trained = cli("train-dense", *TINY, "--seed", "31", *at)
    assert trained.code == 0, trained.err
    registry = Registry(server.uri, "hand")
    made = registry.client.create_model_version(MODEL, "s3://elsewhere/x", "")
    registry.client.set_registered_model_alias(MODEL, "seed-31", made.version)
    alias = f"models:/{MODEL}@seed-31"
    answer = cli("prune", "--parent", alias, "--sparsity", "0.5", *at)
    assert (answer.code, f"{alias} names version {made.version}, which has no run" in answer.err) == (2, True)
    again = cli("train-dense", *TINY, "--seed", "31", "--force", *at)
    assert again.code == 0, again.err
    assert registry.resolve(alias).run_id == again.run_id
