"""A short training, and an observer that keeps what it is told."""

from collections.abc import Callable
from dataclasses import dataclass, field

from rewindctl.models import Network, build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.recipes import LearningRateSchedule
from rewindctl.training.records import Evaluation, ResumePoint, TrainSettings

SETTINGS = TrainSettings(
    schedule=LearningRateSchedule(20, 0.1, (10, 15), 0.1),
    clock_start=0,
    iterations=20,
    constant_lr=None,
    batch_size=100,
    momentum=0.9,
    nesterov=True,
    weight_decay=2e-4,
    crop_padding=1,
    horizontal_flip=True,
    evaluate_every=6,
    checkpoint_at=(0, 6, 8, 17),
    seed=3,
)


@dataclass
class Keeper:
    """Keeps what the trainer reports."""

    evaluations: list[Evaluation] = field(default_factory=list)
    states: list[TrainState] = field(default_factory=list)
    points: list[ResumePoint] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)

    def evaluated(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    def checkpoint(self, state: TrainState) -> None:
        self.states.append(state)

    def resumable(self, make: Callable[[], ResumePoint]) -> None:
        self.points.append(make())

    def is_over(self, ahead: float) -> bool:
        return False

    def progressed(self, iteration: int) -> None:
        self.iterations.append(iteration)


def network() -> Network:
    return build_network("resnet8", NetworkConfig(1, 10, 0.1, 1e-5), seed=3)
