"""A step of fixed shapes as a CUDA graph: hundreds of kernels started by one call.

Several threads may train on one GPU. One at a time rehearses and captures, and none evaluates then (`alone`), for what
libraries do when a thread first calls them can spoil a capture. Each captures on a stream of its own (`aside`).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # steps in which libraries choose their kernels and make their handles; PyTorch's advice
_ALONE = threading.Lock()


def captured(step: Callable[[], None], changed: Sequence[Tensor], device: torch.device) -> Callable[[], None]:
    """What replays `step` on `device`: the same kernels on the same addresses. `changed`: all tensors it writes to.

    Nothing has changed when this returns: steps made on the way are taken back, so that a training that goes on from
    a checkpoint makes every one of its updates as an unbroken one does. Raises: RuntimeError when `step` waits for
    the device, or does what no graph can hold.
    """
    with alone(device), aside(device) as stream:
        rehearse(step, changed)
        return capture(step, stream)


def alone(device: torch.device) -> AbstractContextManager[Any]:
    """Keep captures by other threads out: around what may make a library's handles or wait for the whole GPU."""
    return _ALONE if device.type == "cuda" else nullcontext()


@contextmanager
def aside(device: torch.device) -> Iterator[torch.cuda.Stream]:
    """Make a stream that is not the default one current, and its device: this thread's own if it has one, else a new.

    Graphs of one stream share the workspace of its matrix products: those of different threads must not be of one.
    """
    current = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device) if current == torch.cuda.default_stream(device) else current
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream):
            yield stream
    finally:
        current.wait_stream(stream)


def rehearse_aside(step: Callable[[], None], changed: Sequence[Tensor], device: torch.device) -> None:
    """Rehearse as `captured` does, and capture nothing: what is wrong with a step shows before it spoils a capture."""
    with alone(device), aside(device) if device.type == "cuda" else nullcontext():
        rehearse(step, changed)


def rehearse(step: Callable[[], None], changed: Sequence[Tensor]) -> None:
    """Make a few steps and take them back."""
    before = [tensor.detach().clone() for tensor in changed]
    try:
        for _ in range(WARM_UP):
            step()
    finally:
        with torch.no_grad():
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)


def capture(step: Callable[[], None], stream: torch.cuda.Stream) -> Callable[[], None]:
    """What replays a `step` that was rehearsed. Within `alone` and `aside`, which gives the stream.

    Raises what `step` raised: a capture that it spoiled raises at its end again, and only that it was spoiled.
    """
    graph = torch.cuda.CUDAGraph()
    first: BaseException | None = None
    try:
        # Another thread may be training beside this one: it goes on, only calls of this thread may spoil the capture.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            try:
                step()
            except BaseException as error:
                first = error
                raise
    except RuntimeError as error:
        raise first or error from None
    finally:
        del first  # which holds this frame, and so itself, the graph and the step
    return graph.replay
