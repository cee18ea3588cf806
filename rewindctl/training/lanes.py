"""Trainings as lanes of steps that they share: of each kind of training one step, made when its first one begins.

Kernels of our own take Triton, which not every machine has: they are imported when they are needed.
"""

import copy
import threading
from typing import TYPE_CHECKING

import torch

from rewindctl.datasets.batches import DeviceData
from rewindctl.fused.pairs import structure
from rewindctl.models import Network
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.course import Course
from rewindctl.training.records import TrainSettings

if TYPE_CHECKING:
    from rewindctl.training.shared_step import SharedStep


class SharedSteps:
    """At most `capacity` trainings at once, each from a thread of its own; those of one kind share a step.

    A step without trainings is let go of when another kind needs the memory.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._steps: dict[object, SharedStep] = {}
        self._lock = threading.Lock()

    def stepper(
        self, network: Network, data: DeviceData, settings: TrainSettings, start: TrainState, mask: Mask | None
    ) -> Course:
        """What makes the updates of a training; its `close` gives the lane back."""
        from rewindctl.training.fused_step import constants_of
        from rewindctl.training.lane_step import LaneStepper
        from rewindctl.training.shared_step import SharedStep

        constants = constants_of(settings)
        key = _kind(network, data, constants)
        with self._lock:  # entering, too: else a step could be let go of before its first lane
            shared = self._steps.get(key)
            if shared is None or shared.error is not None:
                self._let_go()
                shared = SharedStep(copy.deepcopy(network), data, constants, self.capacity)
                self._steps[key] = shared
            return LaneStepper(shared, network, data, settings, start, mask)

    def close(self) -> None:
        """End all steps, whoever still uses them."""
        for shared in self._steps.values():
            shared.close()
        self._steps.clear()

    def _let_go(self) -> None:
        for key, shared in list(self._steps.items()):
            if shared.error is not None or not shared.in_use:
                shared.close()
                del self._steps[key]


def _kind(network: Network, data: DeviceData, constants: object) -> object:
    """What the trainings of one step have in common; `data` itself, which its step keeps."""
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in network.named_parameters())
    norms = tuple((m.eps, m.momentum) for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    return structure(network), shapes, norms, id(data), constants
