"""The state of any number of trials of one network on the device, and the kernels of an update of them all."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rewindctl.datasets.batches import DeviceData, Draws
from rewindctl.errors import UsageError
from rewindctl.fused import families, update
from rewindctl.fused.launch import Launch, Moved, started_on
from rewindctl.fused.launching import kernel_of, norms_of
from rewindctl.fused.layout import Layout, Sums, power_of_two
from rewindctl.fused.memory import Images, Memory, Parameters
from rewindctl.fused.passes import Passes
from rewindctl.fused.tiles import Tiles, sharing
from rewindctl.models import Network
from rewindctl.models.resnet import ResNet
from rewindctl.models.wrn import WideResNet
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState

SHARES_AT_ONCE = 16  # that the update reads together


@dataclass(frozen=True)
class Constants:
    """What all trials have in common, as `TrainSettings` has it."""

    batch_size: int
    crop_padding: int
    momentum: float
    nesterov: bool
    weight_decay: float
    dtype: torch.dtype


class FusedTrials:
    """Weights, momentum, statistics and draws of `trials`, and `launches`: the kernels of one update of each of them.

    No kernel's arithmetic depends on how many trials there are, or on a trial's place among them.
    """

    def __init__(
        self, network: Network, data: DeviceData, constants: Constants, trials: int, tiles: Tiles | None = None
    ) -> None:
        """`network` says the architecture alone. Raises: UsageError for more images than one tensor can hold."""
        self.network, self.data, self.constants, self.count = network, data, constants, trials
        self.tiles = tiles or Tiles.usual(data.device, constants.dtype)
        self.memory = Memory(trials, constants.dtype, data.device)
        self.layout = layout = Layout(network, self.tiles.unit)
        self.norms = dict(norms_of(network))
        new = self.memory.get
        samples, self.height, self.width, self.channels = data.train_images.shape
        self.batches = samples // constants.batch_size
        self.weights, self.momenta = new("weights", (layout.size,)), new("momenta", (layout.size,))
        low = constants.dtype != torch.float32
        self.copies = new("copies", (layout.size,), constants.dtype) if low else self.weights
        self.kept = new("kept", (layout.size,), torch.uint8)
        self.rate, self.position = new("rate", ()), new("position", (), torch.int64)
        drawn = (self.batches, constants.batch_size)
        self.draws = Draws(*(new(name, drawn, torch.int64) for name in ("indices", "down", "across")))
        self.loss_sum, self.iteration = new("loss sum", (), torch.float64), new("iteration", (), torch.float64)
        self.latest, self.stopped = new("latest", ()), new("stopped", ())
        places, size = {}, 0
        for name, norm in self.norms.items():
            places[name] = size
            size += 2 * norm.num_features
        self.running, self.running_places = new("running", (size,)), places
        self.launches = self._passes()

    # The state of a trial

    def load(self, trial: int, state: TrainState, mask: Mask | None) -> None:
        """Begin trial number `trial` at `state`; what `mask` removes is 0 from now on, weight and momentum."""
        removed = mask.tensors() if mask else {}
        for counter in (self.loss_sum, self.iteration, self.latest, self.stopped):
            counter[trial].zero_()
        for row, values in ((self.weights[trial], state.parameters), (self.momenta[trial], state.momentum)):
            row.zero_()
            self.layout.put({name: value.to(row.device) for name, value in values.items()}, row)
        kept = self.kept[trial]
        kept.fill_(1)
        self.layout.put({name: tensor.to(kept.device, kept.dtype) for name, tensor in removed.items()}, kept)
        for row in (self.weights[trial], self.momenta[trial]):
            row.mul_(kept)
        if self.copies is not self.weights:
            self.copies[trial].copy_(self.weights[trial])
        for name in self.norms:
            for value, part in zip(self._running(trial, name), ("running_mean", "running_var"), strict=True):
                value.copy_(state.buffers[f"{name}.{part}"])

    def parameters_of(self, trial: int) -> dict[str, Tensor]:
        """Shaped as in PyTorch, on the device."""
        return self.layout.get(self.weights[trial])

    def momentum_of(self, trial: int) -> dict[str, Tensor]:
        """Shaped as in PyTorch, on the device."""
        return self.layout.get(self.momenta[trial])

    def running_of(self, trial: int) -> dict[str, Tensor]:
        """Mean and variance of every norm by the names of the buffers, on the device."""
        found: dict[str, Tensor] = {}
        for name in self.norms:
            mean, variance = self._running(trial, name)
            found |= {f"{name}.running_mean": mean, f"{name}.running_var": variance}
        return found

    def _running(self, trial: int, name: str) -> tuple[Tensor, Tensor]:
        start, channels = self.running_places[name], self.norms[name].num_features
        row = self.running[trial]
        return row[start : start + channels], row[start + channels : start + 2 * channels]

    def changed(self) -> Sequence[Tensor]:
        """Every tensor that an update writes to and that the next one reads."""
        return [
            *(self.weights, self.momenta, self.running, self.position),
            *(self.loss_sum, self.iteration, self.latest, self.stopped),
            *([] if self.copies is self.weights else [self.copies]),
        ]

    def state(self) -> list[Tensor]:
        """All that trials are, a row each; every other tensor an update makes anew."""
        drawn = (self.draws.indices, self.draws.down, self.draws.across)
        return [*self.changed(), self.kept, self.rate, *drawn]

    def exchange(self, one: int, other: int) -> None:
        """Let two trials change places."""
        for tensor in self.state():
            kept = tensor[one].clone()
            tensor[one].copy_(tensor[other])
            tensor[other].copy_(kept)

    # The kernels

    def run(self, count: int | None = None) -> None:
        """An update of the first `count` trials, by default of every one."""
        with started_on(self.data.device):
            for launch in self.launches:
                launch(count)

    def _passes(self) -> list[Launch]:
        constants, layout = self.constants, self.layout
        self.where = where = Sums(layout, self._shares())
        sums = self.memory.get("sums", (where.size,))
        parameters = Parameters(layout, self.weights, self.copies, sums, where, self.running, self.running_places)
        passes = Passes(self.network, self.memory, parameters, self.tiles)
        try:
            batch = self.memory.images("batch", (constants.batch_size, self.height, self.width, self.channels))
            labels = self.memory.get("labels", (constants.batch_size,), torch.int64)
            self._take(passes, batch, labels)
            if isinstance(self.network, ResNet):
                families.resnet(passes, self.network, batch, labels)
            else:
                assert isinstance(self.network, WideResNet)
                families.wrn(passes, self.network, batch, labels)
        except ValueError as error:
            raise UsageError(f"batch size {constants.batch_size} is too large: {error}") from error
        passes.head_gradients(self.loss_sum, self.latest, self.stopped, self.iteration, self.position, self.batches)
        self._update(passes, parameters)
        return passes.launches

    def _shares(self) -> dict[str, int]:
        """Into how many sums each convolution's gradient is cut."""
        found, sizes = {}, self.output_sizes()
        for name, module in self.network.named_modules():
            if isinstance(module, nn.Conv2d):
                height, width = sizes[name]
                cut = sharing(self.tiles, kernel_of(module), self.constants.batch_size * height * width)
                found[f"{name}.weight"] = cut.shares
        return found

    def output_sizes(self) -> dict[str, tuple[int, int]]:
        """Height and width of what each convolution makes."""
        height, width = self.height, self.width
        found = {"stem": (height, width)}
        blocks = self.network.get_submodule("blocks")
        for index, block in enumerate(blocks.children()):
            conv = block.get_submodule("conv1")
            assert isinstance(conv, nn.Conv2d)
            height, width = -(-height // conv.stride[0]), -(-width // conv.stride[0])
            found |= {f"blocks.{index}.{name}": (height, width) for name in ("conv1", "conv2", "projection")}
        return found

    def _take(self, passes: Passes, batch: Images, labels: Tensor) -> None:
        data, draws = self.data, self.draws
        elements = self.height * self.width * self.channels
        block = min(1024, power_of_two(elements))
        passes.add(
            "batch",
            update.take_batch,
            (-(-elements // block), batch.count),
            (
                *(data.train_images, data.train_labels, draws.indices, draws.down, draws.across, self.position),
                *(data.scale, data.shift, batch.tensor, labels, self.batches * batch.count),
            ),
            {
                **{"HEIGHT": self.height, "WIDTH": self.width, "CHANNELS": self.channels},
                **{"PADDING": self.constants.crop_padding, "IMAGES": batch.count, "BLOCK": block},
            },
            read=(Moved(data.train_images, batch.elements, batch.elements),),
            written=(_row(batch.tensor), _row(labels)),
        )

    def _update(self, passes: Passes, parameters: Parameters) -> None:
        table = parameters.where.table().to(self.data.device)
        constants = self.constants
        copied = self.copies is not self.weights
        passes.add(
            "update",
            update.update,
            (len(table), 1),
            (
                *(self.weights, self.copies, self.momenta, self.kept, parameters.sums, table, self.rate, self.stopped),
                *(self.layout.size, parameters.where.size, constants.momentum, constants.weight_decay),
            ),
            {
                **{"NESTEROV": constants.nesterov, "COPY": copied},
                **{"BLOCK": self.layout.unit, "BS": SHARES_AT_ONCE},
            },
            read=tuple(map(_row, [self.weights, self.momenta, parameters.sums, self.kept])),
            written=tuple(map(_row, [self.weights, self.momenta, *([self.copies] if copied else [])])),
        )


def _row(tensor: Tensor) -> Moved:
    """All of a trial's part of a tensor."""
    size = tensor[0].nbytes
    return Moved(tensor, size, size)
