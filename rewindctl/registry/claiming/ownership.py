"""Whose run it is: the process in its tags, whether it lives, and the heartbeat that says so to other machines."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rewindctl.errors import RegistryError
from rewindctl.registry.claiming.fencing import fenced
from rewindctl.registry.records import HEARTBEAT, OWNER, TICKET, RunRecord, number
from rewindctl.registry.store.client import Client
from rewindctl.system import processes

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 120.0  # a heartbeat that did not change for so long, seen by our own clock, has stopped
LOOK_SECONDS = 15.0  # of the time between two looks no more counts: the store may have been away, for the owner too
LONG_GONE_SECONDS = 86_400.0  # no store is away for so long, no two clocks so far apart: nothing to watch for
NEVER = float("-inf")
GIVE_UP_SECONDS = 5.0  # how long a failing run waits for a heartbeat that hangs in the store

_held: set[str] = set()  # the runs that this process works on; a set's own operations are atomic


def this_process() -> str:
    """`host:pid:start:boot:namespace`, the owner of the runs made here; what the system does not tell is empty.

    `start` is the process's start in clock ticks since boot: a reused pid is another process. `boot` is the first
    digits of the machine's boot ID, `namespace` that of its pids: containers share hosts' names, and pids too.
    """
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{processes.started(pid)}:{_boot()}:{_namespace()}"


def shown(owner: str) -> str:
    """An owner as `host:pid`, for messages."""
    return ":".join(owner.split(":")[:2])


def now() -> str:
    """The value of a heartbeat: whole Unix seconds."""
    return str(int(time.time()))


def hold(run_id: str) -> None:
    """Record in this process that it works on the run."""
    _held.add(run_id)


def release(run_id: str) -> None:
    """Note that this process no longer works on the run."""
    _held.discard(run_id)


def last_sign(run: RunRecord) -> float:
    """The owner's last heartbeat in Unix seconds of its own clock; the start of the run if it has no heartbeat."""
    beat = run.tags.get(HEARTBEAT, "")
    return float(number(beat)) if beat.isdecimal() else run.started / 1000


def is_gone(owner: str, sign: float) -> bool | None:
    """Whether the owner of a run no longer exists; None where only its heartbeat can tell. `sign`: see `last_sign`.

    Owners of earlier versions are `host:pid`.
    """
    host, pid, start, boot, namespace = (*owner.split(":"), "", "", "", "", "")[:5]
    if host != socket.gethostname() or not pid.isdecimal():
        return None
    if boot and boot != _boot():  # this machine before it was started anew, or another machine of its name
        return True if sign < _booted() else None
    if namespace and namespace != _namespace():  # another container of this machine: its pids are not ours
        return None
    return not (number(pid) and _exists(number(pid), start))


