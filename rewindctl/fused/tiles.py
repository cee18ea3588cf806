"""How work is cut into pieces. Nothing here depends on how many trials there are, and so their bytes do not."""

from dataclasses import dataclass

import torch

from rewindctl.fused.layout import power_of_two

FEW = 32  # channels of which products take less time than loads


@dataclass(frozen=True)
class Tiles:
    """A convolution's output: at most `area` elements in `rows` rows and `wide` columns, `depth` products a time; fewer
    rows, but at least `least_rows`, where there would be fewer than `fill` programs. `stages`: loads under way at once.

    The gradient of weights is summed up in shares of at least `share` pixels, in all at most `most_bytes` of a kernel;
    a program does `tall` rows of it, or twice as many.
    From `crowd` programs a trial on a convolution to at most FEW channels loads nothing ahead: others work then,
    and what is not loaded ahead comes from the processor's own cache, where a pixel lies for all places of a kernel.
    `elements`: of a piece where each is worked on by itself; `unit`: parameters that one program updates.
    `side_by_side`: both gradients in one kernel. `early`: a kernel is started before the last one has ended.
    `fold`: a norm that one convolution reads is made where this loads it, not by a kernel of its own. `split`: forward
    convolutions of float32 use matrix units, each product as three of TF32: about float32's own error.
    """

    area: int = 16384
    rows: int = 256
    least_rows: int = 64
    fill: int = 256
    wide: int = 128
    depth: int = 64
    tall: int = 64
    share: int = 1024
    most_bytes: int = 5_000_000
    stages: int = 3
    crowd: int = 400
    elements: int = 4096
    unit: int = 256
    side_by_side: bool = True
    early: bool = False
    fold: bool = False
    split: bool = False

    @classmethod
    def usual(cls, device: torch.device, dtype: torch.dtype) -> "Tiles":
        """What is fast on a device."""
        if device.type != "cuda":  # an interpreter, which takes the same time for a piece of any size
            return cls(area=2**16, rows=1024, wide=64, tall=1024, share=128, elements=2**16, unit=2**14, fill=2)
        if dtype == torch.float32:  # without matrix units a program holds its products in registers
            return cls(area=1024, rows=64, least_rows=16, wide=32, depth=16, tall=32, stages=1)
        return cls()

    @classmethod
    def evaluating(cls, device: torch.device) -> "Tiles":
        """For forward passes in float32: on a GPU with matrix units, where a float32 takes the room of two bfloat16."""
        if device.type != "cuda":
            return cls.usual(device, torch.float32)
        return cls(area=4096, rows=128, wide=64, depth=16, split=True)  # larger ones spill registers


def stages_of(tiles: Tiles, programs: int, channels: int) -> int:
    """Loads under way at once in a convolution by so many programs a trial, or in its way back, to so many channels."""
    return 1 if programs >= tiles.crowd and channels <= FEW else tiles.stages


def tile_rows(tiles: Tiles, rows: int, channels: int) -> int:
    """Rows of a tile of a convolution's output of so many rows and channels."""
    columns = tile_columns(channels, tiles.wide)
    found = max(16, min(tiles.rows, tiles.area // columns, power_of_two(rows)))
    while found > tiles.least_rows and -(-rows // found) * (channels // columns) < tiles.fill:
        found //= 2
    return found


def tile_columns(channels: int, most: int) -> int:
    """Columns of a tile: the largest power of two that divides the channels."""
    return min(channels & -channels, most)


@dataclass(frozen=True)
class Sharing:
    """How the gradient of a kernel is cut: `shares` of `pixels`, `rows` of the kernel, `columns`, `depth` at a time."""

    shares: int
    pixels: int
    rows: int
    columns: int
    depth: int
    programs: int


def sharing(tiles: Tiles, kernel: tuple[int, int, int], pixels: int) -> Sharing:
    """For a kernel of (size, in, out) whose output has so many pixels."""
    size, into, out = kernel
    rows = size * size * into
    columns = tile_columns(out, tiles.wide)
    most = tiles.tall * (2 if into == 32 or columns == 128 else 1)  # of 9 x 32 rows 128 a time leave less empty
    tall = min(max(16, power_of_two(rows)), most)
    groups = -(-rows // tall) * (out // columns)
    depth = min(tiles.depth, max(16, power_of_two(pixels)))
    wanted = max(1, min(pixels // tiles.share, tiles.most_bytes // (4 * rows * out)))
    shares = power_of_two(wanted + 1) // 2  # the largest power of two that is at most `wanted`
    each = -(-pixels // shares // depth) * depth
    shares = -(-pixels // each)
    return Sharing(shares, each, tall, columns, depth, shares * groups)
