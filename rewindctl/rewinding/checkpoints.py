"""A point in training as a file: everything needed to go on from it, in safetensors, the same bytes every time."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rewindctl.bits import checked_count, packed_bits, packed_size, reading, unpacked_bits
from rewindctl.errors import IntegrityError

FORMAT = "rewindctl-checkpoint-2"
UNPACKED_FORMAT = "rewindctl-checkpoint-1"  # as written before zeros were left out
PARTS = ("parameters", "buffers", "momentum")
LARGEST_FILE = 1 << 33  # no network here comes near
LAST_ITERATION = 1 << 53
DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


@dataclass(frozen=True)
class TrainState:
    """Parameters, buffers (batch-norm statistics) and SGD momentum by name, on the CPU.

    `iteration` counts the updates of the run that made it; `data_position` is where the stream of batches stands:
    a run that continues from here draws batch `data_position` next. With the seed, that is the whole sampler and
    augmentation state, for every batch is a function of seed and position.
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    momentum: dict[str, Tensor]
    iteration: int = 0
    data_position: int = 0

    def save(self, path: Path, notes: dict[str, Any] | None = None) -> None:
        """Write the file, with `notes` (JSON) in its metadata; equal states and notes give equal bytes.

        Raises: OSError.
        """
        tensors, packed = pack(self.parameters, self.momentum)
        tensors |= {f"buffers/{name}": tensor.contiguous() for name, tensor in self.buffers.items()}
        metadata: dict[str, Any] = {"iteration": self.iteration, "data_position": self.data_position, **packed}
        if notes is not None:
            metadata["notes"] = notes
        # One metadata key: safetensors writes several in no fixed order.
        # Not its `save_file`, which leaves half files of its own when it is killed, and readable to one user alone.
        path.write_bytes(save(tensors, metadata={FORMAT: json.dumps(metadata)}))

    @classmethod
    def load(cls, path: Path) -> "TrainState":
        """Raises: IntegrityError when the file is not a whole checkpoint."""
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
        with _opened(path, "is not a readable checkpoint") as (file, metadata):
            iteration, data_position = _count(metadata["iteration"]), _count(metadata["data_position"])
            for key in file.keys():  # noqa: SIM118 (not a dict)
                part, name = key.split("/", 1)
                parts.setdefault(part, {})[name] = _tensor(file, key)
            unpack(parts, metadata)
            return cls(**parts, iteration=iteration, data_position=data_position)

    @staticmethod
    def notes(path: Path) -> dict[str, Any]:
        """The notes saved with a state. Raises: IntegrityError."""
        with _opened(path, "holds no readable notes") as (_, metadata):
            return dict(metadata["notes"])

    @staticmethod
    def iteration_of(path: Path) -> int:
        """The iteration of a saved state, its tensors unread. Raises: IntegrityError."""
        with _opened(path, "is not a readable checkpoint") as (_, metadata):
            return _count(metadata["iteration"])

    @classmethod
    def initial(cls, network: nn.Module) -> "TrainState":
        """The state of a network before its first update: momentum zero."""
        parameters = {name: p.detach().cpu().clone() for name, p in network.named_parameters()}
        buffers = {name: b.detach().cpu().clone() for name, b in network.named_buffers()}
        return cls(parameters, buffers, {name: torch.zeros_like(p) for name, p in parameters.items()})

    def load_into(self, network: nn.Module) -> None:
        """Copy parameters and buffers into the network. Raises: IntegrityError when names or shapes differ."""
        check_shapes(self.parameters, dict(network.named_parameters()), "parameter")
        check_shapes(self.buffers, dict(network.named_buffers()), "buffer")
        network.load_state_dict({**self.parameters, **self.buffers})


