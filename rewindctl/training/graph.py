"""A step of fixed shapes as a CUDA graph: hundreds of kernels started by one call."""

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_CAPTURING = threading.Lock()
WARM_UP = 3  # steps in which libraries choose their kernels and make their handles; PyTorch's advice


def captured(step: Callable[[], None], changed: Sequence[Tensor], device: torch.device) -> Callable[[], None]:
    """What replays `step` on `device`: the same kernels on the same addresses. `changed`: all tensors it writes to.

    Nothing has changed when this returns: steps made on the way are taken back, so that a training that goes on from
    a checkpoint makes every one of its updates as an unbroken one does. Raises: RuntimeError when `step` waits for
    the device, or does what no graph can hold.
    """
    rehearse(step, changed, device)
    graph = torch.cuda.CUDAGraph()
    # Another thread may be training beside this one: it goes on, and only calls of this thread may spoil the capture.
    with _CAPTURING, torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay


def rehearse(step: Callable[[], None], changed: Sequence[Tensor], device: torch.device) -> None:
    """Make a few steps and take them back; on CUDA in a stream of their own, as a capture wants."""
    before = [tensor.clone() for tensor in changed]
    try:
        if device.type == "cuda":
            current, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                _repeat(step)
            current.wait_stream(aside)
        else:
            _repeat(step)
    finally:
        with torch.no_grad():
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)


def _repeat(step: Callable[[], None]) -> None:
    for _ in range(WARM_UP):
        step()
