"""A training in a lane of a step that it shares with others."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rewindctl.datasets.batches import DeviceData, Epochs
from rewindctl.models import Network
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.course import Losses, OfRows
from rewindctl.training.records import TrainSettings
from rewindctl.training.shared_step import AHEAD, Leg, SharedStep


class LaneStepper(OfRows):
    """`FusedStepper` in a lane of a step that other trainings use too: the same bytes."""

    strides = True

    def __init__(
        self,
        shared: SharedStep,
        network: Network,
        data: DeviceData,
        settings: TrainSettings,
        start: TrainState,
        mask: Mask | None,
    ) -> None:
        super().__init__(network, data, settings, start)
        self._epochs = Epochs(data, settings.batch_size, settings.crop_padding, settings.horizontal_flip, settings.seed)
        self.captured = shared.captured
        self.losses = Losses(torch.device("cpu"))  # a copy of the lane's, of when it was last read
        self._until, self._legs = -1, iter(list[Leg]())
        self._epoch: int | None = None  # whose draws the lane was given last
        self._found: _Read | None = None  # since the last update
        self._shared = shared
        self._lane = shared.enter(start, mask)

    def advance(self, t: int, until: int) -> int:
        lane = self._lane
        if until != self._until:
            self._until, self._legs = until, self._cut(t, until)
        lane.changed.clear()
        while len(lane.legs) < AHEAD and (leg := next(self._legs, None)) is not None:
            self._shared.give(lane, leg)
        if lane.legs:
            self._shared.wait(lane)
        # Short of `until` as long as there are legs: what is due there is due when all are made.
        return self._reached(t, max(t, min(lane.made, until - 1 if lane.legs else until)))

    def halt(self, t: int) -> int:
        self._until = -1
        return self._reached(t, max(t, self._shared.withdraw(self._lane)))

    def close(self) -> None:
        """Give the lane back."""
        self._shared.leave(self._lane)

    def go_on_from(self, total: float, count: int) -> None:
        self.losses.count = count
        self._shared.ask(lambda: self._shared.trials.loss_sum[self._lane.row].fill_(total))

    def mean_loss(self) -> float | None:
        """As `Course`; what is evaluated and saved here is read at once, for each question waits for a few updates."""

        def read() -> _Read:
            found = self._copy()
            self._shared.trials.loss_sum[self._lane.row].zero_()
            return found

        self._found = found = self._shared.ask(read)
        mean = super().mean_loss()
        found.losses[0].zero_()
        return mean

    def network_now(self) -> Network:
        """The network with the weights and statistics that training has reached."""
        found = self._read()
        network = self._fill(found.parameters, self._buffers(found.running))
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # what was read is the step's memory again
        return network

    def state(self, t: int) -> TrainState:
        """A copy on the host after `t` updates of this run."""
        self._raise_if_diverged()
        found = self._read()
        momentum = self._shared.ask(lambda: self._shared.trials.momentum_of(self._lane.row))
        return self._state(t, found.parameters, self._buffers(found.running), momentum)

    def _cut(self, t: int, until: int) -> Iterator[Leg]:
        """The updates from `t` on up to `until`, each leg of one epoch and one rate."""
        while t < until:
            epoch, batch = divmod(self.first_batch + t, self._epochs.batches_per_epoch)
            rate, stop = self.settings.rate(t), t + 1
            last = min(until, t + self._epochs.batches_per_epoch - batch)
            while stop < last and self.settings.rate(stop) == rate:
                stop += 1
            draws = self._epochs.draw(epoch) if epoch != self._epoch else None
            self._epoch = epoch
            yield Leg(t, stop, rate, batch, draws)
            t = stop

    def _reached(self, t: int, now: int) -> int:
        if now > t:
            self._found = None
        self._made += now - t
        self.losses.count += now - t
        return now

    def _read(self) -> "_Read":
        if self._found is None:
            self._found = self._shared.ask(self._copy)
        return self._found

    def _copy(self) -> "_Read":
        row, trials = self._lane.row, self._shared.trials
        running = {name: value.clone() for name, value in trials.running_of(row).items()}
        losses = [one[row].clone() for one in (trials.loss_sum, trials.iteration, trials.latest, trials.stopped)]
        return _Read(trials.parameters_of(row), running, losses)

    def _raise_if_diverged(self) -> None:
        for own, value in zip(self.losses.tensors(), self._read().losses, strict=True):
            own.copy_(value)
        super()._raise_if_diverged()


@dataclass(frozen=True)
class _Read:
    """Copies on the device of what a lane has reached; `losses` as `Losses.tensors`."""

    parameters: dict[str, Tensor]
    running: dict[str, Tensor]
    losses: list[Tensor]
