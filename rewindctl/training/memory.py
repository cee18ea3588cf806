"""How much memory a training takes, known before it starts, and how much there is.

The bound counts every tensor that a forward pass makes as alive at once, in float32. What autograd keeps for the
backward pass is part of that (about 0.8 of it in our networks), gradients under way are two more tensors of the largest
size. Lower precision and captured graphs take no more.
"""

import copy
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rewindctl.models import kernels
from rewindctl.training.loop import EVALUATION_BATCH

SAMPLES = 2  # as few as batch norm can train on
GRADIENTS_UNDER_WAY = 2  # with respect to a layer's output and to its input
EVALUATION_TENSORS = 4  # of the largest size: what a block reads, makes and adds
DRAW_BYTES = 8  # an int64
DRAWS = 3  # of a sample: which, and where its rows and columns begin
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Footprint:
    """Bytes of one training, beside its process and its data set.

    `kept`: parameters, gradients, momentum, mask and buffers; `host`: the states that it starts from and that a
    checkpoint is made of; `sample`: what an image of a batch adds to a step; `evaluated`: what one of the test batch
    adds; `drawn`: an epoch's draws.
    """

    kept: int
    host: int
    sample: int
    evaluated: int
    drawn: int

    def on_device(self, batch_size: int) -> int:
        """The most that a step and an evaluation take together: a captured step keeps what it has."""
        return self.kept + self.drawn + batch_size * self.sample + EVALUATION_BATCH * self.evaluated

    def on_cpu(self, batch_size: int) -> int:
        """The same where the device's memory is the host's."""
        return self.on_device(batch_size) + self.host


def footprint(network: nn.Module, shape: tuple[int, int, int], train_size: int) -> Footprint:
    """What training takes on `train_size` images of `shape` (channels, height, width)."""
    parameters = sum(parameter.nbytes for parameter in network.parameters())
    masks = sum(kernel.nbytes for kernel in kernels(network).values())
    buffers = sum(buffer.nbytes for buffer in network.buffers())
    sizes = list(_made(network, shape))
    total, largest = (-(-size // SAMPLES) for size in (sum(sizes), max(sizes)))
    channels, height, width = shape
    image = height * width * (channels * (1 + 4) + DRAW_BYTES)  # as it is stored, and standardised; its pixels' places
    return Footprint(
        kept=3 * parameters + masks + buffers,
        host=6 * parameters + 3 * buffers,  # the start, a checkpoint, and its file
        sample=total + GRADIENTS_UNDER_WAY * largest + image,
        evaluated=EVALUATION_TENSORS * largest + image,
        drawn=3 * DRAW_BYTES * train_size * DRAWS,  # two epochs' at the turn, and their making
    )


def free_bytes(device: torch.device) -> int | None:
    """What more this machine, or its GPU, can give to processes; None where the system does not tell."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [free for free in (_available(), _left_in_cgroup()) if free is not None]
    return min(known, default=None)


class _Sizes(TorchDispatchMode):
    """The bytes of every storage that is made meanwhile; they are kept, so that none is counted as another."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: dict[int, int] = {}
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._kept: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self._known:
                self._kept.append(tensor)
                self.sizes[storage._cdata] = storage.nbytes()
        return result


def _made(network: nn.Module, shape: tuple[int, int, int]) -> Iterable[int]:
    """The bytes of each tensor of a forward pass of SAMPLES images, in training."""
    try:
        return _counted(copy.deepcopy(network).to("meta"), shape, torch.device("meta"))  # without the arithmetic
    except Exception:  # a network that looks at values
        return _counted(copy.deepcopy(network), shape, torch.device("cpu"))


def _counted(network: nn.Module, shape: tuple[int, int, int], device: torch.device) -> Iterable[int]:
    images = torch.zeros(SAMPLES, *shape, device=device).to(memory_format=torch.channels_last)
    labels = torch.zeros(SAMPLES, dtype=torch.int64, device=device)
    made = _Sizes([images, labels, *network.parameters(), *network.buffers()])
    with made:
        cross_entropy(network.train()(images), labels)
    return made.sizes.values()


def _available() -> int | None:
    """What can be had without swapping."""
    with suppress(psutil.Error, OSError):
        return int(psutil.virtual_memory().available)
    return None


def _left_in_cgroup() -> int | None:
    """What a container (cgroup v2) still has: its file cache is given back when it is needed."""
    limit, used = _read(CGROUP / "memory.max").strip(), _read(CGROUP / "memory.current").strip()
    if not limit.isdecimal() or not used.isdecimal():
        return None
    stat = dict(line.split()[:2] for line in _read(CGROUP / "memory.stat").splitlines())
    return max(0, int(limit) - int(used) + int(stat.get("inactive_file", 0)))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
