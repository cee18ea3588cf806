"""Whose run it is: who is dead and who lives, the heartbeat, and one owner however many start or take over a stage."""

import os
import pickle
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import quickly

from rewindctl.datasets import load_dataset
from rewindctl.errors import BusyError, RegistryError
from rewindctl.pipeline.requests import dense_spec
from rewindctl.registry import OwnerWatch, Registry, RunRecord, RunWriter
from rewindctl.registry.claiming import claim, ownership
from rewindctl.registry.claiming.ownership import is_gone, this_process
from rewindctl.registry.records import HEARTBEAT, OWNER, TICKET
from rewindctl.registry.runs.writer import resume_file
from rewindctl.specs import DenseSpec, PruneSpec

HOST, PID, START, BOOT, SPACE = this_process().split(":")
ELSEWHERE = f"elsewhere:{PID}:{START}:{BOOT}:{SPACE}"
ALL = 8


def spec_of(seed: int = 0) -> DenseSpec:
    return dense_spec("resnet8", load_dataset("digits"), seed, iterations=24)


@pytest.fixture
def registry(store: Path) -> Registry:
    return Registry(f"sqlite:///{store}")


@pytest.fixture
def writer(registry: Registry) -> RunWriter:
    return registry.start(spec_of(), "a run", None, {})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fractions of a second for what takes minutes."""
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(ownership, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(claim, "CHOOSING_SECONDS", 0.3)


def edit(store: Path, sql: str, *values: object) -> None:
    """Change a store behind the registry's back."""
    with closing(sqlite3.connect(store, timeout=20)) as connection, connection:
        assert connection.execute(sql, values).rowcount > 0


def set_tag(store: Path, run_id: str, key: str, value: str) -> None:
    edit(store, "UPDATE tags SET value = ? WHERE key = ? AND run_uuid = ?", value, key, run_id)


def until(condition: Callable[[], bool]) -> None:
    while not condition():  # a test that waits in vain ends by the time limit of all tests
        time.sleep(0.02)


def ended() -> int:
    """The pid of a process that is gone."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


# Dead or alive


def test_an_owner_is_this_host_process_start_boot_and_namespace() -> None:
    assert (socket.gethostname(), str(os.getpid())) == (HOST, PID)
    assert START.isdecimal()
    assert Path("/proc/sys/kernel/random/boot_id").read_text().startswith(BOOT)
    assert len(BOOT) == 8
    assert SPACE in str(Path("/proc/self/ns/pid").readlink())


def test_a_process_of_this_host_is_gone_or_not() -> None:
    now = time.time()
    for alive in (this_process(), f"{HOST}:{PID}", f"{HOST}:1", f"{HOST}:{PID}:{START}"):
        assert is_gone(alive, now) is False, alive
    for dead in (f"{HOST}:{ended()}", f"{HOST}:{ended()}:1:{BOOT}:{SPACE}", f"{HOST}:{10**30}"):
        assert is_gone(dead, now) is True, dead


def test_a_reused_pid_is_another_process() -> None:
    assert is_gone(f"{HOST}:{PID}:{int(START) - 1}:{BOOT}:{SPACE}", time.time()) is True


def test_a_process_that_ended_and_was_not_reaped_is_gone() -> None:
    process = subprocess.Popen(["true"])
    until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert is_gone(f"{HOST}:{process.pid}", time.time()) is True
    process.wait()


@pytest.mark.parametrize(
    "owner",
    [ELSEWHERE, f"{HOST}:{PID}:{START}:{BOOT}:1", f"{HOST}:", "", ":::::::", "x"],
    ids=["machine", "container", "host", "none", "colons", "word"],
)
def test_of_another_machine_or_container_only_the_heartbeat_tells(owner: str) -> None:
    assert is_gone(owner, time.time()) is None


def test_a_machine_started_anew_has_none_of_its_old_processes() -> None:
    """A machine of the same name that is another one has beaten since this one was started."""
    owner = f"{HOST}:{PID}:{START}:00000000:{SPACE}"
    assert is_gone(owner, 1.0) is True
    assert is_gone(owner, time.time()) is None


@pytest.fixture
def far(registry: Registry, writer: RunWriter) -> Callable[..., RunRecord]:
    """The run of `writer` as another machine's, its heartbeat so many seconds ago (None: it has none)."""
    run = registry.get(writer.run_id)

    def make(ago: float | None, *, started: float = 0) -> RunRecord:
        beat = {} if ago is None else {HEARTBEAT: str(int(time.time() - ago))}
        tags = {key: value for key, value in run.tags.items() if key != HEARTBEAT}
        return replace(run, started=int((time.time() - started) * 1000), tags=tags | {OWNER: ELSEWHERE} | beat)

    return make


