"""How work is cut into pieces. Nothing here depends on how many trials there are, and so their bytes do not."""

from dataclasses import dataclass

from rewindctl.fused.layout import power_of_two


@dataclass(frozen=True)
class Tiles:
    """Of a convolution's output: `area` elements in at most `rows` rows and `wide` columns, `depth` products at a time.

    The gradient of weights: about `programs`, in at most `most_shares` shares of at least `least_share` pixels.
    `stages`: loads under way at once. `elements`: of a piece where each is worked on by itself; `unit`: parameters
    that one program updates. `side_by_side`: both gradients in one kernel. `early`: kernels start before the one before ends.
    """

    area: int = 4096
    rows: int = 256
    wide: int = 128
    depth: int = 64
    programs: int = 128
    most_shares: int = 64
    least_share: int = 128
    stages: int = 3
    elements: int = 4096
    unit: int = 256
    side_by_side: bool = True
    early: bool = False

    @classmethod
    def of_float32(cls) -> "Tiles":
        """Without matrix units every program holds its products in registers: smaller pieces."""
        return cls(area=1024, rows=64, wide=32, depth=16, stages=1)


def tile_rows(tiles: Tiles, rows: int, columns: int) -> int:
    """Rows of a tile of so many columns."""
    return max(16, min(tiles.rows, tiles.area // columns, power_of_two(rows)))


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
    tall = min(max(16, power_of_two(rows)), 64 if into != 32 else 128, tiles.wide)
    groups = -(-rows // tall) * (out // columns)
    depth = min(tiles.depth, max(16, power_of_two(pixels)))
    wanted = max(1, min(tiles.most_shares, tiles.programs // groups, pixels // tiles.least_share))
    shares = power_of_two(wanted + 1) // 2  # the largest power of two that is at most `wanted`
    each = -(-pixels // shares // depth) * depth
    shares = -(-pixels // each)
    return Sharing(shares, each, tall, columns, depth, shares * groups)