@contextmanager
def _opened(path: Path, problem: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A file of ours and its metadata. Raises: IntegrityError with the `problem`, in the block too."""
    with reading(path, problem):
        require_size(path)
        with safe_open(path, framework="pt") as file:
            known = file.metadata()
            metadata: dict[str, Any] = json.loads(known.get(FORMAT) or known[UNPACKED_FORMAT])
            yield file, {"shapes": {}, "zero": [], **metadata}


def require_size(path: Path) -> None:
    """Raises: ValueError for a file that is none of ours, before it is opened: one may have no end."""
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"it is not a file of at most {LARGEST_FILE:,} bytes")


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= LAST_ITERATION:
        raise ValueError(f"it stands at iteration or batch {str(value)[:40]}")
    return value


def _tensor(file: Any, key: str) -> Tensor:
    tensor: Tensor = file.get_tensor(key)
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{key!r:.80} is {tensor.dtype}")
    return tensor


def check_shapes(found: dict[str, Tensor], wanted: dict[str, Tensor], what: str) -> None:
    """Raises: IntegrityError naming the first entry that is missing, unexpected or of another shape."""
    for name in sorted(set(found) | set(wanted)):
        if name not in found:
            raise IntegrityError(f"the checkpoint lacks {what} {name}")
        if name not in wanted:
            raise IntegrityError(f"the checkpoint has {what} {name}, which the network lacks")
        if found[name].shape != wanted[name].shape:
            raise IntegrityError(
                f"{what} {name} is {tuple(found[name].shape)} in the checkpoint, {tuple(wanted[name].shape)} here"
            )


MOST_BYTES = 1 << 30  # of the packed tensors of a file: a few bits must not claim a machine's memory
WORTH = 0.9  # of the bytes: below this share a pair is packed
Tensors = dict[str, Tensor]


def pack(parameters: Tensors, momentum: Tensors) -> tuple[Tensors, dict[str, Any]]:
    """Tensors by key for a file, and what `unpack` needs beside them: `shapes` of packed pairs, `zero` momenta.

    A pruned pair is written without its zeros: one bit a weight says which are kept, and the kept ones follow one
    another. A parameter and its momentum share the bits. Kept is where a bit of either is set (-0.0 is kept), so that
    unpacking gives back the same bytes whatever the mask was.
    """
    tensors: Tensors = {}
    shapes: dict[str, list[int]] = {}
    zero: list[str] = []
    room = MOST_BYTES
    for name, parameter in sorted(parameters.items()):
        pair = [parameter] + ([momentum[name]] if name in momentum else [])
        if len({tensor.shape for tensor in pair}) == 1:
            kept = torch.stack([_set(tensor) for tensor in pair]).any(dim=0)
            size = sum(tensor.element_size() for tensor in pair)
            whole = kept.numel() * size
            if int(kept.sum()) * size + packed_size(kept.numel()) < WORTH * whole and whole <= room:
                room -= whole
                shapes[name] = list(parameter.shape)
                tensors[f"kept/{name}"] = packed_bits(kept)
                pair = [tensor.reshape(-1)[kept] for tensor in pair]
        if len(pair) == 2 and pair[0].shape == pair[1].shape and name not in shapes and not _set(pair[1]).any():
            zero.append(name)
            pair[1] = pair[1].new_empty(0)  # its type
        for part, tensor in zip(("parameters", "momentum"), pair, strict=False):
            tensors[f"{part}/{name}"] = tensor.contiguous()
    rest = {f"momentum/{name}": tensor.contiguous() for name, tensor in momentum.items() if name not in parameters}
    return tensors | rest, {"shapes": shapes, "zero": zero}


def unpack(parts: dict[str, Tensors], packed: dict[str, Any]) -> None:
    """Undo `pack` in the parts read from a file, in place. Raises: KeyError, ValueError when they do not fit."""
    bits = parts.pop("kept", {})
    if set(bits) != set(packed["shapes"]):
        raise ValueError("not every packed tensor has its bits")
    pairs = {name: [parts[part][name] for part in ("parameters", "momentum") if name in parts[part]] for name in bits}
    claimed = sum(
        checked_count(packed["shapes"][name], name, MOST_BYTES) * sum(t.element_size() for t in pairs[name])
        for name in bits
    )
    if claimed > MOST_BYTES:
        raise ValueError(f"its packed tensors would take {claimed:,} bytes")
    for name, shape in packed["shapes"].items():
        kept = _bits(bits[name], name, shape)
        for part in ("parameters", "momentum"):
            if name in parts[part]:
                parts[part][name] = _scattered(parts[part][name], kept, name).reshape(shape)
    for name in packed["zero"]:
        if parts["momentum"][name].numel():
            raise ValueError(f"the momentum of {name!r:.80} is not zero")
        parts["momentum"][name] = torch.zeros_like(parts["parameters"][name], dtype=parts["momentum"][name].dtype)


def _set(tensor: Tensor) -> Tensor:
    """(elements,) whether any bit of an element is set."""
    as_bytes = tensor.contiguous().reshape(-1).view(torch.uint8)
    return as_bytes.reshape(tensor.numel(), tensor.element_size()).ne(0).any(dim=1)


def _bits(packed: Tensor, name: str, shape: list[int]) -> Tensor:
    count = checked_count(shape, name, MOST_BYTES)
    if packed.dtype != torch.uint8 or packed.shape != (packed_size(count),):
        raise ValueError(f"{name!r:.80} holds {tuple(packed.shape)} {packed.dtype}, not the bits of {shape}")
    return unpacked_bits(packed, count)


def _scattered(survivors: Tensor, kept: Tensor, name: str) -> Tensor:
    if survivors.shape != (int(kept.sum()),):
        raise ValueError(f"{name!r:.80} has {tuple(survivors.shape)} weights for {int(kept.sum())} that are kept")
    whole = survivors.new_zeros(kept.numel())
    whole[kept] = survivors
    return whole
