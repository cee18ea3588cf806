"""Files of tensors, which may be anyone's: bools eight to a byte, checked before anything is allocated."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from rewindctl.errors import IntegrityError
from rewindctl.system.processes import raise_if_interrupted

MOST_DIMENSIONS = 8
# Half a header, offsets of another file, a shape that torch has no tensor for: each has an error of its own.
UNREADABLE = (
    *(SafetensorError, OSError, RecursionError, MemoryError, OverflowError),
    *(KeyError, TypeError, ValueError, AttributeError, RuntimeError),
)


@contextmanager
def reading(path: Path, problem: str) -> Iterator[None]:
    """A block that reads the file of tensors. Raises: IntegrityError with the `problem` for whatever is wrong with it.

    An interrupt stays one: PyTorch makes an error of another kind of one that comes while it takes a tensor.
    """
    try:
        yield
    except UNREADABLE as error:
        raise_if_interrupted()
        raise IntegrityError(f"{path} {problem}: {str(error)[:300]}") from None


def packed_bits(bools: Tensor) -> Tensor:
    """(ceil(n / 8),) bytes of n bools, in their order."""
    return torch.from_numpy(np.packbits(bools.cpu().numpy().reshape(-1)))


def unpacked_bits(packed: Tensor, count: int) -> Tensor:
    """(count,) bools of the bytes."""
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=count).view(bool))


def packed_size(count: int) -> int:
    """Bytes of so many bits."""
    return (count + 7) // 8


def checked_count(shape: Any, name: str, most: int) -> int:
    """The elements of a shape that a file claims. Raises: ValueError for none, or more than `most`."""
    sizes = isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS
    right = sizes and all(isinstance(size, int) and 0 < size <= most for size in shape)
    count = math.prod(shape) if right else 0
    if not right or count > most:
        raise ValueError(f"{name!r:.80} has shape {str(shape)[:80]}")
    return count
