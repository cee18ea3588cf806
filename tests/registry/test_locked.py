"""A SQLite store that another program holds locked: retried as an unreachable server is, and nothing is lost."""

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from conftest import TINY, Chain, Cli

from rewindctl.checks.verify import verify
from rewindctl.pipeline.train_run import RunObserver
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry.claiming import ownership
from rewindctl.registry.deleting.garbage import Survey
from rewindctl.registry.delivery import sender as delivery
from rewindctl.registry.delivery.outbox import Outbox, kept_folder
from rewindctl.registry.roots.binding import Binding
from rewindctl.registry.store import connect as opening
from rewindctl.registry.store import failures
from rewindctl.registry.store.client import Client
from rewindctl.registry.store.failures import AwayError
from rewindctl.training.records import Evaluation

LINE = ("train-dense", *TINY[:4], "--batch-size", "32", "--rewind-points", "6,12", "--iterations", "24")
LINE += ("--evaluate-every", "4", "--checkpoint-every", "0")
CURVES = ("train_loss", "lr", "test_loss", "test_accuracy")
LOCKED = "is held locked by another program"
HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=20)
connection.execute("BEGIN " + sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""

Curves = dict[str, list[tuple[int, float]]]
At = Callable[[int, Callable[[], object]], None]


class Holder:
    """Another program at a store."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self._process: subprocess.Popen[str] | None = None

    def lock(self, how: str = "EXCLUSIVE") -> None:
        """Nobody can write until it lets go; with EXCLUSIVE nobody can read either."""
        line = [sys.executable, "-I", "-S", "-c", HOLD, str(self.store), how]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "held\n"

    def let_go(self) -> None:
        if self._process is not None:
            self._process.communicate("")
            self._process = None


@pytest.fixture
def holder(store: Path) -> Iterator[Holder]:
    holder = Holder(store)
    yield holder
    holder.let_go()


def _sooner(
    connection: object, cursor: object, statement: str, parameters: object, context: object, many: bool
) -> tuple[str, object]:
    return statement.replace("busy_timeout = 20000", "busy_timeout = 100"), parameters


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SQLite says that it is locked after a tenth of a second, not after twenty."""
    monkeypatch.setattr(failures, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(opening, "BUSY_SECONDS", 0.1)
    monkeypatch.setenv("REWINDCTL_OUTAGE_SECONDS", "60")
    where: Any = (sqlalchemy.engine.Engine, "before_cursor_execute", _sooner)
    sqlalchemy.event.listen(*where, retval=True)
    yield
    sqlalchemy.event.remove(*where)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """Do something when a training has come to an iteration, all before its evaluation written, and it not yet."""
    todo: dict[int, Callable[[], object]] = {}
    evaluated = RunObserver.evaluated

    def hooked(self: RunObserver, evaluation: Evaluation) -> None:
        if evaluation.iteration in todo:
            self.background.wait()
            todo.pop(evaluation.iteration)()
        evaluated(self, evaluation)

    monkeypatch.setattr(RunObserver, "evaluated", hooked)
    return todo.__setitem__


def curves(registry: Registry, run: RunRecord) -> Curves:
    return {key: [(step, value) for step, _, value in sorted(registry.history(run, key))] for key in CURVES}


@pytest.fixture(scope="module")
def unbroken(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Curves:
    """The curves of the same training in a store that nobody locked."""
    from rewindctl.cli import run

    store = shutil.copy(empty_store, tmp_path_factory.mktemp("unbroken") / "mlflow.db")
    assert run([*LINE, "--tracking-uri", f"sqlite:///{store}", "--quiet"]) == 0
    registry = Registry(f"sqlite:///{store}")
    return curves(registry, registry.search()[0])


def whole(store: Path, unbroken: Curves) -> RunRecord:
    """The only run: finished, intact, every point once, nothing left here."""
    registry = Registry(f"sqlite:///{store}")
    (run,) = registry.search()
    assert run.finished
    assert verify(registry, run) == []
    assert curves(registry, run) == unbroken
    assert len(registry.client.search_model_versions()) == 1
    assert not list(kept_folder().glob("*"))
    return run


@pytest.fixture
def kept(cli: Cli, holder: Holder, at: At, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is left of a training whose store was locked to its end and beyond; it still is."""
    at(8, holder.lock)
    with monkeypatch.context() as patch:
        patch.setenv("REWINDCTL_OUTAGE_SECONDS", "0")
        answer = cli(*LINE)
    assert (answer.code, answer.out) == (1, "")
    (folder,) = kept_folder().iterdir()
    assert f"{LOCKED}, retried for 0 s: the results of run {folder.name} are kept in {folder}" in answer.err
    assert "hint: when the store answers again: rewindctl recover" in answer.err
    return folder


# During a training


@pytest.mark.parametrize("how", ["EXCLUSIVE", "IMMEDIATE"])
def test_a_training_goes_on_and_stands_still_once(
    cli: Cli, store: Path, holder: Holder, at: At, unbroken: Curves, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With IMMEDIATE the store can be read: that a heartbeat finds its run there does not mean that it takes one."""
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(ownership, "now", lambda: str(time.time_ns()))  # each beat a write, as those far apart are
    asked, deliver = list[object](), delivery.deliver
    at(8, lambda: holder.lock(how))
    at(12, lambda: monkeypatch.setattr(delivery, "deliver", lambda *what: (asked.append(what), deliver(*what))))
    at(16, lambda: time.sleep(0.5))
    at(24, lambda: (monkeypatch.setattr(delivery, "deliver", deliver), holder.let_go()))
    answer = cli(*LINE)
    assert answer.code == 0, answer.err
    assert asked == []
    assert answer.run_id == whole(store, unbroken).run_id


def test_the_end_of_a_run_waits_until_the_store_is_let_go(
    cli: Cli, store: Path, holder: Holder, at: At, unbroken: Curves
) -> None:
    def let_go_when_all_is_kept() -> None:
        while not any(Outbox(folder).complete for folder in kept_folder().glob("*") if Outbox.find(folder.name)):
            time.sleep(0.05)
        holder.let_go()

    at(8, holder.lock)
    at(12, threading.Thread(target=let_go_when_all_is_kept).start)
    answer = cli(*LINE)
    assert answer.code == 0, answer.err
    assert f"{LOCKED}; retrying for 60 s, the results are on disk" in answer.err
    whole(store, unbroken)


@pytest.mark.parametrize("command", [("recover",), LINE])
def test_what_could_not_be_written_within_the_limit_is_kept_and_uploaded(
    cli: Cli,
    store: Path,
    holder: Holder,
    kept: Path,
    unbroken: Curves,
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file() and path.name != "lock"}
    with monkeypatch.context() as patch:
        patch.setenv("REWINDCTL_OUTAGE_SECONDS", "0")
        still = cli(*command)
    assert (still.code, still.out) == (1, "")
    assert LOCKED in still.err.replace("\n", " ")
    assert {path: path.read_bytes() for path in before} == before
    holder.let_go()
    answer = cli(*command)
    assert (answer.code, answer.run_id) == (0, kept.name), answer.err
    assert whole(store, unbroken).run_id == kept.name


# From the beginning


@pytest.mark.parametrize("how", ["EXCLUSIVE", "IMMEDIATE"])
def test_a_stage_that_begins_meanwhile_waits(cli: Cli, store: Path, holder: Holder, unbroken: Curves, how: str) -> None:
    holder.lock(how)
    timer = threading.Timer(1, holder.let_go)
    timer.start()
    answer = cli(*LINE)
    timer.join()
    assert answer.code == 0, answer.err
    whole(store, unbroken)


def test_the_next_stage_of_a_command_waits(cli: Cli, copied_chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = Holder(copied_chain.store)
    timer = threading.Timer(1, holder.let_go)
    start = Registry.start

    def locked(*values: Any, **named: Any) -> Any:
        monkeypatch.setattr(Registry, "start", start)
        holder.lock()
        timer.start()
        return start(*values, **named)

    monkeypatch.setattr(Registry, "start", locked)
    answer = cli("prune", "--parent", copied_chain.dense, "--compression", "3", "--tracking-uri", copied_chain.uri)
    timer.join()
    assert answer.code == 0, answer.err
    registry = copied_chain.registry()
    assert verify(registry, registry.get(answer.run_id)) == []


@pytest.fixture
def sooner_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at whose the files are gives up after a tenth of a second too."""

    def connection(self: Binding) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=0.1)

    monkeypatch.setattr(Binding, "connection", connection)


@pytest.mark.usefixtures("sooner_bound")
def test_the_first_write_of_a_process_waits(copied_chain: Chain) -> None:
    registry, holder = copied_chain.registry(), Holder(copied_chain.store)
    for write in (
        lambda: registry.client.set_tag(copied_chain.dense, "key", "value"),
        lambda: copied_chain.registry().require_own_files(),
        lambda: Registry(copied_chain.uri, "another"),
    ):
        registry.client.binding.open(registry.experiment_id)
        holder.lock("EXCLUSIVE")
        timer = threading.Timer(1, holder.let_go)
        timer.start()
        write()
        timer.join()


@pytest.mark.usefixtures("sooner_bound")
def test_a_lock_at_the_look_at_whose_the_files_are_is_an_outage(copied_chain: Chain) -> None:
    registry, holder = copied_chain.registry(), Holder(copied_chain.store)
    survey = Survey(registry)
    holder.lock("EXCLUSIVE")
    for look in (registry.client.refuse_misplaced, registry.client.is_misplaced, lambda: survey.items):
        with pytest.raises(AwayError, match=LOCKED):
            look()
    holder.let_go()


READS = (("list",), ("verify", "--all"), ("compare",))


@pytest.mark.parametrize("command", [*READS, LINE, ("gc", "--yes")])
def test_a_store_that_stays_locked_is_one_line_and_leaves_nothing(
    cli: Cli, store: Path, holder: Holder, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("REWINDCTL_OUTAGE_SECONDS", "0.3")
    before = store.read_bytes()
    holder.lock()
    answer = cli(*command)
    holder.let_go()
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == (
        f"error: the tracking store sqlite:///{store} {LOCKED}\n"
        "hint: end that program or its transaction, then the same command goes on\n"
    )
    assert store.read_bytes() == before


def test_who_only_reads_does_not_wait_for_who_writes(copied_chain: Chain, cli: Cli) -> None:
    holder = Holder(copied_chain.store)
    holder.lock("IMMEDIATE")
    answer = cli("list", "--tracking-uri", copied_chain.uri, "--json")
    holder.let_go()
    assert len(json.loads(answer.out)) == 5


# In the midst of a command that changes much


def rows(store: Path) -> list[tuple[object, ...]]:
    """What there is of runs, but for what is different each time."""
    query = "SELECT runs.name, status, lifecycle_stage FROM runs ORDER BY runs.name, status, lifecycle_stage"
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture
def locked_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Holder, int], None]:
    """Let a program lock its store before a write of the client, chosen by its number."""

    def arm(holder: Holder, number: int) -> None:
        patiently, left = Client.patiently, [number]

        def counted(self: Client, call: Callable[[], Any], *, repeatable: bool = True) -> Any:
            left[0] -= 1
            if left[0] == 0:
                holder.lock()
            return patiently(self, call, repeatable=repeatable)

        monkeypatch.setattr(Client, "patiently", counted)

    return arm


def is_refused_and_done_again(cli: Cli, holder: Holder, *command: str) -> None:
    """One clear line where the lock came in between; the same command finishes what was begun, if anything was."""
    answer = cli(*command)
    holder.let_go()
    assert (answer.code, answer.out) == (1, "")
    assert LOCKED in answer.err
    assert answer.err.count("error: ") == 1
    assert cli(*command).code == 0


@pytest.mark.parametrize("number", [40, 50, 60])
def test_a_removal_that_a_lock_broke_into_is_finished_by_the_same_command(
    cli: Cli,
    copied_chain: Chain,
    locked_at: Callable[[Holder, int], None],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setenv("REWINDCTL_OUTAGE_SECONDS", "0")
    holder = Holder(copied_chain.store)
    locked_at(holder, number)
    line = ("remove", copied_chain.dense, "--recursive", "--yes", "--tracking-uri", copied_chain.uri)
    is_refused_and_done_again(cli, holder, *line)
    assert {row[2] for row in rows(copied_chain.store)} == {"deleted"}
    assert not list(copied_chain.store.parent.rglob("*.safetensors"))


@pytest.mark.parametrize("number", [20, 30])
def test_an_import_that_a_lock_broke_into_counts_for_nothing_and_is_done_again(
    cli: Cli,
    chain: Chain,
    store: Path,
    holder: Holder,
    tmp_path: Path,
    locked_at: Callable[[Holder, int], None],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    bundle = str(tmp_path / "all.bundle")
    assert cli("registry", "export", bundle, "--tracking-uri", chain.uri).code == 0
    monkeypatch.setenv("REWINDCTL_OUTAGE_SECONDS", "0")
    locked_at(holder, number)
    is_refused_and_done_again(cli, holder, "registry", "import", bundle)
    registry = Registry(f"sqlite:///{store}")
    runs = registry.search()
    assert [run.status for run in runs] == ["FINISHED"] * 5
    assert [problem for run in runs for problem in verify(registry, run)] == []