class OwnerWatch:
    """Tells runs whose owner is dead from those at work, over several looks at the same runs.

    An owner on this machine is asked for by pid. Another machine's is alive while its heartbeat changes: no two clocks
    need be equal. It is dead when the heartbeat stood still for STALE_SECONDS while we watched, or is older than
    LONG_GONE_SECONDS. After an outage of the store every heartbeat is old until its owner reaches the store again:
    time in which we did not look hardly counts. A run without heartbeat (made by an earlier version) counts by its
    start in the same way.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float, float]] = {}  # sign, seconds that it stood still, the last look

    def is_dead(self, run: RunRecord) -> bool:
        owner, sign = run.tags.get(OWNER, ""), last_sign(run)
        if owner == this_process():
            # Left open here: its end did not reach the store, or the answer to its making did not reach us.
            return TICKET in run.tags and not {run.run_id, run.tags[TICKET]} & _held
        gone = is_gone(owner, sign)
        if gone is not None:
            return gone
        if time.time() - sign > LONG_GONE_SECONDS:
            return True
        moment = time.monotonic()
        seen, still, looked = self._seen.get(run.run_id, (None, 0.0, moment))
        still = still + min(moment - looked, LOOK_SECONDS) if seen == sign else 0.0
        self._seen[run.run_id] = sign, still, moment
        return still >= STALE_SECONDS


class Lease:
    """The right of this process to a run, until another takes it over.

    `taken_by` is then that process, empty when the run was ended or deleted from outside. `beaten` is when the store
    last took a heartbeat, by `processes.clock`: nobody takes the run over in the STALE_SECONDS after it.
    """

    def __init__(self, client: Client, run_id: str, beaten: float = NEVER) -> None:
        self.run_id, self.beaten = run_id, beaten
        self.taken_by: str | None = None
        self._client, self._owner = client, this_process()

    @property
    def is_fresh(self) -> bool:
        """Whether nobody can have taken the run yet, with room for what is written next."""
        return self.taken_by is None and processes.clock() - self.beaten < STALE_SECONDS / 2

    def check(self) -> bool:
        """Ask the store whether the run is still ours, and under way. Raises: StoreError."""
        run = self._client.get_run(self.run_id)
        owner = run.data.tags.get(OWNER, "")
        if owner != self._owner:
            self.taken_by = owner
        elif run.info.status != "RUNNING" or run.info.lifecycle_stage != "active":  # taken for dead, or removed
            self.taken_by = ""
        return self.taken_by is None

    def require(self, *, ask: bool = False) -> None:
        """Raises: RegistryError when the run is another's; the store is asked to `ask`, or when the lease is not fresh.

        Also: StoreError.
        """
        if self.taken_by is None and (ask or not self.is_fresh):
            self.check()
        if self.taken_by is not None:
            other = shown(self.taken_by)
            raise RegistryError(
                f"run {self.run_id} was {f'taken over by {other}' if other else 'ended by another process'}: "
                "this one sent no heartbeat for too long",
                "nothing finished is lost: the same command finds it, or waits for it",
            )

    @contextmanager
    def writing(self, *, ask: bool = False) -> Iterator[None]:
        """For what is written by right of the lease. Raises: as `require`, and when a database finds it lost only then.

        A server cannot be told a condition: what is under way when the process is stopped may come too late.
        """
        self.require(ask=ask)
        with fenced(self.run_id, self._owner) as fence:
            try:
                yield
            except Exception:
                if fence.taken_by is None:
                    raise
        if fence.taken_by is not None:
            self.taken_by = fence.taken_by
            self.require()


class Heartbeat(Lease):
    """A lease that is renewed from a daemon thread until it is stopped or lost.

    A store that does not answer is asked again at the next beat.
    """

    def __init__(self, client: Client, run_id: str, beaten: float = NEVER) -> None:
        super().__init__(client, run_id, beaten)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name=f"heartbeat-{run_id[:8]}", daemon=True)
        self._thread.start()

    def stop(self, patience: float | None = None) -> None:
        """No beat after this; waits for one under way, for at most `patience` seconds if given."""
        self._stopped.set()
        self._thread.join(patience)

    def _beat_on(self) -> None:
        while self.taken_by is None and not self._stopped.wait(HEARTBEAT_SECONDS):
            with suppress(Exception):  # a training never fails for want of a heartbeat
                self._beat()

    def _beat(self) -> None:
        with self.writing(ask=True):
            began = processes.clock()
            if not self._stopped.is_set():
                self._client.set_tag(self.run_id, HEARTBEAT, now())
                self.beaten = began


def _exists(pid: int, start: str) -> bool:
    """Whether the process that began at `start` (empty: any) is there."""
    found = processes.started(pid)
    return processes.is_there(pid) and (not start or not found or found == start)


def _boot() -> str:
    return processes.boot()[:8]


def _booted() -> float:
    """Unix seconds of this machine's start, 0 where it does not tell."""
    lines = [line.split() for line in processes.read("/proc/stat").splitlines()]
    return next((float(words[1]) for words in lines if words[:1] == ["btime"]), 0.0)


def _namespace() -> str:
    return processes.namespace().strip("pid:[]")
