"""Running one stage in some process: what it needs, and how what it raises becomes an answer."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from rewindctl.console import Console
from rewindctl.engines.contract import Answer, Task
from rewindctl.errors import LimitError, RewindError
from rewindctl.pipeline import Outcome, Pipeline, RunPolicy, run_stage
from rewindctl.pipeline.life import failed_run
from rewindctl.registry import Registry
from rewindctl.specs import parse_spec
from rewindctl.system.files import disk_error

REPORT_SECONDS = 0.5
ReportProgress = Callable[[str, int], None]


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker needs to run stages: store, experiment, device, data, policy, threads (0: torch's choice)."""

    tracking_uri: str
    experiment: str
    device: str = "auto"
    data_dir: Path | None = None
    policy: RunPolicy = field(default_factory=RunPolicy)
    threads: int = 0


class Reporter(Console):
    """A console that forwards progress and prints nothing."""

    def __init__(self, report: ReportProgress) -> None:
        super().__init__(quiet=True)
        self.key = ""
        self.report = report

    @contextmanager
    def progress(self, title: str, total: int, earlier: float = 0.0) -> Iterator[Callable[[int], None]]:
        shown = 0.0

        def update(done: int) -> None:
            nonlocal shown
            if (now := time.monotonic()) - shown >= REPORT_SECONDS or done == total:
                shown = now
                self.report(self.key, done)

        yield update


class Worker:
    """Runs tasks one after the other, the registry open and the data in memory from one to the next."""

    def __init__(self, site: WorkerConfig, report: ReportProgress, console: Reporter | None = None) -> None:
        self.report = report
        self.console = console or Reporter(report)
        if site.threads:
            torch.set_num_threads(site.threads)
        opened = partial(Registry, site.tracking_uri, site.experiment)
        self.pipeline = Pipeline(opened, self.console, site.device, site.data_dir, site.policy)

    def run(self, task: Task) -> Answer:
        """The answer to a task; an interrupt is passed on."""
        self.console.key = task.key
        return answer_to(task.key, partial(outcome_of, task, self.pipeline))


def answer_to(key: str, work: Callable[[], Outcome | None]) -> Answer:
    """Do the work of the task `key` and say how it ended, whatever it raises; an interrupt is passed on."""
    try:
        outcome = work()
        return Answer(key, outcome.run.run_id, reused=outcome.reused) if outcome else Answer(key)
    except LimitError as error:
        return Answer(key, failed_run(error), error.message, stopped=True)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plug-in's exit or cancellation is a failure too
        told = as_rewind_error(error)
        return Answer(key, failed_run(error), told.message, told.hint)


def outcome_of(task: Task, pipeline: Pipeline) -> Outcome:
    """Find or run the stage of a task. Raises: the error of the stage."""
    spec = parse_spec(task.spec, f"the spec of stage {task.key[:12]}")
    parent = pipeline.registry.get(task.parent_run_id) if task.parent_run_id else None
    return run_stage(pipeline, spec, parent)


def as_rewind_error(error: BaseException) -> RewindError:
    """Any exception of a stage as an error with a message for the user."""
    if isinstance(error, RewindError):
        return error
    if isinstance(error, OSError):
        return disk_error(error)
    if isinstance(error, torch.OutOfMemoryError):
        reason = str(error).partition(". ")[0]
        return RewindError(f"the GPU has too little memory: {reason}", "run fewer at once with a smaller --jobs")
    return RewindError(f"{type(error).__name__}: {error}", "this is a defect")
