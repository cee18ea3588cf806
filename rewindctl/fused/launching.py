"""How a kernel is added to a step: where its tensors are, how it is cut, and what it moves."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from rewindctl.fused.launch import Launch, Moved
from rewindctl.fused.layout import power_of_two
from rewindctl.fused.memory import Images, Memory, Normed, Parameters, Part
from rewindctl.fused.tiles import Sharing, Tiles, sharing

NARROW = 16  # channels of a program that adds up: all its numbers are under way at once
WHOLE = 2  # operations of a multiplication and an addition


class Launching:
    """Adds kernels to `launches`, in the order in which they run, with what each moves."""

    def __init__(self, network: nn.Module, memory: Memory, parameters: Parameters, tiles: Tiles) -> None:
        self.network, self.memory, self.parameters, self.tiles = network, memory, parameters, tiles
        self.launches: list[Launch] = []
        self.trials = memory.trials
        self._part: Part | None = None

    def convolution_of(self, name: str) -> nn.Conv2d:
        found = self.network.get_submodule(name)
        assert isinstance(found, nn.Conv2d)
        return found

    def read_of(self, of: Images | Normed) -> tuple[Images, Tensor, bool]:
        """What a convolution of images, or of a norm's output, loads; the statistics, and whether it applies them."""
        if isinstance(of, Normed):
            return of.out, of.stat, of.folded
        return of, self.parameters.weights, False

    def new_part(self, programs: int, channels: int, tile: int = 0) -> Tensor:
        """Where the programs of a kernel leave their sums for the next one."""
        tensor = self.memory.get(f"part {programs}x{channels}", (programs, 2, channels))
        self._part = Part(tensor, programs, tile)
        return tensor

    def last_part(self) -> Part:
        assert self._part is not None, "a norm follows what leaves it sums"
        part, self._part = self._part, None
        return part

    # With more than one of `stages` what a convolution reads is copied ahead, from the cache of the device: `Moved`.

    def asked(self, x: Images, out: Images, size: int, tiles: int, stages: int) -> Moved:
        """What a convolution of x to `out` reads of x, once for each of `tiles`."""
        pixel = x.channels * x.tensor.element_size()
        taps = out.rows * size * size
        reached = min(x.rows, taps)
        return Moved(x.tensor, reached * pixel, tiles * pixel * (taps if stages > 1 else reached))

    def spread(self, dout: Images, size: int, tiles: int, stages: int) -> Moved:
        """What the gradient of a convolution's input reads of `dout`, once for each of `tiles`."""
        return whole(dout, tiles * (size * size if stages > 1 else 1))

    def of_weights(self, x: Images, dout: Images, size: int, cut: Sharing, stages: int) -> tuple[Moved, Moved]:
        """What the gradient of weights reads: x once for each tile of columns, `dout` for each group of rows."""
        tiles = dout.channels // cut.columns
        return self.asked(x, dout, size, tiles, stages), whole(dout, cut.programs // cut.shares // tiles)

    def kernel(self, name: str, programs: int) -> Moved:
        """The weights of a convolution, read by so many programs."""
        copy = self.parameters.copy(f"{name}.weight")
        return some(copy, self.convolution_of(name).weight.numel() * copy.element_size(), programs)

    def shares(self, name: str, cut: Sharing) -> Moved:
        weights = self.convolution_of(name).weight.numel()
        return some(self.parameters.sums_of(f"{name}.weight"), cut.shares * weights * 4)

    def sharing(self, name: str, pixels: int) -> Sharing:
        return sharing(self.tiles, kernel_of(self.convolution_of(name)), pixels)

    def elementwise(self, images: Images, columns: int) -> int:
        return max(1, min(self.tiles.elements // columns, power_of_two(images.rows)))

    def warps(self, rows: int, columns: int) -> int:
        return 8 if rows * columns >= 128 * 128 else 4

    def add(
        self,
        name: str,
        kernel: object,
        grid: tuple[int, int],
        arguments: tuple[Tensor | int | float, ...],
        constants: dict[str, int | bool],
        warps: int = 4,
        stages: int = 1,
        read: Sequence[Moved] = (),
        written: Sequence[Moved] = (),
        operations: int = 0,
    ) -> None:
        """`read`, `written` and `operations` are those of a trial."""
        early = self.tiles.early
        self.launches.append(
            Launch(
                name,
                kernel,
                (*grid, self.trials),
                arguments,
                {**constants, "EARLY": early},
                warps,
                stages,
                self._of_all(read),
                self._of_all(written),
                self.trials * operations,
                {"launch_pdl": True} if early else {},
            )
        )

    def _of_all(self, moved: Sequence[Moved]) -> tuple[Moved, ...]:
        return tuple(Moved(one.tensor, self.trials * one.bytes, self.trials * one.asked) for one in moved)


def kernel_of(module: nn.Conv2d) -> tuple[int, int, int]:
    """Size, in and out of a convolution."""
    return module.kernel_size[0], module.in_channels, module.out_channels


def shape_of(x: Images, out: Images, stride: int, size: int) -> dict[str, int | bool]:
    return {
        **{"HI": x.height, "WI": x.width, "CI": x.channels, "HO": out.height, "WO": out.width, "CO": out.channels},
        **{"STRIDE": stride, "KERNEL": size},
    }


def bytes_of(images: Images) -> int:
    return images.elements * images.tensor.element_size()


def some(tensor: Tensor, size: int, times: int = 1) -> Moved:
    """`size` bytes of each trial, asked for so many times."""
    return Moved(tensor, size, times * size)


def all_of(tensor: Tensor) -> Moved:
    """All of a tensor, once."""
    return some(tensor, tensor[0].nbytes)


def whole(images: Images, times: int = 1) -> Moved:
    return some(images.tensor, bytes_of(images), times)


def norms_of(network: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """Every batch norm by name."""
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            yield name, module
