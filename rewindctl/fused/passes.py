"""A step as a list of kernels: what the families of networks are put together from."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from rewindctl.fused import convolution, head, norms
from rewindctl.fused.launch import Launch, Moved
from rewindctl.fused.layout import power_of_two
from rewindctl.fused.memory import Images, Memory, Normed, Parameters, Part
from rewindctl.fused.tiles import Sharing, Tiles, sharing, tile_columns, tile_rows

NARROW = 16  # channels of a program that adds up: all its numbers are under way at once
WHOLE = 2  # operations of a multiplication and an addition


class Passes:
    """Adds kernels to `launches`, in the order in which they run; each returns what it leaves."""

    def __init__(self, network: nn.Module, memory: Memory, parameters: Parameters, tiles: Tiles) -> None:
        self.network, self.memory, self.parameters, self.tiles = network, memory, parameters, tiles
        self.launches: list[Launch] = []
        self.trials = memory.trials
        self._part: Part | None = None

    def convolution_of(self, name: str) -> nn.Conv2d:
        found = self.network.get_submodule(name)
        assert isinstance(found, nn.Conv2d)
        return found

    def _new_part(self, programs: int, channels: int, tile: int = 0) -> Tensor:
        """Where the programs of a kernel leave their sums for the next one."""
        tensor = self.memory.get(f"part {programs}x{channels}", (programs, 2, channels))
        self._part = Part(tensor, programs, tile)
        return tensor

    def _last_part(self) -> Part:
        assert self._part is not None, "a norm follows what leaves it sums"
        part, self._part = self._part, None
        return part

    # Forward

    def first(self, name: str, batch: Images) -> Images:
        """The convolution of the batch."""
        module, tiles = self.convolution_of(name), self.tiles
        out = self.memory.images(f"{name} out", (batch.count, batch.height, batch.width, module.out_channels))
        size, into = module.kernel_size[0], module.in_channels
        columns = tile_columns(out.channels, tiles.wide)
        block = tile_rows(tiles, out.rows, out.channels)
        programs = -(-out.rows // block)
        part = self._new_part(programs, out.channels, block)
        self.add(
            name,
            convolution.first_convolution,
            (programs, out.channels // columns),
            (
                *(batch.tensor, self.parameters.copy(f"{name}.weight"), out.tensor, part),
                *(batch.elements, self.parameters.layout.size, out.elements, out.rows),
            ),
            {
                **{"HEIGHT": batch.height, "WIDTH": batch.width, "CI": into, "CO": out.channels, "KERNEL": size},
                **{"KP": max(16, power_of_two(size * size * into)), "BM": block, "BN": columns},
            },
            read=(_whole(batch, out.channels // columns), self._kernel(name, programs)),
            written=(_whole(out), _sums(part)),
            operations=WHOLE * out.elements * module.weight[0].numel(),
        )
        return out

    def convolve(self, name: str, x: Images, added: Images | None = None, sums: bool = True) -> Images:
        """The convolution `name` of x, plus `added`; with `sums` a norm may follow at once."""
        module, tiles = self.convolution_of(name), self.tiles
        size, stride = module.kernel_size[0], module.stride[0]
        height, width = -(-x.height // stride), -(-x.width // stride)
        out = self.memory.images(f"{name} out", (x.count, height, width, module.out_channels))
        columns = tile_columns(out.channels, tiles.wide)
        block = tile_rows(tiles, out.rows, out.channels)
        programs = -(-out.rows // block)
        part = self._new_part(programs, out.channels, block) if sums else out.tensor
        self.add(
            name,
            convolution.convolution,
            (programs, out.channels // columns),
            (
                *(x.tensor, self.parameters.copy(f"{name}.weight"), out.tensor),
                *((added or out).tensor, part),
                *(x.elements, self.parameters.layout.size, out.elements, out.rows),
            ),
            {
                **_shape(x, out, stride, size),
                **{"BM": block, "BN": columns, "BK": tile_columns(x.channels, tiles.depth)},
                **{"ADD": added is not None, "SUMS": sums, "STAGES": tiles.stages},
            },
            warps=self._warps(block, columns),
            read=(
                self._asked(x, out, size, out.channels // columns),
                self._kernel(name, programs),
                *([_whole(added)] if added else []),
            ),
            written=(_whole(out), *([_sums(part)] if sums else [])),
            operations=WHOLE * out.elements * module.weight[0].numel(),
        )
        return out

    def norm(self, name: str, raw: Images, added: Images | None = None) -> Normed:
        """relu(norm(raw) (+ added)); `raw` was written last, with its sums."""
        module = self.network.get_submodule(name)
        assert isinstance(module, nn.BatchNorm2d)
        channels, momentum = raw.channels, module.momentum
        assert momentum is not None
        stat = self.memory.get(f"{name} stat", (4 * channels,))
        mean = self.parameters.running[0, self.parameters.running_places[name] :]
        columns, part = tile_columns(channels, 64), self._last_part()
        self.add(
            f"{name} statistics",
            norms.statistics,
            (channels // NARROW, 1),
            (
                *(part.tensor, self.parameters.master(f"{name}.weight"), self.parameters.master(f"{name}.bias"), stat),
                *(mean, mean[channels:], part.programs, self.parameters.layout.size, 4 * channels),
                *(self.parameters.running.shape[1], raw.rows, float(module.eps), float(momentum)),
            ),
            {"C": channels, "BM": part.tile, "BC": NARROW, "BP": min(512, power_of_two(part.programs))},
            warps=8,
            read=(_sums(part.tensor),),
            written=(_sums(stat), _some(mean, 2 * channels * 4)),
        )
        out = self.memory.images(f"{name} out", (raw.count, raw.height, raw.width, channels))
        rows = self._elementwise(raw, columns)
        self.add(
            name,
            norms.normalise,
            (-(-raw.rows // rows), channels // columns),
            (raw.tensor, (added or raw).tensor, out.tensor, stat, raw.elements, 4 * channels, raw.rows),
            {"C": channels, "BM": rows, "BC": columns, "ADD": added is not None},
            read=(_whole(raw), _sums(stat), *([_whole(added)] if added else [])),
            written=(_whole(out),),
        )
        return Normed(name, raw, out, stat)

    def head(self, last: Normed, labels: Tensor) -> Images:
        """Loss and the gradient of what `last` was before its ReLU, with the sums for its way back."""
        y, layout, classes = last.out, self.parameters.layout, self.parameters.layout.classes
        pixels = y.height * y.width
        padded, columns = power_of_two(pixels), tile_columns(y.channels, max(16, 1024 // classes))
        images = max(1, min(4, 4096 // (padded * columns), 4096 // (columns * classes)))
        images = power_of_two(images + 1) // 2
        features = self.memory.get("features", (y.count, y.channels))
        dlogits = self.memory.get("dlogits", (y.count, classes))
        losses = self.memory.get("losses", (y.count,))
        dy = self.memory.images("outer 0", (y.count, y.height, y.width, y.channels))
        programs = -(-y.count // images)
        part = self._new_part(programs, y.channels)
        self.add(
            "head",
            head.head,
            (programs, 1),
            (
                *(y.tensor, last.raw.tensor, last.stat, self.parameters.master("dense.weight")),
                *(self.parameters.master("dense.bias"), labels, dy.tensor, part, features, dlogits, losses),
                *(y.elements, layout.size, 4 * y.channels, y.count),
            ),
            {
                **{"PIXELS": pixels, "PP": padded, "C": y.channels, "BC": columns},
                **{"CLASSES": layout.places["dense.bias"].shape[0], "KP": classes, "BI": images},
            },
            read=(
                _whole(y, 2),
                _whole(last.raw),
                _some(self.parameters.master("dense.weight"), 4 * y.channels * classes),
            ),
            written=(_whole(dy), _sums(part), _sums(features), _sums(dlogits), _sums(losses)),
            operations=3 * WHOLE * y.count * y.channels * classes,
        )
        return dy

    def head_gradients(
        self, loss_sum: Tensor, latest: Tensor, stopped: Tensor, iteration: Tensor, position: Tensor, batches: int
    ) -> None:
        """The dense layer's gradients, the mean loss, and where the training is, one of `batches` further."""
        features, dlogits = self.memory.tensors["features"], self.memory.tensors["dlogits"]
        images, channels = features.shape[1:]
        classes, places = self.parameters.layout.classes, self.parameters
        self.add(
            "head gradients",
            head.head_gradients,
            (channels // NARROW + 1, 1),
            (
                *(features, dlogits, self.memory.tensors["losses"]),
                *(places.sums_of("dense.weight"), places.sums_of("dense.bias")),
                *(loss_sum, latest, stopped, iteration, position, places.sums.shape[1], images, batches),
            ),
            {"C": channels, "BC": NARROW, "KP": classes, "BN": max(2, min(64, 1024 // classes))},
            warps=8,
            read=(_sums(features), _some(dlogits, images * classes * 4, channels // NARROW + 1)),
            written=(
                _some(places.sums_of("dense.weight"), channels * classes * 4),
                _some(places.sums_of("dense.bias"), classes * 4),
            ),
            operations=WHOLE * images * channels * classes,
        )

    # Backward

    def norm_back(self, normed: Normed, dy: Images, added: Images | None = None, to: str = "inner") -> Images:
        """The gradient of the norm's input (+ added); dy was written last, with its sums."""
        name, raw = normed.name, normed.raw
        channels, sums = raw.channels, self.parameters.sums.shape[1]
        columns, part = tile_columns(channels, 64), self._last_part()
        back = self.memory.get(f"back {channels}", (3 * channels,))
        self.add(
            f"{name} statistics back",
            norms.statistics_back,
            (channels // NARROW, 1),
            (
                *(part.tensor, self.parameters.master(f"{name}.weight"), normed.stat, back),
                *(self.parameters.sums_of(f"{name}.weight"), self.parameters.sums_of(f"{name}.bias")),
                *(part.programs, self.parameters.layout.size, 4 * channels, 3 * channels, sums, raw.rows),
            ),
            {"C": channels, "BC": NARROW, "BP": min(512, power_of_two(part.programs))},
            warps=8,
            read=(_sums(part.tensor), _sums(normed.stat)),
            written=(
                _sums(back),
                _some(self.parameters.sums_of(f"{name}.weight"), channels * 4),
                _some(self.parameters.sums_of(f"{name}.bias"), channels * 4),
            ),
        )
        out = self.memory.images(to, (raw.count, raw.height, raw.width, channels))
        rows = self._elementwise(raw, columns)
        self.add(
            f"{name} back",
            norms.normalise_back,
            (-(-raw.rows // rows), channels // columns),
            (
                *(dy.tensor, raw.tensor, (added or dy).tensor, out.tensor, normed.stat, back),
                *(raw.elements, 4 * channels, 3 * channels, raw.rows),
            ),
            {"C": channels, "BM": rows, "BC": columns, "ADD": added is not None, "MASK": False},
            read=(_whole(dy), _whole(raw), _sums(back), *([_whole(added)] if added else [])),
            written=(_whole(out),),
        )
        return out

    def weights_back(self, name: str, x: Images, dout: Images) -> None:
        """The gradient of the convolution's weights alone."""
        module = self.convolution_of(name)
        size, stride = module.kernel_size[0], module.stride[0]
        cut = self._sharing(name, dout.rows)
        sums = self.parameters.sums
        self.add(
            f"{name} weights back",
            convolution.gradient_of_weights,
            (cut.programs, 1),
            (
                *(x.tensor, dout.tensor, self.parameters.sums_of(f"{name}.weight")),
                *(x.elements, dout.elements, sums.shape[1], dout.rows),
            ),
            {
                **{"SHARE": cut.pixels},
                **_shape(x, dout, stride, size),
                **{"BK": cut.depth, "BJ": cut.rows, "BN": cut.columns, "STAGES": self.tiles.stages},
            },
            warps=self._warps(cut.rows, cut.columns),
            read=self._of_weights(x, dout, size, cut),
            written=(self._shares(name, cut),),
            operations=WHOLE * dout.elements * module.weight[0].numel(),
        )

    def convolve_back(
        self,
        name: str,
        before: Normed,
        dout: Images,
        to: str,
        skip: Images | None = None,
        projection: str | None = None,
    ) -> Images:
        """Both gradients of a convolution of `before.out`; that of its input before the ReLU, with the norm's sums.

        `skip`: the gradient of what else reads `before.out`: added, or taken back through the 1x1 `projection`.
        """
        module, tiles, x = self.convolution_of(name), self.tiles, before.out
        size, stride = module.kernel_size[0], module.stride[0]
        cut = self._sharing(name, dout.rows)
        din = self.memory.images(to, (x.count, x.height, x.width, x.channels))
        columns = tile_columns(x.channels, tiles.wide)
        block = tile_rows(tiles, x.rows, x.channels)
        programs = -(-x.rows // block)
        of_weights = cut.programs if tiles.side_by_side else 0
        if not tiles.side_by_side:
            self.weights_back(name, x, dout)
        part = self._new_part(programs, x.channels)
        plain, places = skip is not None and projection is None, self.parameters
        # As the kernel multiplies: of a stride of 2 every pixel of the input with every place, though 3 of 4 are 0.
        macs = x.elements * module.weight[:, 0].numel() + (
            dout.elements * module.weight[0].numel() if of_weights else 0
        )
        tiled = x.channels // columns
        read = [self._spread(dout, size, tiled), self._kernel(name, programs), _whole(x), _whole(before.raw)]
        if projection:
            assert skip is not None
            macs += x.rows * self.convolution_of(projection).weight.numel()
            read += [self._spread(skip, 1, tiled), self._kernel(projection, programs)]
        elif skip:
            read += [_whole(skip)]
        if of_weights:
            read += [Moved(one.tensor, 0, one.asked) for one in self._of_weights(x, dout, size, cut)]  # read above
        self.add(
            f"{name} back",
            convolution.gradients,
            (of_weights + programs * (x.channels // columns), 1),
            (
                *(x.tensor, dout.tensor, places.copy(f"{name}.weight"), din.tensor, part, before.raw.tensor),
                *(before.stat, (skip if plain and skip else x).tensor, (skip or dout).tensor),
                *(places.copy(f"{projection or name}.weight"), places.sums_of(f"{name}.weight")),
                *(x.elements, places.layout.size, dout.elements, 4 * x.channels, places.sums.shape[1]),
                *(x.rows, dout.rows),
            ),
            {
                **_shape(x, dout, stride, size),
                **{"BM": block, "BN": columns, "BK": tile_columns(dout.channels, tiles.depth), "TILES": programs},
                **{"SKIP": plain, "PROJECT": projection is not None, "SHARE": cut.pixels},
                **{"WBK": cut.depth, "WBJ": cut.rows, "WBN": cut.columns, "OF_WEIGHTS": of_weights},
                **{"STAGES": tiles.stages},
            },
            warps=max(self._warps(block, columns), self._warps(cut.rows, cut.columns)),
            read=tuple(read),
            written=(_whole(din), _sums(part), *([self._shares(name, cut)] if of_weights else [])),
            operations=WHOLE * macs,
        )
        return din

    # What they share

    def _asked(self, x: Images, out: Images, size: int, tiles: int) -> Moved:
        """What a convolution of x to `out` reads of x, once for each of `tiles`."""
        pixel = x.channels * x.tensor.element_size()
        taps = out.rows * size * size
        reached = min(x.rows, taps)
        return Moved(x.tensor, reached * pixel, tiles * pixel * (taps if self._ahead else reached))

    def _spread(self, dout: Images, size: int, tiles: int) -> Moved:
        """What the gradient of a convolution's input reads of `dout`, once for each of `tiles`."""
        return _whole(dout, tiles * (size * size if self._ahead else 1))

    def _of_weights(self, x: Images, dout: Images, size: int, cut: Sharing) -> tuple[Moved, Moved]:
        """What the gradient of weights reads: x once for each tile of columns, `dout` for each group of rows."""
        tiles = dout.channels // cut.columns
        return self._asked(x, dout, size, tiles), _whole(dout, cut.programs // cut.shares // tiles)

    @property
    def _ahead(self) -> bool:
        """Whether what a convolution reads is copied ahead, and so comes from the cache of the device: `Moved`."""
        return self.tiles.stages > 1

    def _kernel(self, name: str, programs: int) -> Moved:
        """The weights of a convolution, read by so many programs."""
        copy = self.parameters.copy(f"{name}.weight")
        return _some(copy, self.convolution_of(name).weight.numel() * copy.element_size(), programs)

    def _shares(self, name: str, cut: Sharing) -> Moved:
        weights = self.convolution_of(name).weight.numel()
        return _some(self.parameters.sums_of(f"{name}.weight"), cut.shares * weights * 4)

    def _sharing(self, name: str, pixels: int) -> Sharing:
        return sharing(self.tiles, kernel_of(self.convolution_of(name)), pixels)

    def _elementwise(self, images: Images, columns: int) -> int:
        return max(1, min(self.tiles.elements // columns, power_of_two(images.rows)))

    def _warps(self, rows: int, columns: int) -> int:
        return 8 if rows * columns >= 128 * 128 else 4

    def add(
        self,
        name: str,
        kernel: object,
        grid: tuple[int, int],
        arguments: tuple[Tensor | int | float, ...],
        constants: dict[str, int | bool],
        warps: int = 4,
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
                self.tiles.stages,
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


def _shape(x: Images, out: Images, stride: int, size: int) -> dict[str, int | bool]:
    return {
        **{"HI": x.height, "WI": x.width, "CI": x.channels, "HO": out.height, "WO": out.width, "CO": out.channels},
        **{"STRIDE": stride, "KERNEL": size},
    }


def _bytes(images: Images) -> int:
    return images.elements * images.tensor.element_size()


def _some(tensor: Tensor, size: int, times: int = 1) -> Moved:
    """`size` bytes of each trial, asked for so many times."""
    return Moved(tensor, size, times * size)


def _sums(tensor: Tensor) -> Moved:
    """All of a tensor, once."""
    return _some(tensor, tensor[0].nbytes)


def _whole(images: Images, times: int = 1) -> Moved:
    return _some(images.tensor, _bytes(images), times)


def norms_of(network: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """Every batch norm by name."""
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            yield name, module
