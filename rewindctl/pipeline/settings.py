"""From specs to what the trainer takes."""

from dataclasses import dataclass

from rewindctl.models import Network
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.rewinding.schedule import LearningRateSchedule
from rewindctl.specs import DenseSpec, RetrainSpec
from rewindctl.training.records import TrainSettings


@dataclass(frozen=True)
class Prepared:
    """What a training starts with, on the CPU; a baseline has no mask."""

    network: Network
    start: TrainState
    mask: Mask | None
    settings: TrainSettings


def schedule_of(dense: DenseSpec) -> LearningRateSchedule:
    return LearningRateSchedule(dense.iterations, dense.learning_rate, dense.lr_boundaries, dense.lr_factor)


def dense_settings(spec: DenseSpec) -> TrainSettings:
    """A baseline: the schedule from 0, checkpoints at every rewind point but the last, which is the final one."""
    return TrainSettings(
        schedule=schedule_of(spec),
        clock_start=0,
        iterations=spec.iterations,
        constant_lr=None,
        batch_size=spec.batch_size,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        weight_decay=spec.weight_decay,
        crop_padding=spec.crop_padding,
        horizontal_flip=spec.horizontal_flip,
        evaluate_every=spec.evaluate_every,
        checkpoint_at=spec.rewind_points[:-1],
        seed=spec.seed,
    )


def retrain_settings(spec: RetrainSpec, dense: DenseSpec) -> TrainSettings:
    """The recipe of the dense run with the clock, length and rate of the retraining's plan."""
    return TrainSettings(
        schedule=schedule_of(dense).scaled(spec.schedule_iterations),
        clock_start=spec.clock_start,
        iterations=spec.iterations,
        constant_lr=spec.constant_lr,
        batch_size=dense.batch_size,
        momentum=dense.momentum if spec.momentum is None else spec.momentum,
        nesterov=dense.nesterov,
        weight_decay=dense.weight_decay,
        crop_padding=dense.crop_padding,
        horizontal_flip=dense.horizontal_flip,
        evaluate_every=spec.evaluate_every,
        checkpoint_at=spec.rewind_points,
        seed=dense.seed,
    )
