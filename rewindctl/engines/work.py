"""Running one stage in some process: what it needs, and what it answers."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rewindctl.arithmetic import Arithmetic
from rewindctl.console import Console
from rewindctl.errors import RewindError
from rewindctl.files import disk_error
from rewindctl.pipeline import Pipeline
from rewindctl.pipeline.stages import failed_run
from rewindctl.registry import Registry, RunRecord
from rewindctl.specs import DenseSpec, PruneSpec, parse_spec

REPORT_SECONDS = 0.5
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Site:
    """What a worker needs to run stages: store, experiment, device, data, threads (0: torch's choice), arithmetic."""

    tracking_uri: str
    experiment: str
    device: str = "auto"
    data_dir: Path | None = None
    checkpoint_seconds: float = 60.0
    threads: int = 0
    arithmetic: Arithmetic = field(default_factory=Arithmetic)


@dataclass(frozen=True)
class Task:
    """A stage to run: its fingerprint, its spec as canonical JSON, the run of its parent."""

    key: str
    spec: str
    parent_run_id: str | None


@dataclass(frozen=True)
class Answer:
    """How a task ended: its run, and a message where it failed.

    `crashed`: the worker died, which says nothing of the stage; it may be tried again.
    """

    key: str
    run_id: str | None = None
    message: str = ""
    hint: str = ""
    crashed: bool = False


class Reporter(Console):
    """A console that hands progress on and says nothing."""

    def __init__(self, report: Progress) -> None:
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

    def __init__(self, site: Site, report: Progress) -> None:
        self.report = report
        self.console = Reporter(report)
        if site.threads:
            torch.set_num_threads(site.threads)
        registry: list[Registry] = []

        def opened() -> Registry:
            registry[:] = registry or [Registry(site.tracking_uri, site.experiment)]
            return registry[0]

        self.pipeline = Pipeline(
            opened,
            self.console,
            site.device,
            site.data_dir,
            checkpoint_seconds=site.checkpoint_seconds,
            arithmetic=site.arithmetic,
        )

    def run(self, task: Task) -> Answer:
        """The answer to a task; an interrupt is passed on."""
        self.console.key = task.key
        try:
            return Answer(task.key, self._run(task).run_id)
        except RewindError as error:
            return Answer(task.key, failed_run(error), error.message, error.hint)
        except OSError as error:
            told = disk_error(error)
            return Answer(task.key, failed_run(error), told.message, told.hint)
        except Exception as error:
            return Answer(task.key, failed_run(error), f"{type(error).__name__}: {error}", "this is a defect")

    def _run(self, task: Task) -> RunRecord:
        spec = parse_spec(task.spec, f"the spec of stage {task.key[:12]}")
        if isinstance(spec, DenseSpec):
            return self.pipeline.run_dense(spec).run
        assert task.parent_run_id is not None
        parent = self.pipeline.registry.get(task.parent_run_id)
        if isinstance(spec, PruneSpec):
            return self.pipeline.run_prune(spec, parent).run
        return self.pipeline.run_retrain(spec, parent).run
