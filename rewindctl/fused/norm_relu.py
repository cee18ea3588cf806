"""Batch norm and ReLU by kernels of our own between the operations of PyTorch."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.fx import GraphModule
from torch.nn.functional import relu

from rewindctl.fused import norms
from rewindctl.fused.launch import Launch
from rewindctl.fused.layout import power_of_two
from rewindctl.fused.memory import MOST_ELEMENTS
from rewindctl.fused.pairs import UntracedError, pairs, traced
from rewindctl.fused.tiles import tile_columns

ELEMENTS = 4096  # that a program works on at a time
PROGRAMS = 512  # about as many leave sums; one adds those of 16 channels
SUMMED, AT_ONCE = 16, 512
LAST = torch.channels_last
DTYPES = (torch.float32, torch.bfloat16)


class NormRelu(Function):
    """relu(norm(x) (+ added)), its running statistics moved; `x` and `added` channels-last and of one type.

    Every sum is made in a fixed order: the same bytes each time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        epsilon: float,
        added: Tensor | None,
    ) -> Tensor:
        out = torch.empty_like(x, memory_format=LAST)
        stat = torch.empty(4 * x.shape[1], device=x.device)
        with torch.cuda.device_of(x):
            for launch in forward(x, gamma, beta, running_mean, running_var, momentum, epsilon, added, out, stat):
                launch()
        ctx.save_for_backward(x, gamma, stat, *(() if added is None else (out,)))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, stat, *out = ctx.saved_tensors
        dy = dy.contiguous(memory_format=LAST)
        dx = torch.empty_like(x, memory_format=LAST)
        dadded = torch.empty_like(x, memory_format=LAST) if out else None
        dgamma, dbeta = torch.empty_like(gamma), torch.empty_like(gamma)
        with torch.cuda.device_of(x):
            for launch in backward(dy, x, gamma, stat, out[0] if out else None, dx, dadded, dgamma, dbeta):
                launch()
        return dx, dgamma, dbeta, None, None, None, None, dadded


