"""What makes the updates of a training: PyTorch's operations, or kernels of our own."""

from collections.abc import Callable

import torch
from torch import nn

from rewindctl.arithmetic import Step
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import UsageError
from rewindctl.fused.pairs import is_whole, missing_part, unfit
from rewindctl.models import Network
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.course import Course
from rewindctl.training.records import TrainSettings
from rewindctl.training.step import Stepper


def stepper_for(
    network: Network, data: DeviceData, settings: TrainSettings, start: TrainState, mask: Mask | None
) -> Course:
    """What the settings say makes the updates of a training from `start`."""
    note = ""
    if settings.step == "fused":
        from rewindctl.training.agreement import disagreement

        make, note = _by_kernels(network), unfit(network)
        if not note and (why := disagreement(make, network, data, settings, start, mask)):
            note = f"on this device they make {why}"
        if not note:
            return make(network, data, settings, start, mask)
    made = Stepper(network, data, settings, start, mask, compiled=settings.compiled)
    made.note = note
    return made


def _by_kernels(network: nn.Module) -> Callable[..., Course]:
    """Imported only here: they take Triton, which not every machine has."""
    if is_whole(network):
        from rewindctl.training.fused_step import FusedStepper

        return FusedStepper
    from rewindctl.training.fused_step import NormStepper

    return NormStepper


def choose_step(asked: str, device: torch.device, network: nn.Module | None = None) -> Step:
    """What makes the updates where `asked` is auto, pytorch or fused; without a network only the device is looked at.

    `auto` is PyTorch's until the kernels have been checked on a GPU. Raises: UsageError for fused where they cannot be.
    """
    if asked != "fused":
        return "pytorch"
    if why := missing_part(device) or (unfit(network) if network is not None else ""):
        raise UsageError(f"--update-step fused: {why}", "use --update-step auto")
    return "fused"
