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
        self._streams: list[torch.cuda.Stream] = []  # of no step just now
        self._lock, self._closed = threading.Lock(), False

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
            if self._closed:
                raise KeyboardInterrupt
            if key not in self._steps or self._steps[key].error is not None:
                self._let_go()
                own = copy.deepcopy(network)
                self._steps[key] = SharedStep(own, data, constants, self.capacity, self._stream(data.device))
            shared = self._steps[key]
            return LaneStepper(shared, network, data, settings, start, mask)

    def close(self) -> None:
        """End all steps, whoever still uses them."""
        with self._lock:
            self._closed = True
            for shared in self._steps.values():
                shared.close()
            self._steps.clear()

    def _stream(self, device: torch.device) -> torch.cuda.Stream | None:
        """For a step alone. No training has one of this priority; there are few, too, and they are used again."""
        if device.type != "cuda":
            return None
        return self._streams.pop() if self._streams else torch.cuda.Stream(device, priority=-1)

    def _let_go(self) -> None:
        for key, shared in list(self._steps.items()):
            if shared.error is not None or not shared.in_use:
                shared.close()
                if shared.stream is not None:
                    self._streams.append(shared.stream)
                del self._steps[key]


def _kind(network: Network, data: DeviceData, constants: object) -> object:
    """What the trainings of one step have in common; `data` itself, which its step keeps."""
    shapes = tuple((name, tuple(parameter.shape)) for name, parameter in network.named_parameters())
    norms = tuple((m.eps, m.momentum) for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    return structure(network), shapes, norms, id(data), constants
