"""Stages side by side in processes of this machine."""

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Protocol

import torch

from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.work import ReportProgress, Worker, WorkerConfig
from rewindctl.system.processes import forget_interrupts, interrupt
from rewindctl.training.device import resolve_device

GRACE_SECONDS = 60
LOOK_SECONDS = 0.2


class Runner(Protocol):
    """Runs the tasks of a worker process. Made in that process, with its configuration and a call for progress."""

    report: ReportProgress

    def run(self, task: Task) -> Answer: ...


class Processes:
    """`jobs` processes, each with its share of the cores and, where there are GPUs, one of them in turn.

    On a CPU each stays on cores of its own: the system moves none to where another one's caches are. `taken` of the
    places are the caller's own.
    """

    def __init__(
        self,
        site: WorkerConfig,
        jobs: int,
        make: Callable[[WorkerConfig, ReportProgress], Runner] = Worker,
        *,
        taken: int = 0,
    ) -> None:
        self.slots = jobs - taken
        self._context, self._make = multiprocessing.get_context("spawn"), make
        places = devices(site.device, jobs)[taken:]
        self._sites = [replace(site, device=device, threads=share(jobs)) for device in places]
        shares = core_shares(jobs)[taken:]
        self._cores = [
            cores if resolve_device(place).type == "cpu" else frozenset[int]()
            for place, cores in zip(places, shares, strict=True)
        ]
        self._pools: list[ProcessPoolExecutor | None] = [None] * self.slots
        # One a process: a process killed while it holds a queue's lock keeps it.
        self._queues: list[Any] = [None] * self.slots
        self._running: dict[Future[Answer], tuple[int, Task]] = {}
        self._pids: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self.shown: Callable[[], None] = lambda: None

    def submit(self, task: Task) -> None:
        busy = {slot for slot, _ in self._running.values()}
        slot = next(index for index in range(self.slots) if index not in busy)
        pool = self._pools[slot] or self._start(slot)
        with _sigint_held():  # the first task starts the process
            self._running[pool.submit(_run, task)] = (slot, task)

    def wait(self, seconds: float) -> list[Answer]:
        finished, _ = wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        return [self._answer(future) for future in finished]

    def progress(self) -> dict[str, int]:
        for reports in filter(None, self._queues):
            with contextlib.suppress(queue.Empty):
                while True:
                    key, pid, done = reports.get_nowait()
                    self._pids[key] = pid
                    self._done[key] = done
        under_way = {task.key for _, task in self._running.values()}
        return {key: done for key, done in self._done.items() if key in under_way}

    def close(self) -> None:
        told: set[tuple[str, int]] = set()
        deadline = time.monotonic() + GRACE_SECONDS
        while (left := self._under_way()) and time.monotonic() < deadline:
            self.progress()  # a process that is still starting is told when it says that it has begun
            for pid in {(key, self._pids[key]) for key in left if key in self._pids} - told:
                told.add(pid)
                _signal(pid[1], signal.SIGTERM)
            wait(self._running, timeout=LOOK_SECONDS)
        for key in left:
            if key in self._pids:  # it does not listen: its run is found dead next time
                _signal(self._pids[key], signal.SIGKILL)
        for pool in filter(None, self._pools):
            pool.shutdown(wait=False, cancel_futures=True)

    def _under_way(self) -> list[str]:
        return [task.key for future, (_, task) in self._running.items() if not future.done()]

    def _start(self, slot: int) -> ProcessPoolExecutor:
        reports = self._queues[slot] = self._context.Queue()
        pool = self._pools[slot] = ProcessPoolExecutor(
            1, self._context, _begin, (self._make, self._sites[slot], reports, self._cores[slot])
        )
        return pool

    def _answer(self, future: Future[Answer]) -> Answer:
        slot, task = self._running.pop(future)
        self._pids.pop(task.key, None)
        try:
            return future.result()
        except BrokenProcessPool:
            self._pools[slot] = None  # a fresh process for the next task
            return Answer(task.key, message="its process died", hint="see the system's log", crashed=True)
        except KeyboardInterrupt:
            return Answer(task.key, message="its process was interrupted", crashed=True)


def devices(asked: str, jobs: int) -> list[str]:
    """The device of each of `jobs` workers: the given one, or for `auto` and `cuda` the GPUs in turn."""
    count = torch.cuda.device_count() if asked in ("auto", "cuda") and torch.cuda.is_available() else 0
    return [f"cuda:{index % count}" if count else asked for index in range(jobs)]


def on_one_gpu(asked: str, jobs: int) -> bool:
    """Whether parallel stages all use the same GPU. Raises: UsageError for a device that is not there."""
    places = {resolve_device(place) for place in devices(asked, jobs)}
    return len(places) == 1 and places.pop().type == "cuda"


def default_jobs(asked: str) -> int:
    """A process for each GPU, one on a CPU."""
    return len(set(devices(asked, torch.cuda.device_count() or 1)))


def core_shares(jobs: int) -> list[frozenset[int]]:
    """The cores of each of `jobs` workers on a CPU, neighbours and nobody else's; of all none where they are too few.

    Nor where the system has no affinity (macOS).
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if jobs > len(cores):
        return [frozenset()] * jobs
    ends = [len(cores) * place // jobs for place in range(jobs + 1)]
    return [frozenset(cores[ends[place] : ends[place + 1]]) for place in range(jobs)]


def share(jobs: int) -> int:
    """Threads of each of `jobs` workers, so that all of them together do not exceed the cores."""
    return max(1, len(os.sched_getaffinity(0)) // jobs) if hasattr(os, "sched_getaffinity") else 1


@dataclass
class _Process:
    """What a worker process has and does. `busy` until the end of a task is recorded; plain values, since a signal
    may come while a lock is held.
    """

    runner: Runner | None = None
    busy: bool = False
    interruptible: bool = False


_here = _Process()


def _begin(
    make: Callable[[WorkerConfig, ReportProgress], Runner], site: WorkerConfig, progress: Any, cores: frozenset[int]
) -> None:
    """In a new process: Ctrl-C is the parent's to pass on, as SIGTERM; without the parent there is nobody to answer."""
    if cores:
        with contextlib.suppress(OSError):  # cores that were taken from this machine meanwhile
            os.sched_setaffinity(0, cores)  # threads that compute begin later, and have it from this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _raise)
    threading.Thread(target=_follow_parent, daemon=True).start()
    _here.runner = make(site, lambda key, done: progress.put((key, os.getpid(), done)))


def _run(task: Task) -> Answer:
    assert _here.runner is not None
    try:
        _here.busy = _here.interruptible = True
        _here.runner.report(task.key, 0)  # now the parent knows which process to interrupt
        return _here.runner.run(task)
    finally:
        _here.busy = _here.interruptible = False
        forget_interrupts()


def _raise(number: int, frame: FrameType | None) -> None:
    """Once a task: a second signal, as to a whole group, must not break into the recording of the first."""
    if _here.interruptible:
        _here.interruptible = False
        interrupt(number, frame)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    _signal(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while _here.busy and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextlib.contextmanager
def _sigint_held() -> Iterator[None]:
    """A process started here never gets Ctrl-C, not even before `_begin`; for this one it waits until the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
