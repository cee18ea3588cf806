"""What a training is given, and what it reports."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rewindctl.arithmetic import Precision, Step
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.recipes import LearningRateSchedule

IN_LANE = "lane of a shared step"  # what is recorded of the updates of a training whose speed is a share


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the updates of a run but the network, the data, the start and the mask.

    Update t (from 0) uses the schedule's rate at `clock_start` + t, or `constant_lr` where given. `deterministic` is
    for CUDA, where the fastest kernels need not give the same bytes twice. `step` and `compiled`: see `Arithmetic`.
    """

    schedule: LearningRateSchedule
    clock_start: int
    iterations: int
    constant_lr: float | None
    batch_size: int
    momentum: float
    nesterov: bool
    weight_decay: float
    crop_padding: int
    horizontal_flip: bool
    evaluate_every: int
    checkpoint_at: tuple[int, ...]
    seed: int
    precision: Precision = "fp32"
    deterministic: bool = True
    step: Step = "pytorch"
    compiled: bool = False

    def rate(self, iteration: int) -> float:
        """Learning rate of update `iteration` of this run."""
        return self.constant_lr or self.schedule.rate(self.clock_start + iteration)


@dataclass(frozen=True)
class Evaluation:
    """Measured after `iteration` updates. `train_loss` is the mean since the last evaluation (None at the start)."""

    iteration: int
    lr: float
    train_loss: float | None
    test_loss: float
    test_accuracy: float


@dataclass(frozen=True)
class TrainResult:
    """The last state, every evaluation, and the speed of the updates (evaluations apart).

    `captured`: the updates were replays of a CUDA graph; `why_eager`: why they were not, where one was tried. `step`:
    what made them; `note`: why kernels of our own did not, where they were asked for. `in_lane`: other trainings
    had their shares of the same step, and of the speed.
    """

    state: TrainState
    evaluations: tuple[Evaluation, ...]
    iterations_per_second: float
    duration_seconds: float
    captured: bool
    why_eager: str
    step: Step = "pytorch"
    note: str = ""
    in_lane: bool = False

    @property
    def test_accuracy(self) -> float:
        """Accuracy after the last iteration: the result."""
        return self.evaluations[-1].test_accuracy

    @property
    def test_accuracy_best(self) -> float:
        """Best accuracy over all evaluations; chosen on the test set, so not a result."""
        return max(evaluation.test_accuracy for evaluation in self.evaluations)


@dataclass(frozen=True)
class ResumePoint:
    """Where an interrupted run goes on: the state after some update, and what was measured up to it.

    `training_seconds` are those of the updates alone, `wall_seconds` of everything. `loss_sum`, `loss_count`: of the
    updates since the last evaluation.
    """

    state: TrainState
    evaluations: tuple[Evaluation, ...]
    training_seconds: float
    wall_seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0


class Observer(Protocol):
    """Is told what happens, when it happens; an exception from it stops the training.

    `resumable` may keep the point that it can make, from which `train` goes on to the same bytes. `is_over` is asked
    before each update whether the training is to stop there, where the time to the next question is at least `ahead`
    seconds; then `resumable` comes a last time, and `train` raises LimitError.
    """

    def evaluated(self, evaluation: Evaluation) -> None: ...
    def checkpoint(self, state: TrainState) -> None: ...
    def resumable(self, make: Callable[[], ResumePoint]) -> None: ...
    def progressed(self, iteration: int) -> None: ...
    def is_over(self, ahead: float) -> bool: ...
