"""Stages side by side in this process: a thread each, on a GPU lanes of one step, or a stream each.

A small network leaves most of a GPU idle. Kernels of our own work on the trainings of all lanes at once; with PyTorch's
the kernels of several streams fill it. One process holds the data and the driver's context once for all.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.local import GRACE_SECONDS, LOOK_SECONDS, Runner, share
from rewindctl.engines.work import Reporter, ReportProgress, Worker, WorkerConfig
from rewindctl.pipeline import Pipeline
from rewindctl.training.lanes import SharedSteps

MOST = 32  # streams that PyTorch makes: then it hands out the first again, and two threads would capture on one


class ThreadRunner(Runner, Protocol):
    """Runs tasks in one thread, by a pipeline of its own; its report of progress may raise KeyboardInterrupt."""

    pipeline: Pipeline


class Lanes:
    """`jobs` threads, each with a registry of its own, that share the data sets; at most MOST.

    They share the cores too, where the site does not say how many of PyTorch's threads each has. `host` is the caller's
    own pipeline, which has one of the places.
    """

    def __init__(
        self,
        site: WorkerConfig,
        jobs: int,
        make: Callable[[WorkerConfig, ReportProgress], ThreadRunner] | None = None,
        host: Pipeline | None = None,
    ) -> None:
        jobs = min(jobs, MOST)
        self.slots = jobs - (host is not None)
        self.shown: Callable[[], None] = lambda: None
        self._site = replace(site, threads=site.threads or share(jobs))
        self._stop = threading.Event()
        self._idle: list[_Lane] = []
        self._lanes: list[_Lane] = []
        self._running: set[str] = set()
        self._answers: queue.SimpleQueue[tuple[_Lane, Answer]] = queue.SimpleQueue()
        self._done: dict[str, int] = {}
        self._make, self._host, self._shared = make or self._worker, host, SharedSteps(jobs)
        self._with_data = host
        if host is not None:
            host.shared_steps = self._shared
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(self._site.threads)  # what each thread starts with

    def submit(self, task: Task) -> None:
        lane = self._idle.pop() if self._idle else self._new_lane()
        self._running.add(task.key)
        # A thread that does not stop in time must not keep the process: its run is found dead next time.
        threading.Thread(target=self._work, args=(lane, task), name=f"trial-{task.key[:8]}", daemon=True).start()

    def wait(self, seconds: float) -> list[Answer]:
        answers = []
        try:
            answers.append(self._take(seconds))
            while True:
                answers.append(self._take(0))
        except queue.Empty:
            return answers

    def progress(self) -> dict[str, int]:
        return {key: done for key, done in self._done.copy().items() if key in self._running}

    def close(self) -> None:
        """Each thread stops at its next report of progress."""
        self._stop.set()
        deadline = time.monotonic() + GRACE_SECONDS
        while self._running and time.monotonic() < deadline:
            self.wait(LOOK_SECONDS)
        self._shared.close()
        if self._host is not None:
            self._host.shared_steps = None
        torch.set_num_threads(self._threads_before)

    def _new_lane(self) -> "_Lane":
        worker = self._make(self._site, self._note)
        pipeline = worker.pipeline
        pipeline.shared_steps = self._shared
        if self._with_data is None:
            self._with_data = pipeline
        pipeline.share_data(self._with_data)
        device = pipeline.device
        self._lanes.append(_Lane(worker, torch.cuda.Stream(device) if device.type == "cuda" else None))
        return self._lanes[-1]

    def _worker(self, site: WorkerConfig, report: ReportProgress) -> Worker:
        return Worker(site, report, _Stoppable(report, self._stop))

    def _take(self, seconds: float) -> Answer:
        lane, answer = self._answers.get(timeout=seconds) if seconds else self._answers.get_nowait()
        self._running.discard(answer.key)
        self._idle.append(lane)
        return answer

    def _note(self, key: str, done: int) -> None:
        self._done[key] = done
        if self._stop.is_set():
            raise KeyboardInterrupt

    def _work(self, lane: "_Lane", task: Task) -> None:
        answer = Answer(task.key, message="its thread ended", hint="this is a defect")
        try:
            with lane.entered():
                answer = lane.worker.run(task)
        except KeyboardInterrupt:
            answer = Answer(task.key, message="it was interrupted", crashed=True)
        finally:
            self._answers.put((lane, answer))


@dataclass(frozen=True)
class _Lane:
    """What one stage after the other runs on: a worker, and on a GPU the stream that its kernels go to."""

    worker: ThreadRunner
    stream: torch.cuda.Stream | None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Both the current device and the current stream are a thread's own."""
        if self.stream is None:
            yield
            return
        with torch.cuda.device(self.stream.device), torch.cuda.stream(self.stream):
            yield


class _Stoppable(Reporter):
    """A reporter whose waits end when the engine is closed."""

    def __init__(self, report: Callable[[str, int], None], stop: threading.Event) -> None:
        super().__init__(report)
        self._stop = stop

    def pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise KeyboardInterrupt
