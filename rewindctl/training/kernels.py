"""The settings of the process that decide how float32 is computed; trainings in several threads share them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


class Shared:
    """A context that is entered once, by the first thread that comes in, and left by the last one that goes."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._context = self._make()
                self._context.__enter__()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._context.__exit__(None, None, None)


@contextmanager
def reproducible(device: torch.device, deterministic: bool) -> Iterator[None]:
    """Float32 is float32 (not TF32, nor bfloat16), and on CUDA with `deterministic` the same seed gives the same bytes.

    Without it cuDNN takes the kernels that it measures to be fastest, unless another thread wants the same bytes.
    """
    if device.type != "cuda":
        with _float32:
            yield
        return
    with _float32, _fastest, _deterministic if deterministic else nullcontext():
        yield


@contextmanager
def _whole_float32() -> Iterator[None]:
    """PyTorch may be told, for the whole process, to round the inputs of products of float32; its cuDNN does at first.

    Source: PyTorch's notes on CUDA semantics, on TF32, and on numerical accuracy, for oneDNN on a CPU.
    """
    backends: Any = torch.backends  # its type does not tell of the settings
    parts = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    before = [part.fp32_precision for part in parts]
    try:
        for part in parts:
            part.fp32_precision = "ieee"
        yield
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


@contextmanager
def _fastest_kernels() -> Iterator[None]:
    memory: Any = torch.utils.deterministic  # its type does not tell of the setting
    filled = memory.fill_uninitialized_memory
    with _kernels(deterministic=False):
        try:
            # Else PyTorch writes NaN into each new tensor first: a kernel for nearly every kernel of a step, and no
            # other bytes, since nothing here reads what it has not written.
            memory.fill_uninitialized_memory = False
            yield
        finally:
            memory.fill_uninitialized_memory = filled


@contextmanager
def _kernels(deterministic: bool) -> Iterator[None]:
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        torch.backends.cudnn.benchmark = not deterministic
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark


# Whoever is in an inner one is in those before it, and so what is undone last is what was there first.
_float32, _fastest, _deterministic = Shared(_whole_float32), Shared(_fastest_kernels), Shared(lambda: _kernels(True))
