"""A process that was stopped, its run taken over and finished meanwhile, writes nothing to it when it wakes."""

import os
import signal
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from conftest import TINY, Cli
from servers import Postgres, Server
from started import Started

from rewindctl.checks.verify import verify
from rewindctl.datasets import load_dataset
from rewindctl.errors import RegistryError
from rewindctl.pipeline import life
from rewindctl.pipeline.requests import dense_spec
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry.claiming import ownership
from rewindctl.registry.records import HEARTBEAT, NOTE, OWNER
from rewindctl.registry.runs.inputs import log_network
from rewindctl.registry.store.client import Client
from rewindctl.specs import DenseSpec
from rewindctl.system import processes
from rewindctl.system.files import state_folder

LINE = ("train-dense", *TINY[:4], "--batch-size", "32", "--rewind-points", "6,12", "--iterations", "200")
LINE += ("--evaluate-every", "50", "--checkpoint-every", "0")
SPEC = dense_spec("resnet8", load_dataset("digits"), 0, iterations=24)
ELSEWHERE = "elsewhere:1:1:00000000:1"
CURVES = ("train_loss", "lr", "test_loss", "test_accuracy")


def quick(under_way: Path) -> None:
    """In a process of its own: fractions of a second for what takes minutes; a file in a folder for each write."""
    ownership.HEARTBEAT_SECONDS, ownership.STALE_SECONDS = 0.2, 2.0
    ask_and_write = ownership.Lease.writing

    @contextmanager
    def marked(lease: ownership.Lease, *, ask: bool = False) -> Iterator[None]:
        mark = under_way / uuid.uuid4().hex
        mark.touch()
        try:
            with ask_and_write(lease, ask=ask):
                yield
        finally:
            mark.unlink()

    setattr(ownership.Lease, "writing", marked)  # noqa: B010


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is of another machine, which knows of others by their heartbeats alone."""
    monkeypatch.setattr(life, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(ownership, "STALE_SECONDS", 2.0)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.slow, pytest.mark.postgres])])
def registry(request: pytest.FixtureRequest) -> Registry:
    if request.param == "sqlite":
        return Registry(f"sqlite:///{request.getfixturevalue('store')}")
    postgres: Postgres = request.getfixturevalue("postgres")
    return Registry(postgres.make(f"fence-{time.time_ns()}", request.getfixturevalue("postgres_store")))


def taken_over(registry: Registry, run_id: str) -> None:
    registry.client.set_tag(run_id, OWNER, ELSEWHERE)


def ended(registry: Registry, run_id: str) -> None:
    registry.client.set_terminated(run_id, "KILLED")


WRITES: dict[str, Callable[[Client, str, DenseSpec], object]] = {
    "a metric": lambda client, run, spec: client.log_metric(run, "late", 1.0, 0, 1),
    "a tag": lambda client, run, spec: client.set_tag(run, NOTE, "late"),
    "a param": lambda client, run, spec: client.log_param(run, "late", "1"),
    "a heartbeat": lambda client, run, spec: client.set_tag(run, HEARTBEAT, "1"),
    "a tag less": lambda client, run, spec: client.delete_tag(run, HEARTBEAT),
    "its end": lambda client, run, spec: client.set_terminated(run, "FINISHED"),
    "its network": lambda client, run, spec: log_network(client, run, 24),
}


def everything(registry: Registry) -> list[object]:
    """What there is of runs, their models and versions."""
    client, where = registry.client, [registry.experiment_id]
    models = [model.model_id for model in client.search_logged_models(where)]
    return [*registry.search(), models, [one.run_id for one in client.search_model_versions()]]


@pytest.mark.parametrize(
    ("write", "lost"), [*((write, taken_over) for write in WRITES), ("a metric", ended), ("its end", ended)]
)
def test_a_database_takes_no_write_of_who_lost_the_run_after_the_last_look(
    registry: Registry, write: str, lost: Callable[[Registry, str], None]
) -> None:
    writer = registry.start(SPEC, "a run", None, {})
    lease = ownership.Lease(registry.client, writer.run_id, processes.clock())
    with lease.writing(ask=True):
        registry.client.set_tag(writer.run_id, NOTE, "in time")
    before = list[object]()

    def stop_for_long() -> None:
        lost(registry, writer.run_id)
        before.extend(everything(registry))

    def write_late() -> None:
        with lease.writing():
            other = threading.Thread(target=stop_for_long)
            other.start()
            other.join()
            WRITES[write](registry.client, writer.run_id, SPEC)

    with pytest.raises(RegistryError, match=r"was (taken over by elsewhere:1|ended)"):
        write_late()
    assert everything(registry) == before


# Processes


def stopped(uri: str, under_way: Path) -> Started:
    """A training in a process of its own, stopped some time after it has written its third evaluation.

    Not where a database would stay locked until it wakes; with a server not between its question and its write, which
    nobody can take back.
    """
    process = Started(*LINE, "--tracking-uri", uri, first=partial(quick, under_way))
    registry = Registry(uri)

    def evaluated() -> bool:
        return any(len(registry.curve(run, "test_accuracy")) >= 3 for run in registry.search())

    process.until(evaluated)
    while True:
        time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)
        database = uri.removeprefix("sqlite:///")
        if not (any(under_way.iterdir()) if database == uri else is_locked(Path(database))):
            return process
        process.send_signal(signal.SIGCONT)


def is_locked(store: Path) -> bool:
    with closing(sqlite3.connect(store, timeout=0)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return True
        connection.rollback()
    return False


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def history(registry: Registry, run: RunRecord) -> dict[str, list[tuple[int, float]]]:
    return {key: [(step, value) for step, _, value in sorted(registry.history(run, key))] for key in CURVES}


def woken_too_late(
    uri: str,
    cli: Cli,
    tmp_path: Path,
    unbroken: dict[str, list[tuple[int, float]]],
    depart: Callable[[], object] = lambda: None,
) -> None:
    """Stop a training, take its run over from elsewhere, finish it, and wake the first."""
    under_way = tmp_path / "writes-under-way"
    under_way.mkdir()
    process = stopped(uri, under_way)
    depart()
    answer = cli(*LINE, "--tracking-uri", uri)
    assert answer.code == 0, answer.err
    registry = Registry(uri)
    fingerprint = registry.get(answer.run_id).fingerprint
    before, here = registry.search(fingerprint=fingerprint), files(state_folder())
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "this one sent no heartbeat for too long" in err
    assert "hint: nothing finished is lost: the same command finds it" in err
    run = registry.get(answer.run_id)
    assert history(registry, run) == unbroken
    assert registry.search(fingerprint=fingerprint) == before
    assert verify(registry, run) == []
    assert files(state_folder()) == here
    again = cli(*LINE, "--tracking-uri", uri)
    assert (again.code, again.run_id, "reused" in again.err) == (0, answer.run_id, True)


@pytest.fixture(scope="module")
def unbroken(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, float]]]:
    """The curves of the same training in a process that was never stopped."""
    from rewindctl.cli import run

    store = tmp_path_factory.mktemp("unbroken") / "mlflow.db"
    store.write_bytes(empty_store.read_bytes())
    assert run([*LINE, "--tracking-uri", f"sqlite:///{store}", "--quiet"]) == 0
    registry = Registry(f"sqlite:///{store}")
    return history(registry, registry.search()[0])


@pytest.mark.slow
@pytest.mark.parametrize("state", ["shared", "own"])
def test_a_process_woken_after_another_finished_its_run_changes_nothing(
    store: Path,
    cli: Cli,
    tmp_path: Path,
    unbroken: dict[str, list[tuple[int, float]]],
    elsewhere: None,
    state: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one state folder for both machines, and with one each."""
    other = str(tmp_path / "elsewhere") if state == "own" else os.environ["XDG_STATE_HOME"]
    woken_too_late(f"sqlite:///{store}", cli, tmp_path, unbroken, lambda: monkeypatch.setenv("XDG_STATE_HOME", other))


@pytest.mark.slow
def test_a_process_woken_on_a_server_asks_before_it_writes(
    server: Server, cli: Cli, tmp_path: Path, unbroken: dict[str, list[tuple[int, float]]], elsewhere: None
) -> None:
    woken_too_late(server.uri, cli, tmp_path, unbroken)
