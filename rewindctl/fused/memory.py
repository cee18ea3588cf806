"""The tensors that kernels read and write; the first dimension of each is the trial."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rewindctl.fused.layout import Layout, Sums

MOST_ELEMENTS = 2**31  # of a tensor of one trial: places in it are counted in 32 bits


@dataclass(frozen=True)
class Images:
    """A tensor (trials, images, height, width, channels) as the kernels have it, and what part of them a trial is."""

    tensor: Tensor
    height: int
    width: int
    channels: int
    count: int

    @property
    def rows(self) -> int:
        return self.count * self.height * self.width

    @property
    def elements(self) -> int:
        return self.rows * self.channels


@dataclass(frozen=True)
class Normed:
    """A batch norm's input and output, and where its statistics are.

    `folded`: no kernel makes the output; who reads it normalises what it loads, and `out` is the input.
    """

    name: str
    raw: Images
    out: Images
    stat: Tensor
    folded: bool = False


@dataclass(frozen=True)
class Part:
    """Sums that the programs of a kernel left, (trials, programs, 2, channels), each of `tile` rows."""

    tensor: Tensor
    programs: int
    tile: int


@dataclass
class Memory:
    """Every tensor of a step, by name; what a pass back leaves for the next step back is written over and over."""

    trials: int
    dtype: torch.dtype
    device: torch.device
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def images(self, name: str, like: tuple[int, int, int, int]) -> Images:
        """(images, height, width, channels) of each trial; the same again for the same name and size."""
        count, height, width, channels = like
        if count * height * width * channels >= MOST_ELEMENTS:
            raise ValueError(f"{name} has {count * height * width * channels:,} elements")
        key = f"{name} {count}x{height}x{width}x{channels}"
        return Images(self.get(key, (count, height, width, channels), self.dtype), height, width, channels, count)

    def get(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        if name not in self.tensors:
            self.tensors[name] = torch.zeros(self.trials, *shape, dtype=dtype, device=self.device)
        return self.tensors[name]

    @property
    def bytes_per_trial(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values()) // self.trials


@dataclass(frozen=True)
class Parameters:
    """Rows of all parameters of all trials: the masters, what convolutions read, the sums of gradients, statistics."""

    layout: Layout
    weights: Tensor
    copies: Tensor
    sums: Tensor
    where: Sums
    running: Tensor
    running_places: dict[str, int]

    def master(self, name: str) -> Tensor:
        return self.weights[0, self.layout.places[name].start :]

    def copy(self, name: str) -> Tensor:
        return self.copies[0, self.layout.places[name].start :]

    def running_of(self, name: str) -> Tensor:
        """The mean of a norm, and after it the variance."""
        return self.running[0, self.running_places[name] :]

    def sums_of(self, name: str) -> Tensor:
        return self.sums[0, self.where.of[name].start :]
