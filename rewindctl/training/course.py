"""Where a training is, and what is asked of it between two updates: the same whatever makes the updates."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from rewindctl.arithmetic import Step
from rewindctl.datasets.batches import BatchStream, DeviceData
from rewindctl.errors import DivergedError
from rewindctl.models import Network
from rewindctl.rewinding.checkpoints import TrainState, check_shapes
from rewindctl.training.records import Evaluation, ResumePoint, TrainSettings


class Losses:
    """`stopped` is 1 from the first loss on that is not finite, and 0 before: what skips a fused update."""

    def __init__(self, device: torch.device, kept_in: tuple[Tensor, Tensor, Tensor, Tensor] | None = None) -> None:
        """`kept_in`: sum and iteration (float64), latest and stopped, for who writes them by address."""
        self.count = 0
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        latest = torch.zeros(2, device=device)
        # `iteration` is that of the next loss, or of the first bad one, as `_latest` is the first bad loss.
        self._sum, self.iteration, self._latest, self.stopped = kept_in or (sums[0], sums[1], latest[0], latest[1])

    def tensors(self) -> list[Tensor]:
        """All that `add` and `stop_if_bad` write to."""
        return [self._sum, self.iteration, self._latest, self.stopped]

    def add(self, loss: Tensor) -> None:
        self._sum += loss

    def stop_if_bad(self, loss: Tensor) -> None:
        """In few operations, for each is a kernel of every update."""
        torch.where(self.stopped > 0, self._latest, loss, out=self._latest)
        self.stopped.logical_or_(loss - loss)  # 0 if it is finite, else NaN, which is true
        self.iteration += 1 - self.stopped

    def first_bad(self) -> tuple[int, float] | None:
        """The iteration of the first loss that is not finite, and that loss. Waits for the device."""
        return (int(self.iteration), float(self._latest)) if self.stopped else None

    def so_far(self) -> tuple[float, int]:
        """The sum of the losses since the last mean, and their number. Waits for the device."""
        return float(self._sum), self.count

    def go_on_from(self, total: float, count: int) -> None:
        """As if these losses had been added here."""
        self._sum.fill_(total)
        self.count = count

    def take_mean(self) -> float | None:
        """Of the losses since the last call; None when there was none. Waits for the device."""
        if self.count == 0:
            return None
        mean = float(self._sum) / self.count
        self._sum.zero_()
        self.count = 0
        return mean


class Course(ABC):
    """A training under way. Subclasses set the attributes and compute the updates.

    `step`: how the updates are computed. `note`: why this is not what the settings ask for, empty where it is.
    `captured`, `why_eager`: see `TrainResult`.
    """

    step: Step
    note: str
    captured: bool
    why_eager: str
    losses: Losses
    strides = False  # whether `advance` makes more than one update

    def __init__(self, network: Network, data: DeviceData, settings: TrainSettings, start: TrainState) -> None:
        """Bring `network` to the device, as it is at `start`. Raises: IntegrityError for a state of another network."""
        self.network, self.settings, self.device = network, settings, data.device
        self.first_batch = start.data_position
        start.load_into(network)
        network.to(data.device).to(memory_format=torch.channels_last).train()
        check_shapes(start.momentum, dict(network.named_parameters()), "momentum")

    def mean_loss(self) -> float | None:
        """Mean training loss since the last call, None when there was no update. Raises: DivergedError."""
        self._raise_if_diverged()
        return self.losses.take_mean()

    @abstractmethod
    def advance(self, t: int, until: int) -> int:
        """Make updates of this run from `t` on, up to `until` at most; the number of the next.

        It comes back at `until`, or before so that the caller may look at what else there is; updates may go on
        meanwhile, up to `until`, and then it is called again with what it returned.
        """

    def halt(self, t: int) -> int:
        """Make no more updates; the number of the next, `t` or what was made meanwhile."""
        return t

    def go_on_from(self, total: float, count: int) -> None:
        """Begin with this sum of so many losses since the last mean."""
        self.losses.go_on_from(total, count)

    @abstractmethod
    def network_now(self) -> Network:
        """The network with the weights that the training has reached, to be evaluated."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the memory of a captured step."""

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


class OfRows(Course):
    """A training whose state lies in a row of `FusedTrials`.

    The network that it is given has the weights of the training only after `network_now`.
    """

    def __init__(self, network: Network, data: DeviceData, settings: TrainSettings, start: TrainState) -> None:
        super().__init__(network, data, settings, start)
        self.step: Step = "fused"
        self.why_eager, self.note = "", ""
        self._counted = {name: value for name, value in start.buffers.items() if name.endswith("num_batches_tracked")}
        self._made = 0

    def _fill(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Network:
        """The network with these values."""
        values = {**parameters, **buffers}
        with torch.no_grad():
            for name, tensor in (*self.network.named_parameters(), *self.network.named_buffers()):
                tensor.copy_(values[name])
        return self.network

    def _buffers(self, running: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In the network's order: running statistics, and the counters, which no kernel needs to count."""
        found = {**running, **{name: value + self._made for name, value in self._counted.items()}}
        return {name: found[name] for name, _ in self.network.named_buffers()}


class OneByOne(Course):
    """Position and rate of a training whose host makes ready for each update."""

    stream: BatchStream
    rate: Tensor  # on the device
    current_rate: float  # the same
    _t: int  # the last update

    @abstractmethod
    def update(self, t: int) -> None:
        """Update `t` of this run."""

    def advance(self, t: int, until: int) -> int:
        self.update(t)
        return t + 1

    def _go_to(self, t: int) -> None:
        """Make ready for update `t`: its batch, its rate, its number."""
        self.stream.seek(self.first_batch + t)
        if (rate := self.settings.rate(t)) != self.current_rate:
            self.current_rate = rate
            self.rate.fill_(rate)
        if t != self._t + 1:
            self.losses.iteration.fill_(t)
        self._t = t


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
