"""In what arithmetic the forward and backward passes are computed, and what `auto` chooses.

`bf16` is PyTorch's autocast: convolutions and matrix products in bfloat16, losses and sums of statistics in float32.
Weights, momentum, the update itself and every evaluation are float32 in either.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from rewindctl.arithmetic import AUTO, Precision

WORTH_CONVERTING = 200e6  # multiply-adds of a forward pass over a batch; below, conversions cost what bf16 saves
OLDEST_CAPABILITY = (8, 0)  # of a CUDA device with bf16 matrix units


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision, and why it is that one."""

    precision: Precision
    why: str


def choose_for(
    asked: str, device: torch.device, network: nn.Module, batch: tuple[int, int, int, int]
) -> PrecisionChoice:
    """The precision to train `network` in, in batches of (images, channels, height, width)."""
    size, channels, height, width = batch
    return choose(asked, device, lambda: size * multiply_adds(network, (channels, height, width)))


def choose(asked: str, device: torch.device, work: Callable[[], float]) -> PrecisionChoice:
    """The precision to train in; `work` counts the multiply-adds of a forward pass over a batch, where they decide."""
    if asked != AUTO:
        return PrecisionChoice("bf16" if asked == "bf16" else "fp32", "asked for")
    missing = missing_unit(device)
    if missing:
        return PrecisionChoice("fp32", missing)
    if device.type == "cpu" and (adds := work()) < WORTH_CONVERTING:
        return PrecisionChoice("fp32", f"{adds / 1e6:.0f} million multiply-adds a batch are too few to gain from bf16")
    return PrecisionChoice("bf16", "the GPU has bf16" if device.type == "cuda" else "the processor has bf16")


def missing_unit(device: torch.device) -> str:
    """Why bf16 is not fast on a device; empty where it is."""
    if device.type == "cuda":
        old = torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY
        return "the GPU is too old for bf16" if old else ""
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "" if fast else "the processor has neither AVX512-BF16 nor AMX"


def multiply_adds(network: nn.Module, image: tuple[int, int, int]) -> float:
    """Multiply-adds of every convolution and dense layer for one image of (channels, height, width).

    Not by PyTorch's FlopCounterMode, which counts any operation and imports a compiler, a second at each start.
    """
    total = 0

    def count(layer: nn.Module, _: object, made: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        total += made.numel() * weight[0].numel()  # each output is a sum over one kernel

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    training = network.training
    network.eval()
    with torch.no_grad():
        network(torch.zeros(1, *image, device=next(network.parameters()).device))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return float(total)
