"""What a training reports goes to its run, beside the training."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from rewindctl.durations import Deadline
from rewindctl.pipeline.background import Background
from rewindctl.pipeline.resume import StoredPoints, save_point
from rewindctl.registry import RunWriter
from rewindctl.registry.runs.manifest import checkpoint_path
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.system.safe_text import finite
from rewindctl.training.records import Evaluation, ResumePoint
from rewindctl.training.usage import Usage


@dataclass
class RunObserver:
    """Hands what the trainer reports to a run; until the end of `background` nobody else writes to it.

    In the order in which it happened: a resume point is never ahead of the metrics and checkpoints before it.
    """

    writer: RunWriter
    background: Background
    shown: Callable[[int], None]
    checkpoint_seconds: float
    usage: Usage
    deadline: Deadline | None = None
    stored: StoredPoints | None = None
    kept: int = 0  # the iteration that a stopped run goes on from
    _saved: float = field(default_factory=time.monotonic)
    _leaving: bool = False

    def evaluated(self, evaluation: Evaluation) -> None:
        metrics = {
            "train_loss": evaluation.train_loss,
            "lr": evaluation.lr,
            "test_loss": finite(evaluation.test_loss),
            "test_accuracy": evaluation.test_accuracy,
            **self.usage.measure(),
        }
        self.background.wait()  # a process that is killed loses one evaluation at most
        self.background.give(partial(self.writer.log_metrics, metrics, evaluation.iteration))

    def checkpoint(self, state: TrainState) -> None:
        self.background.give(partial(self._write, state))

    def resumable(self, make: Callable[[], ResumePoint]) -> None:
        if time.monotonic() - self._saved >= self.checkpoint_seconds or self._leaving:
            self.background.give(partial(self._keep, make()))
            self._saved = time.monotonic()

    def progressed(self, iteration: int) -> None:
        self.background.check()
        self.shown(iteration)

    def is_over(self, ahead: float) -> bool:
        self._leaving = self.deadline is not None and self.deadline.left() <= ahead
        return self._leaving

    def _write(self, state: TrainState) -> None:
        with self.writer.artifact(checkpoint_path(state.iteration)) as path:
            state.save(path)

    def _keep(self, point: ResumePoint) -> None:
        save_point(self.writer, point)
        self.kept = point.state.iteration
        if self.stored is not None:
            self.stored.offer()
