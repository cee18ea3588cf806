"""A training of a network of one's own: PyTorch's operations, and kernels of our own for its norms with their ReLUs."""

from rewindctl.arithmetic import Step
from rewindctl.datasets.batches import DeviceData
from rewindctl.fused.norm_relu import with_kernels
from rewindctl.models import Network
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.records import TrainSettings
from rewindctl.training.step import Stepper


class NormStepper(Stepper):
    """`Stepper` whose forward pass has kernels in it; the network itself, and all that is saved, stay as they are."""

    def __init__(
        self,
        network: Network,
        data: DeviceData,
        settings: TrainSettings,
        start: TrainState,
        mask: Mask | None,
        capture: bool = True,
        lean: bool | None = None,
    ) -> None:
        """Raises: UntracedError where no norm of the network can be made so."""
        super().__init__(network, data, settings, start, mask, capture, lean=lean)
        self.forward = with_kernels(network)
        self.step: Step = "fused"