@pytest.mark.parametrize("ago", [0, 300, -300], ids=["equal clocks", "a slow clock", "a fast clock"])
def test_another_machine_is_dead_when_its_heartbeat_stands_still(
    quick: None, far: Callable[..., RunRecord], ago: float
) -> None:
    watch, run = OwnerWatch(), far(ago)
    assert not watch.is_dead(run)
    until(lambda: watch.is_dead(run))


@pytest.mark.parametrize("ago", [0, 300, -300], ids=["equal clocks", "a slow clock", "a fast clock"])
def test_another_machine_is_alive_while_its_heartbeat_changes(
    quick: None, far: Callable[..., RunRecord], ago: float
) -> None:
    watch = OwnerWatch()
    for second in range(6):
        assert not watch.is_dead(far(ago - second))
        time.sleep(ownership.STALE_SECONDS / 2)


def test_time_in_which_nobody_could_look_says_nothing_of_an_owner(
    quick: None, far: Callable[..., RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store unreachable for hours, for whoever looks and for the owner: the first look after it finds no beat."""
    monkeypatch.setattr(ownership, "LOOK_SECONDS", 0.01)
    watch, run = OwnerWatch(), far(ownership.LONG_GONE_SECONDS / 2)
    for _ in range(3):
        assert not watch.is_dead(run)
        time.sleep(ownership.STALE_SECONDS + 0.1)
    until(lambda: watch.is_dead(run))


def test_a_heartbeat_of_long_ago_needs_no_watching(far: Callable[..., RunRecord]) -> None:
    assert OwnerWatch().is_dead(far(ownership.LONG_GONE_SECONDS + 60))


def test_a_run_without_heartbeat_counts_by_its_start(quick: None, far: Callable[..., RunRecord]) -> None:
    assert OwnerWatch().is_dead(far(None, started=ownership.LONG_GONE_SECONDS + 60))
    watch, run = OwnerWatch(), far(None)
    assert not watch.is_dead(run)
    until(lambda: watch.is_dead(run))


# The heartbeat


def beating(run_id: str) -> bool:
    return any(thread.name == f"heartbeat-{run_id[:8]}" for thread in threading.enumerate())


def test_an_open_run_beats_and_a_closed_one_does_not(quick: None, store: Path, registry: Registry) -> None:
    for close in (lambda writer: (writer.seal(), writer.finish()), lambda writer: writer.fail(ValueError("a reason"))):
        writer = registry.start(spec_of(), "a run", None, {}, resume=False)
        assert abs(int(registry.get(writer.run_id).tags[HEARTBEAT]) - time.time()) < 60
        set_tag(store, writer.run_id, HEARTBEAT, "1")
        until(lambda run_id=writer.run_id: registry.get(run_id).tags[HEARTBEAT] != "1")
        close(writer)
        assert not beating(writer.run_id)
        set_tag(store, writer.run_id, HEARTBEAT, "1")
        time.sleep(0.3)
        assert registry.get(writer.run_id).tags[HEARTBEAT] == "1"


def test_a_store_that_fails_for_a_while_is_asked_again(quick: None, store: Path, registry: Registry) -> None:
    writer = registry.start(spec_of(), "a run", None, {})
    set_tag(store, writer.run_id, HEARTBEAT, "1")
    with closing(sqlite3.connect(store, timeout=20)) as connection:
        connection.execute("ALTER TABLE tags RENAME TO hidden")
        time.sleep(0.5)
        connection.execute("UPDATE hidden SET value = '1' WHERE key = ?", (HEARTBEAT,))
        connection.commit()
        connection.execute("ALTER TABLE hidden RENAME TO tags")
    until(lambda: registry.get(writer.run_id).tags[HEARTBEAT] != "1")
    writer.seal()
    assert writer.finish().finished


TAKEN: dict[str, Callable[[Path, str], None]] = {
    "taken over": lambda store, run: set_tag(store, run, OWNER, ELSEWHERE),
    "ended": lambda store, run: edit(store, "UPDATE runs SET status = 'KILLED' WHERE run_uuid = ?", run),
    "deleted": lambda store, run: edit(store, "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", run),
}


@pytest.mark.parametrize("how", TAKEN)
def test_a_run_lost_to_another_process_is_written_to_no_more(
    quick: None, store: Path, registry: Registry, how: str
) -> None:
    """What a machine that slept for an hour meets when it wakes."""
    writer = registry.start(spec_of(), "a run", None, {})
    TAKEN[how](store, writer.run_id)
    until(lambda: not beating(writer.run_id))
    with pytest.raises(RegistryError, match=f"run {writer.run_id} was (taken over by elsewhere:{PID}|ended)"):
        writer.log_metrics({"late": 1.0})


@pytest.mark.parametrize("end", ["seal", "finish", "fail"])
def test_a_lost_run_is_not_closed_by_its_old_owner(store: Path, registry: Registry, end: str) -> None:
    """Between two beats too."""
    writer = registry.start(spec_of(), "a run", None, {})
    writer.resume_file.parent.mkdir(parents=True)
    writer.resume_file.write_bytes(b"the new owner's")
    if end == "finish":
        writer.seal()
    set_tag(store, writer.run_id, OWNER, ELSEWHERE)
    before = registry.get(writer.run_id)
    if end != "fail":
        with pytest.raises(RegistryError, match="was taken over"):
            getattr(writer, end)()
    writer.fail(ValueError("a reason"))
    assert registry.get(writer.run_id) == before
    assert writer.resume_file.is_file()


# One owner


def contend(uri: str, spec: DenseSpec, *, resume: bool = True) -> list[RunWriter | BusyError]:
    """What each of `ALL` contenders, let go at one moment, got."""
    gate, got = threading.Barrier(ALL), []

    def one() -> None:
        registry = Registry(uri)
        gate.wait()
        try:
            got.append(registry.start(spec, "a run", None, {}, resume=resume))
        except BusyError as error:
            got.append(error)

    threads = [threading.Thread(target=one) for _ in range(ALL)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


@pytest.mark.parametrize("seed", [quickly(one, 0) for one in range(5)])
def test_of_many_that_start_a_stage_one_gets_it(registry: Registry, seed: int) -> None:
    got = contend(registry.uri, spec_of(seed))
    (winner,) = [one for one in got if isinstance(one, RunWriter)]
    assert len(got) == ALL
    assert [(run.run_id, run.status) for run in registry.search()] == [(winner.run_id, "RUNNING")]
    winner.log_metrics({"test_accuracy": 1.0})


@pytest.mark.parametrize("status", ["RUNNING", "KILLED"])
@pytest.mark.parametrize("round_", [quickly(one, 0) for one in range(3)])
def test_of_many_that_take_over_a_dead_run_one_gets_it(
    store: Path, registry: Registry, status: str, round_: int
) -> None:
    dead = registry.start(spec_of(), "a run", None, {})
    dead.resume_file.parent.mkdir(parents=True)
    dead.resume_file.write_bytes(b"a point")
    dead.fail(KeyboardInterrupt())
    set_tag(store, dead.run_id, OWNER, f"{HOST}:{ended()}:1:{BOOT}:{SPACE}")
    edit(store, "UPDATE runs SET status = ? WHERE run_uuid = ?", status, dead.run_id)
    got = contend(registry.uri, spec_of())
    (winner,) = [one for one in got if isinstance(one, RunWriter)]
    (run,) = registry.search()
    assert run.run_id == winner.run_id == dead.run_id
    assert (run.status, run.tags[OWNER]) == ("RUNNING", this_process())


def test_a_busy_stage_is_named_with_its_owner(registry: Registry, writer: RunWriter) -> None:
    with pytest.raises(BusyError, match=f"run {writer.run_id} .* is already running this stage") as caught:
        registry.start(spec_of(), "a run", None, {})
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):  # as it comes from another process
        assert (error.run_id, error.owner) == (writer.run_id, f"{HOST}:{PID}")
        assert (error.message, error.hint) == (caught.value.message, caught.value.hint)


def stage(registry: Registry) -> claim.Look:
    return lambda: registry.search(fingerprint=spec_of().fingerprint())


def test_the_one_at_work_keeps_the_stage_from_a_clock_that_is_behind(
    store: Path, registry: Registry, writer: RunWriter
) -> None:
    """One that looked before the run was there: it must lose, though its own run says that it began earlier."""
    late = registry.start(spec_of(1), "late", None, {})
    edit(store, "UPDATE runs SET start_time = 1 WHERE run_uuid = ?", late.run_id)
    set_tag(store, late.run_id, "rewindctl.fingerprint", spec_of().fingerprint())
    edit(store, "DELETE FROM tags WHERE key = ? AND run_uuid = ?", TICKET, late.run_id)
    with pytest.raises(BusyError, match=writer.run_id):
        claim.win(registry.client, late.run_id, stage(registry), stage(registry), OwnerWatch())


@pytest.mark.parametrize("alive", [True, False])
def test_one_that_is_choosing_its_ticket_is_waited_for_unless_it_is_dead(
    quick: None, store: Path, registry: Registry, alive: bool
) -> None:
    choosing = registry.start(spec_of(), "a run", None, {})
    edit(store, "DELETE FROM tags WHERE key = ? AND run_uuid = ?", TICKET, choosing.run_id)
    if not alive:
        set_tag(store, choosing.run_id, OWNER, f"{HOST}:{ended()}")
        assert registry.start(spec_of(), "a run", None, {}).run_id != choosing.run_id
        assert registry.get(choosing.run_id).status == "KILLED"
        return
    late = registry.start(spec_of(1), "late", None, {})
    set_tag(store, late.run_id, "rewindctl.fingerprint", spec_of().fingerprint())
    with pytest.raises(BusyError, match=choosing.run_id):
        claim.win(registry.client, late.run_id, stage(registry), stage(registry), OwnerWatch())


def test_a_stage_finished_since_the_caller_looked_is_not_run_again_unless_forced(registry: Registry) -> None:
    writer = registry.start(spec_of(), "a run", None, {})
    writer.seal()
    finished = writer.finish()
    with pytest.raises(BusyError, match=finished.run_id):
        registry.start(spec_of(), "a run", None, {})
    assert registry.search() == [finished]
    assert registry.start(spec_of(), "a run", None, {}, resume=False).run_id != finished.run_id


def test_the_child_of_another_run_of_the_parent_is_another_stage(registry: Registry) -> None:
    parents = []
    for _ in range(2):
        writer = registry.start(spec_of(), "a run", None, {}, resume=False)
        writer.seal()
        parents.append(writer.finish())
    child_spec = PruneSpec(parent_fingerprint=spec_of().fingerprint(), sparsity=0.5)
    children = [registry.start(child_spec, "a child", parent, {}) for parent in parents]
    assert len({child.run_id for child in children}) == 2
    for parent in parents:
        with pytest.raises(BusyError):
            registry.start(child_spec, "a child", parent, {})


def test_a_run_whose_end_did_not_reach_the_store_is_not_waited_for_by_its_own_process(
    store: Path, registry: Registry
) -> None:
    writer = registry.start(spec_of(), "a run", None, {})
    with closing(sqlite3.connect(store, timeout=20)) as connection:
        connection.execute("ALTER TABLE tags RENAME TO hidden")
        writer.fail(KeyboardInterrupt())
        connection.execute("ALTER TABLE hidden RENAME TO tags")
    assert registry.get(writer.run_id).status == "RUNNING"
    again = registry.start(spec_of(), "a run", None, {})
    assert registry.get(writer.run_id).status == "KILLED"
    assert again.run_id != writer.run_id


def test_another_machines_run_is_taken_over_when_it_falls_silent(quick: None, store: Path, registry: Registry) -> None:
    writer = registry.start(spec_of(), "a run", None, {})
    writer.resume_file.parent.mkdir(parents=True)
    writer.resume_file.write_bytes(b"a point")
    set_tag(store, writer.run_id, OWNER, ELSEWHERE)
    watch = OwnerWatch()
    with pytest.raises(BusyError, match=f"elsewhere:{PID}"):
        registry.start(spec_of(), "a run", None, {}, watch=watch)
    time.sleep(ownership.STALE_SECONDS)
    assert registry.start(spec_of(), "a run", None, {}, watch=watch).run_id == writer.run_id
    assert resume_file(writer.run_id).is_file()
