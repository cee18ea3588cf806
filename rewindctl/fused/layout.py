"""Where the parameters of a network lie in one row of memory, in the order that the kernels read them in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LEAST_CLASSES = 16


def power_of_two(least: int) -> int:
    """The smallest power of two that is at least `least`."""
    return 1 << max(0, least - 1).bit_length()


@dataclass(frozen=True)
class ParameterPlace:
    """Of one parameter: its first element in the row, its shape in PyTorch, and there (`classes` filled up with 0)."""

    start: int
    shape: torch.Size
    size: int
    padded_classes: int = 0

    def put(self, value: Tensor, row: Tensor) -> None:
        """Write `value`, shaped as in PyTorch, into its place of `row`."""
        to = row[self.start : self.start + self.size]
        if self.padded_classes:  # of the dense layer: (classes, features) as (features, padded classes)
            to.view(-1, self.padded_classes)[:, : self.shape[0]].copy_(value.view(self.shape[0], -1).t())
        elif len(self.shape) == 4:  # (out, in, height, width) as (height, width, in, out)
            out, into, height, width = self.shape
            to.view(height, width, into, out).copy_(value.permute(2, 3, 1, 0))
        else:
            to.copy_(value)

    def get(self, row: Tensor) -> Tensor:
        """The value in its place of `row`, shaped as in PyTorch, in memory of its own."""
        found = row[self.start : self.start + self.size]
        if self.padded_classes:
            found = found.view(-1, self.padded_classes)[:, : self.shape[0]].t().reshape(self.shape)
        elif len(self.shape) == 4:
            out, into, height, width = self.shape
            found = found.view(height, width, into, out).permute(3, 2, 0, 1)
        return found.clone(memory_format=torch.contiguous_format)


class Layout:
    """Of the parameters of a ResNet or WRN: `places` by name, `size` of a row, `classes` of one of the dense layer."""

    def __init__(self, network: nn.Module, unit: int) -> None:
        """`unit`: parameters that one program of the update takes; every parameter begins at a multiple."""
        self.unit = unit
        self.places: dict[str, ParameterPlace] = {}
        self.size = 0
        dense = network.get_submodule("dense")
        assert isinstance(dense, nn.Linear)
        self.classes = max(LEAST_CLASSES, power_of_two(dense.out_features))
        for name, parameter in network.named_parameters():
            padded = self.classes if name.startswith("dense.") else 0
            size = self.classes * (parameter.numel() // parameter.shape[0]) if padded else parameter.numel()
            self.places[name] = ParameterPlace(self.size, parameter.shape, size, padded)
            self.size += -(-size // unit) * unit

    def put(self, values: Mapping[str, Tensor], row: Tensor) -> None:
        """Write each value into its place; what lies between the places stays."""
        for name, value in values.items():
            self.places[name].put(value, row)

    def get(self, row: Tensor) -> dict[str, Tensor]:
        """Every parameter, shaped as in PyTorch."""
        return {name: place.get(row) for name, place in self.places.items()}


@dataclass(frozen=True)
class Shares:
    """Where the gradient of a parameter is summed up: the first element, and how many parts lie one after another."""

    start: int
    count: int


class Sums:
    """A row for the gradients of all parameters, each in so many shares, and the table that the update reads."""

    def __init__(self, layout: Layout, shares: Mapping[str, int]) -> None:
        self.of: dict[str, Shares] = {}
        self.size = 0
        for name, place in layout.places.items():
            count = shares.get(name, 1)
            self.of[name] = Shares(self.size, count)
            self.size += -(-count * place.size // 16) * 16
        self._layout = layout

    def table(self) -> Tensor:
        """(blocks, 4) int32: for each `unit` of a row its first sum, shares, their distance, parameters."""
        return torch.tensor(list(self._rows()), dtype=torch.int32)

    def _rows(self) -> Iterable[tuple[int, int, int, int]]:
        unit = self._layout.unit
        for name, place in self._layout.places.items():
            own = self.of[name]
            for first in range(0, place.size, unit):
                yield own.start + first, own.count, place.size, min(unit, place.size - first)
