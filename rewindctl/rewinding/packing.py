"""Pruned tensors without their zeros: one bit a weight says which are kept, and the kept ones follow one another.

A parameter and its momentum share the bits: kept is where a bit of either is set (-0.0 is kept), so that unpacking
gives back the same bytes whatever the mask was.
"""

from typing import Any

import torch
from torch import Tensor

from rewindctl.bits import checked_count, packed_bits, packed_size, unpacked_bits

MOST_BYTES = 1 << 30  # of the packed tensors of a file: a few bits must not claim a machine's memory
WORTH = 0.9  # of the bytes: below this share a pair is packed
Tensors = dict[str, Tensor]


def pack(parameters: Tensors, momentum: Tensors) -> tuple[Tensors, dict[str, Any]]:
    """Tensors by key for a file, and what `unpack` needs beside them: `shapes` of packed pairs, `zero` momenta."""
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
    claimed = sum(_count(packed["shapes"][name], name) * sum(t.element_size() for t in pairs[name]) for name in bits)
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


def _count(shape: Any, name: str) -> int:
    return checked_count(shape, name, MOST_BYTES)


def _bits(packed: Tensor, name: str, shape: list[int]) -> Tensor:
    count = _count(shape, name)
    if packed.dtype != torch.uint8 or packed.shape != (packed_size(count),):
        raise ValueError(f"{name!r:.80} holds {tuple(packed.shape)} {packed.dtype}, not the bits of {shape}")
    return unpacked_bits(packed, count)


def _scattered(survivors: Tensor, kept: Tensor, name: str) -> Tensor:
    if survivors.shape != (int(kept.sum()),):
        raise ValueError(f"{name!r:.80} has {tuple(survivors.shape)} weights for {int(kept.sum())} that are kept")
    whole = survivors.new_zeros(kept.numel())
    whole[kept] = survivors
    return whole
