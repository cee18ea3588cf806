"""A step as a list of kernels: what the families of networks are put together from."""

from rewindctl.fused import convolution, norms
from rewindctl.fused.forward import Forward
from rewindctl.fused.launch import Moved
from rewindctl.fused.launching import NARROW, WHOLE, all_of, shape_of, some, whole
from rewindctl.fused.layout import power_of_two
from rewindctl.fused.memory import Images, Normed
from rewindctl.fused.tiles import stages_of, tile_columns, tile_rows


class Passes(Forward):
    """Forward and backward: each adds kernels and returns what they leave."""

    def norm_back(self, normed: Normed, dy: Images, added: Images | None = None, to: str = "inner") -> Images:
        """The gradient of the norm's input (+ added); dy was written last, with its sums."""
        name, raw = normed.name, normed.raw
        channels, sums = raw.channels, self.parameters.sums.shape[1]
        columns, part = tile_columns(channels, 64), self.last_part()
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
            read=(all_of(part.tensor), all_of(normed.stat)),
            written=(
                all_of(back),
                some(self.parameters.sums_of(f"{name}.weight"), channels * 4),
                some(self.parameters.sums_of(f"{name}.bias"), channels * 4),
            ),
        )
        out = self.memory.images(to, (raw.count, raw.height, raw.width, channels))
        rows = self.elementwise(raw, columns)
        self.add(
            f"{name} back",
            norms.normalise_back,
            (-(-raw.rows // rows), channels // columns),
            (
                *(dy.tensor, raw.tensor, (added or dy).tensor, out.tensor, normed.stat, back),
                *(raw.elements, 4 * channels, 3 * channels, raw.rows),
            ),
            {"C": channels, "BM": rows, "BC": columns, "ADD": added is not None, "MASK": False},
            read=(whole(dy), whole(raw), all_of(back), *([whole(added)] if added else [])),
            written=(whole(out),),
        )
        return out

    def weights_back(self, name: str, of: Images | Normed, dout: Images) -> None:
        """The gradient of the convolution's weights alone."""
        x, stat, fold = self.read_of(of)
        module = self.convolution_of(name)
        size, stride = module.kernel_size[0], module.stride[0]
        cut = self.sharing(name, dout.rows)
        sums, stages = self.parameters.sums, stages_of(self.tiles, cut.programs, dout.channels)
        self.add(
            f"{name} weights back",
            convolution.gradient_of_weights,
            (cut.programs, 1),
            (
                *(x.tensor, dout.tensor, self.parameters.sums_of(f"{name}.weight"), stat),
                *(x.elements, dout.elements, 4 * x.channels, sums.shape[1], dout.rows),
            ),
            {
                **{"SHARE": cut.pixels},
                **shape_of(x, dout, stride, size),
                **{"BK": cut.depth, "BJ": cut.rows, "BN": cut.columns, "FOLD": fold, "STAGES": stages},
            },
            warps=self.warps(cut.rows, cut.columns),
            stages=stages,
            read=self.of_weights(x, dout, size, cut, stages),
            written=(self.shares(name, cut),),
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
        cut = self.sharing(name, dout.rows)
        din = self.memory.images(to, (x.count, x.height, x.width, x.channels))
        columns = tile_columns(x.channels, tiles.wide)
        block = tile_rows(tiles, x.rows, x.channels)
        programs = -(-x.rows // block)
        of_weights = cut.programs if tiles.side_by_side else 0
        if not tiles.side_by_side:
            self.weights_back(name, before, dout)
        part = self.new_part(programs, x.channels)
        stages = stages_of(tiles, programs + of_weights, max(x.channels, dout.channels))
        plain, places = skip is not None and projection is None, self.parameters
        # As the kernel multiplies: of a stride of 2 every pixel of the input with every place, though 3 of 4 are 0.
        macs = x.elements * module.weight[:, 0].numel() + (
            dout.elements * module.weight[0].numel() if of_weights else 0
        )
        tiled = x.channels // columns
        read = [self.spread(dout, size, tiled, stages), self.kernel(name, programs), whole(before.raw)]
        read += [] if before.folded else [whole(x)]
        if projection:
            assert skip is not None
            macs += x.rows * self.convolution_of(projection).weight.numel()
            read += [self.spread(skip, 1, tiled, stages), self.kernel(projection, programs)]
        elif skip:
            read += [whole(skip)]
        if of_weights:
            read += [
                Moved(one.tensor, 0, one.asked) for one in self.of_weights(x, dout, size, cut, stages)
            ]  # read above
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
                **shape_of(x, dout, stride, size),
                **{"BM": block, "BN": columns, "BK": tile_columns(dout.channels, tiles.depth), "TILES": programs},
                **{"SKIP": plain, "PROJECT": projection is not None, "SHARE": cut.pixels},
                **{"WBK": cut.depth, "WBJ": cut.rows, "WBN": cut.columns, "OF_WEIGHTS": of_weights},
                **{"FOLD": before.folded, "STAGES": stages},
            },
            warps=max(self.warps(block, columns), self.warps(cut.rows, cut.columns)),
            stages=stages,
            read=tuple(read),
            written=(whole(din), all_of(part), *([self.shares(name, cut)] if of_weights else [])),
            operations=WHOLE * macs,
        )
        return din
