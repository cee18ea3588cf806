"""Trainings whose updates are made by kernels of our own, all or in part: the trainer sees a stepper as any other."""

from collections.abc import Callable

import torch

from rewindctl.arithmetic import Step
from rewindctl.datasets.batches import BatchStream, DeviceData
from rewindctl.fused.norm_relu import with_kernels
from rewindctl.fused.tiles import Tiles
from rewindctl.fused.trials import Constants, FusedTrials
from rewindctl.models import Network
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.course import Losses, OfRows, OneByOne
from rewindctl.training.graph import captured
from rewindctl.training.records import TrainSettings
from rewindctl.training.step import Stepper

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def constants_of(settings: TrainSettings) -> Constants:
    """What of the settings all trials of one set of kernels share."""
    return Constants(
        settings.batch_size,
        settings.crop_padding,
        settings.momentum,
        settings.nesterov,
        settings.weight_decay,
        DTYPES[settings.precision],
    )


class FusedStepper(OfRows, OneByOne):
    """`Stepper` by `FusedTrials` of one trial: on CUDA its kernels are captured once in a graph."""

    def __init__(
        self,
        network: Network,
        data: DeviceData,
        settings: TrainSettings,
        start: TrainState,
        mask: Mask | None,
        capture: bool = True,
        tiles: Tiles | None = None,
    ) -> None:
        """`capture=False`: every kernel is started by itself."""
        super().__init__(network, data, settings, start)
        self.trials = trials = FusedTrials(network, data, constants_of(settings), 1, tiles)
        trials.load(0, start, mask)
        draws = trials.draws.of(0)
        self.stream = BatchStream(
            data,
            settings.batch_size,
            settings.crop_padding,
            settings.horizontal_flip,
            settings.seed,
            (draws, trials.position),
        )
        self.current_rate = settings.rate(0)
        self.rate = trials.rate[0].fill_(self.current_rate)
        kept_in = (trials.loss_sum[0], trials.iteration[0], trials.latest[0], trials.stopped[0])
        self._t, self.losses, self.captured = -1, Losses(data.device, kept_in), False
        self._replay: Callable[[], None] = trials.run
        self._capture = capture and data.device.type == "cuda"

    def update(self, t: int) -> None:
        """Update `t` of this run."""
        self._go_to(t)
        if self._capture:
            self._capture = False
            self._replay = captured(self.trials.run, self.trials.changed(), self.device)
            self.captured = True
        self._replay()
        self._made += 1
        self.losses.count += 1

    def close(self) -> None:
        """Let go of the graph, with its memory, before another training captures one on this thread's stream."""
        self._replay = self.trials.run

    def network_now(self) -> Network:
        """The network with the weights and statistics that training has reached."""
        return self._fill(self.trials.parameters_of(0), self._buffers(self.trials.running_of(0)))

    def state(self, t: int) -> TrainState:
        """A copy on the host after `t` updates of this run."""
        self._raise_if_diverged()
        trials = self.trials
        return self._state(t, trials.parameters_of(0), self._buffers(trials.running_of(0)), trials.momentum_of(0))


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