def forward(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    epsilon: float,
    added: Tensor | None,
    out: Tensor,
    stat: Tensor,
) -> list[Launch]:
    """The kernels that leave relu(norm(x) (+ added)) in `out` and the statistics in `stat`."""
    size, channels, rows = x.numel(), x.shape[1], x.numel() // x.shape[1]
    parts, cut = _summing(rows, channels)
    part = torch.empty(parts, 2, channels, device=x.device)
    few = tile_columns(channels, SUMMED)
    return [
        Launch(
            "sums",
            norms.column_sums,
            (parts, channels // cut["BC"], 1),
            (x, part, size, rows),
            {"C": channels, **cut, "EARLY": False},
            warps=8,
        ),
        Launch(
            "statistics",
            norms.statistics,
            (channels // few, 1, 1),
            (
                *(part, gamma, beta, stat, running_mean, running_var, parts, channels, 4 * channels, channels),
                *(rows, float(epsilon), float(momentum)),
            ),
            {"C": channels, "BM": cut["BM"], "BC": few, "BP": min(AT_ONCE, power_of_two(parts)), "EARLY": False},
            warps=8,
        ),
        Launch(
            "normalise",
            norms.normalise,
            (-(-rows // cut["BR"]), channels // cut["BC"], 1),
            (x, x if added is None else added, out, stat, size, 4 * channels, rows),
            {"C": channels, "BM": cut["BR"], "BC": cut["BC"], "ADD": added is not None, "EARLY": False},
        ),
    ]


def backward(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor,
    stat: Tensor,
    out: Tensor | None,
    dx: Tensor,
    dadded: Tensor | None,
    dgamma: Tensor,
    dbeta: Tensor,
) -> list[Launch]:
    """The kernels that leave the gradients; with `dadded`, that of what was added, `out` is what forward left."""
    size, channels, rows = x.numel(), x.shape[1], x.numel() // x.shape[1]
    parts, cut = _summing(rows, channels)
    part, back = torch.empty(parts, 2, channels, device=x.device), torch.empty(3 * channels, device=x.device)
    few, alive = tile_columns(channels, SUMMED), dy if dadded is None else dadded
    return [
        Launch(
            "sums back",
            norms.column_sums_back,
            (parts, channels // cut["BC"], 1),
            (dy, x, x if out is None else out, alive, stat, part, size, 4 * channels, rows),
            {"C": channels, **cut, "ADD": dadded is not None, "EARLY": False},
            warps=8,
        ),
        Launch(
            "statistics back",
            norms.statistics_back,
            (channels // few, 1, 1),
            (
                *(part, gamma, stat, back, dgamma, dbeta),
                *(parts, channels, 4 * channels, 3 * channels, channels, rows),
            ),
            {"C": channels, "BC": few, "BP": min(AT_ONCE, power_of_two(parts)), "EARLY": False},
            warps=8,
        ),
        Launch(
            "normalise back",
            norms.normalise_back,
            (-(-rows // cut["BR"]), channels // cut["BC"], 1),
            (alive, x, x, dx, stat, back, size, 4 * channels, 3 * channels, rows),
            {
                **{"C": channels, "BM": cut["BR"], "BC": cut["BC"]},
                **{"ADD": False, "MASK": dadded is None, "EARLY": False},
            },
        ),
    ]


def _summing(rows: int, channels: int) -> tuple[int, dict[str, int]]:
    """How many programs sum, and tiles of how many rows, how many of them at a time, and columns."""
    columns = tile_columns(channels, 64)
    at_once = min(ELEMENTS // columns, power_of_two(rows))
    tile = at_once
    while -(-rows // tile) * (channels // columns) > PROGRAMS:
        tile *= 2
    return -(-rows // tile), {"BM": tile, "BR": at_once, "BC": columns}


class NormThenRelu(nn.Module):
    """A network's batch norm with what follows it: by kernels in training, by PyTorch's operations where they cannot.

    The norm is the network's own, and has all there is to save.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        norm = self.norm
        if not (norm.training and _taken(x, norm) and (added is None or _alike(added, x))):
            made = norm(x)
            return relu(made if added is None else made + added)
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        given = (norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps)
        out: Tensor = NormRelu.apply(x, *given, added)
        return out


def _taken(x: Any, norm: nn.BatchNorm2d) -> bool:
    """Whether it is what kernels read."""
    return (
        type(x) is Tensor
        and x.dim() == 4
        and x.dtype in DTYPES
        and x.shape[1] == norm.num_features
        and x.is_contiguous(memory_format=LAST)
        and x.numel() < MOST_ELEMENTS
        and x.numel() >= 2 * x.shape[1]  # of one value there is no variance: PyTorch says so
        and all(
            tensor is not None and tensor.dtype == torch.float32 and tensor.device == x.device
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
    )


def _alike(added: Any, x: Tensor) -> bool:
    return (
        type(added) is Tensor
        and added.shape == x.shape
        and added.dtype == x.dtype
        and added.device == x.device
        and added.is_contiguous(memory_format=LAST)
    )


def with_kernels(network: nn.Module) -> GraphModule:
    """The forward pass of a network, of its own layers and tensors, with its norms that can be by kernels of our own.

    Raises: UntracedError where there is none.
    """
    made = traced(network)
    found = pairs(made)
    if not found:
        raise UntracedError("no batch norm that our kernels know")
    for index, pair in enumerate(found):
        norm, name = made.get_submodule(pair.name), f"norm_then_relu_{index}"
        assert isinstance(norm, nn.BatchNorm2d)
        if not made.add_submodule(name, NormThenRelu(norm)):
            raise UntracedError(f"one of its layers has the reserved name {name}")
        # Where the last is computed that they read; what only the ReLU does comes later, and nobody reads before it.
        with made.graph.inserting_before(pair.calls[-2]):
            call = made.graph.call_module(name, pair.given)
        pair.calls[-1].replace_all_uses_with(call)
        for node in reversed(pair.calls):
            made.graph.erase_node(node)
    made.graph.lint()
    made.recompile()
    made.graph.owning_module = None  # so that it is gone with its last name
    return made
