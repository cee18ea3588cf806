"""What makes the updates of a training: PyTorch's operations, or kernels of our own."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from rewindctl.arithmetic import Step
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import UsageError
from rewindctl.fused.pairs import is_whole, missing_part, unfit
from rewindctl.models import Network
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.course import Losses
from rewindctl.training.records import Evaluation, ResumePoint, TrainSettings
from rewindctl.training.step import Stepper


class AnyStepper(Protocol):
    """One update at a time, and where the training is: `step.Stepper` says what each does.

    `network_now` is the network with the weights that the training has reached, to be evaluated. `step` is what makes
    the updates, `note` a word of why it is not what the settings say, empty where it is.
    """

    first_batch: int

    @property
    def losses(self) -> Losses: ...
    @property
    def captured(self) -> bool: ...
    @property
    def why_eager(self) -> str: ...
    @property
    def step(self) -> Step: ...
    @property
    def note(self) -> str: ...
    def update(self, t: int) -> None: ...
    def mean_loss(self) -> float | None: ...
    def state(self, t: int) -> TrainState: ...
    def point(
        self, t: int, evaluations: tuple[Evaluation, ...], training_seconds: float, wall_seconds: float
    ) -> ResumePoint: ...
    def network_now(self) -> Network: ...
    def close(self) -> None: ...


def stepper_for(
    network: Network, data: DeviceData, settings: TrainSettings, start: TrainState, mask: Mask | None
) -> AnyStepper:
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


def _by_kernels(network: nn.Module) -> Callable[..., AnyStepper]:
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
