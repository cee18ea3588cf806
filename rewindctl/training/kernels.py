"""Which kernels a GPU may use: a setting of the process, shared by the trainings in it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from rewindctl.training.shared import Shared


@contextmanager
def reproducible(device: torch.device, deterministic: bool) -> Iterator[None]:
    """On CUDA: float32 is float32 (not TF32), and with `deterministic` the same seed gives the same bytes.

    Without it cuDNN takes the kernels that it measures to be fastest.
    """
    with _kernels[deterministic] if device.type == "cuda" else nullcontext():
        yield


@contextmanager
def _chosen_kernels(deterministic: bool) -> Iterator[None]:
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    memory: Any = torch.utils.deterministic  # its type does not tell of the setting
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    precision, filled = convolutions.fp32_precision, memory.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        # Else PyTorch writes NaN into each new tensor first: a kernel for nearly every kernel of a step, and no other
        # bytes, since nothing here reads what it has not written.
        memory.fill_uninitialized_memory = False
        torch.backends.cudnn.benchmark = not deterministic
        convolutions.fp32_precision = "ieee"
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        memory.fill_uninitialized_memory = filled
        torch.backends.cudnn.benchmark = benchmark
        convolutions.fp32_precision = precision


_kernels = {choice: Shared(partial(_chosen_kernels, choice)) for choice in (True, False)}
