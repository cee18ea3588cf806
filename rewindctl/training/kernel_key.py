"""What is kept of kernels of our own on this machine: under which key, for what they do hangs on much."""

import hashlib
from functools import cache
from pathlib import Path

import torch
from torch import nn

from rewindctl import fused
from rewindctl.arithmetic import Precision
from rewindctl.fused.pairs import structure
from rewindctl.training.device import device_name, driver, package_version


def key_here(device: torch.device) -> str:
    """What every key of this device begins with: its name, its driver, the versions, and a hash of the kernels."""
    machine = (device_name(device), driver() if device.type == "cuda" else "")
    versions = [f"{name} {package_version(name) or 'unknown'}" for name in ("torch", "triton")]
    return ", ".join([*filter(None, machine), *versions, f"kernels {_hash_of_code()}"])


def kernel_key(device: torch.device, network: nn.Module, precision: Precision, *kind: object) -> str:
    """Everything that decides what the kernels of a network do, in words and a hash of the rest.

    `kind`: what else decides, each with a `repr` of its own.
    """
    shapes = [(name, tuple(parameter.shape)) for name, parameter in network.named_parameters()]
    rest = hashlib.sha256(repr((shapes, kind)).encode() + structure(network).encode()).hexdigest()[:16]
    return ", ".join([key_here(device), precision, rest])


@cache
def _hash_of_code() -> str:
    code = b"".join(path.read_bytes() for path in sorted(Path(fused.__file__).parent.glob("*.py")))
    return hashlib.sha256(code).hexdigest()[:8]
