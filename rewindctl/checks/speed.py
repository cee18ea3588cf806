"""How fast this device trains a network: measured for seconds on noise of the data set's shape, without the data."""

import time
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch

from rewindctl.arithmetic import Arithmetic, Precision, Step
from rewindctl.datasets import Dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.datasets.inventory import DataFacts
from rewindctl.models import Network, build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.pipeline.train_run import dense_settings
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import DenseSpec
from rewindctl.training.course import Course
from rewindctl.training.kernels import reproducible
from rewindctl.training.precision import choose_for
from rewindctl.training.records import TrainSettings
from rewindctl.training.step import choose_step, stepper_for

WARM_UP = 2
HARMLESS_RATE = 1e-9  # noise can be learned into infinities, and an update of any size takes as long
WAIT_EVERY = 20  # a GPU's queue must not run seconds ahead of the clock


@dataclass(frozen=True)
class Speed:
    """Updates per second, the precision that they were made in, and what made them."""

    iterations_per_second: float
    precision: Precision
    step: Step = "pytorch"


def measured_speed(
    spec: DenseSpec, facts: DataFacts, device: torch.device, seconds: float, arithmetic: Arithmetic
) -> Speed:
    """Of the recipe of `spec`, over about `seconds`, with the kernels that a training takes, evaluations apart.

    Raises: UsageError where the device or the network has no such step.
    """
    network, settings = recipe_to_measure(spec, facts, device, arithmetic)
    settings = replace(settings, step=choose_step(arithmetic.step, device, network))
    data = DeviceData.upload(noise(facts, spec.batch_size), device)
    start = TrainState.initial(network)
    with (
        reproducible(device, settings.deterministic),
        closing(stepper_for(network, data, settings, start, None)) as stepper,
    ):
        return Speed(_updates_per_second(stepper, seconds), settings.precision, stepper.step)


def recipe_to_measure(
    spec: DenseSpec, facts: DataFacts, device: torch.device, arithmetic: Arithmetic
) -> tuple[Network, TrainSettings]:
    """The network of `spec`, and its settings in the precision that a training here would have."""
    config = NetworkConfig(facts.channels, facts.classes, spec.norm_momentum, spec.norm_epsilon)
    network = build_network(spec.model, config, seed=0)
    batch = (spec.batch_size, facts.channels, *facts.image_size)
    settings = replace(
        dense_settings(spec),
        constant_lr=HARMLESS_RATE,
        precision=choose_for(arithmetic.precision, device, network, batch).precision,
        deterministic=arithmetic.deterministic,
        compiled=arithmetic.compiled,
    )
    return network, settings


def _updates_per_second(stepper: Course, seconds: float) -> float:
    for t in range(WARM_UP):
        stepper.advance(t, t + 1)
    stepper.mean_loss()  # waits for the device
    began, t = time.perf_counter(), WARM_UP
    while time.perf_counter() - began < seconds or t == WARM_UP:
        t = stepper.advance(t, t + 1)
        if t % WAIT_EVERY == 0:
            stepper.mean_loss()
    stepper.mean_loss()
    return (t - WARM_UP) / (time.perf_counter() - began)


def noise(facts: DataFacts, batch_size: int) -> Dataset:
    """A few batches of images like those of a data set."""
    size = max(4 * batch_size, facts.classes)
    shape = (size, *facts.image_size, facts.channels)
    images = np.random.RandomState(0).randint(0, 256, shape, dtype=np.uint8)
    labels = np.arange(size) % facts.classes
    return Dataset.from_arrays(
        "noise", {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}, "noise"
    )
