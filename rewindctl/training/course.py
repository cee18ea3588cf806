"""Where a training is, and what is asked of it between two updates: the same whatever makes the updates."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from rewindctl.datasets.batches import BatchStream
from rewindctl.errors import DivergedError
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.losses import Losses
from rewindctl.training.records import Evaluation, ResumePoint, TrainSettings


class Course(ABC):
    """Position, rate and losses of a training; who inherits it sets the attributes and makes the updates."""

    settings: TrainSettings
    stream: BatchStream
    losses: Losses
    rate: Tensor  # on the device
    current_rate: float  # the same
    first_batch: int
    _t: int  # the last update

    def _go_to(self, t: int) -> None:
        """Make ready for update `t`: its batch, its rate, its number."""
        self.stream.seek(self.first_batch + t)
        if (rate := self.settings.rate(t)) != self.current_rate:
            self.current_rate = rate
            self.rate.fill_(rate)
        if t != self._t + 1:
            self.losses.iteration.fill_(t)
        self._t = t

    def mean_loss(self) -> float | None:
        """Mean training loss since the last call, None when there was no update. Raises: DivergedError."""
        self._raise_if_diverged()
        return self.losses.take_mean()

    @abstractmethod
    def state(self, t: int) -> TrainState:
        """A copy on the host after `t` updates of this run. Raises: DivergedError."""

    def point(
        self, t: int, evaluations: tuple[Evaluation, ...], training_seconds: float, wall_seconds: float
    ) -> ResumePoint:
        """Where the run can go on from after `t` updates, once it was evaluated there if it is to be."""
        return ResumePoint(self.state(t), evaluations, training_seconds, wall_seconds, *self.losses.so_far())

    def _state(
        self, t: int, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], momentum: Mapping[str, Tensor]
    ) -> TrainState:
        """Copies of these on the host."""
        parts = (_on_host(parameters), _on_host(buffers), _on_host(momentum))
        return TrainState(*parts, iteration=t, data_position=self.first_batch + t)

    def _raise_if_diverged(self) -> None:
        if bad := self.losses.first_bad():
            raise DivergedError(bad[0], self.settings.rate(bad[0]), bad[1])


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
