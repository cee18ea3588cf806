"""A few layers as kernels of our own, and the same in PyTorch in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from rewindctl.fused.launching import kernel_of, norms_of
from rewindctl.fused.layout import Layout, Sums
from rewindctl.fused.memory import Images, Memory, Normed, Parameters
from rewindctl.fused.passes import Passes
from rewindctl.fused.tiles import Tiles, sharing

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LARGE = Tiles.usual(torch.device("cpu"), torch.float32)
APART = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2}  # of results made of tensors rounded to so few bits on the way


class Layers(nn.Module):
    """A convolution, its norm, a second convolution of what that gives, and a projection beside it; a dense layer."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, kernel: int = 3, stride: int = 1, classes: int = 10
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, middle, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(middle, momentum=0.3)
        self.second = nn.Conv2d(middle, outputs, kernel, stride, kernel // 2, bias=False)
        self.projection = nn.Conv2d(middle, outputs, 1, stride, bias=False)
        self.dense = nn.Linear(middle, classes)

    def activated(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        found = self.norm(self.first(x))
        return relu(found if added is None else found + added)


@dataclass
class Parts:
    """`Layers` of several trials, each with weights of its own, and the kernels that are put together of them."""

    network: Layers
    memory: Memory
    parameters: Parameters
    passes: Passes

    @classmethod
    def of(cls, network: Layers, dtype: torch.dtype, sizes: dict[str, int], trials: int = 2) -> "Parts":
        """`sizes`: how many pixels each convolution's output has."""
        tiles, layout, memory = LARGE, Layout(network, LARGE.unit), Memory(trials, dtype, DEVICE)
        modules = {name: network.get_submodule(name) for name in sizes}
        shares = {
            f"{name}.weight": sharing(tiles, kernel_of(module), sizes[name]).shares
            for name, module in modules.items()
            if isinstance(module, nn.Conv2d)
        }
        where = Sums(layout, shares)
        weights = torch.randn(trials, layout.size, device=DEVICE) * 0.3
        for name, place in layout.places.items():
            if place.padded_classes:
                kept = torch.zeros(layout.size, device=DEVICE)
                place.put(torch.ones(place.shape, device=DEVICE), kept)
                weights[:, place.start : place.start + place.size] *= kept[place.start : place.start + place.size]
            if name == "norm.weight":
                weights[:, place.start : place.start + place.size] += 1
        copies = weights if dtype == torch.float32 else weights.to(dtype)
        sums = torch.full((trials, where.size), torch.nan, device=DEVICE)
        running = torch.rand(trials, 2 * network.norm.num_features, device=DEVICE)
        names = {name: 0 for name, _ in norms_of(network)}
        parameters = Parameters(layout, weights, copies, sums, where, running, names)
        return cls(network, memory, parameters, Passes(network, memory, parameters, tiles))

    def images(self, name: str, shape: tuple[int, int, int, int], scale: float = 1.0) -> Images:
        """Random ones, (images, height, width, channels) of each trial."""
        made = self.memory.images(name, shape)
        made.tensor.copy_(torch.randn(made.tensor.shape) * scale)
        return made

    def poison(self) -> None:
        """Everything that kernels are to write is NaN before."""
        for name, tensor in self.memory.tensors.items():
            if not name.startswith("given") and tensor.is_floating_point():
                tensor.fill_(torch.nan)

    def run(self) -> None:
        for launch in self.passes.launches:
            launch()

    def in_float64(self, trial: int) -> Layers:
        """The network of a trial, with the weights that its convolutions read."""
        network = self.network
        found = Layers(
            *(network.first.in_channels, network.first.out_channels, network.second.out_channels),
            *(network.second.kernel_size[0], network.second.stride[0], network.dense.out_features),
        ).double()
        for name, parameter in found.named_parameters():
            rows = self.parameters.copies if parameter.dim() == 4 else self.parameters.weights
            parameter.data.copy_(self.parameters.layout.places[name].get(rows[trial]))
        running = self.parameters.running[trial]
        found.norm.running_mean, found.norm.running_var = (part.double().cpu() for part in running.clone().chunk(2))
        return found

    def gradient(self, name: str, trial: int) -> Tensor:
        """What the shares of a parameter's gradient sum up to, shaped as in PyTorch."""
        place, own = self.parameters.layout.places[name], self.parameters.where.of[name]
        row = torch.zeros(self.parameters.layout.size, device=DEVICE)
        shares = self.parameters.sums[trial, own.start : own.start + own.count * place.size].view(own.count, -1)
        row[place.start : place.start + place.size] = shares.sum(0)
        return place.get(row)


def nchw(images: Images, trial: int) -> Tensor:
    """(images, channels, height, width) float64 of a trial, on the host."""
    return images.tensor[trial].double().cpu().permute(0, 3, 1, 2).contiguous()


def near(found: Tensor, wanted: Tensor, within: float) -> None:
    """Raises: AssertionError when the difference's norm is more than a part of the wanted one's, or not a number."""
    wanted = wanted.detach()
    apart = float((found.detach().double().cpu() - wanted).norm() / wanted.norm().clamp(min=1e-12))
    assert apart <= within, apart


def normed(parts: Parts, x: Images, added: Images | None = None) -> Normed:
    """The first convolution and its norm, as kernels."""
    return parts.passes.norm("norm", parts.passes.first("first", x), added)
