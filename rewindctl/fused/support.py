"""Whether a network can be trained by these kernels."""

from importlib.util import find_spec

import torch
from torch import nn

from rewindctl.fused.pairs import traced, why_none
from rewindctl.models.resnet import ResNet
from rewindctl.models.wrn import WideResNet

OLDEST_CAPABILITY = (8, 0)  # of a CUDA device: bf16 matrix units, copies that need no registers


def missing_part(device: torch.device) -> str:
    """What a machine lacks for kernels of our own; empty where it has all."""
    if find_spec("triton") is None:
        return "Triton is not installed (PyTorch brings it on Linux, with CUDA)"
    if device.type != "cuda":
        return "they need a CUDA device"
    if torch.version.hip is not None:
        return "they were made for NVIDIA's GPUs"
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return "the GPU is too old for them"
    return ""


def is_whole(network: nn.Module) -> bool:
    """Whether there are kernels for all of a network; of others they make batch norms with their ReLU alone."""
    return type(network) in (ResNet, WideResNet)


def unfit(network: nn.Module) -> str:
    """Why a network cannot be trained by kernels of our own; empty where it can be."""
    return "" if is_whole(network) else why_none(network)


def structure(network: nn.Module) -> str:
    """What tells a network from others that have parameters of the same names and shapes."""
    return type(network).__name__ if is_whole(network) else f"{network} {traced(network).code}"
