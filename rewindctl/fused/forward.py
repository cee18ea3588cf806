"""The forward pass as kernels, and the head with its gradients."""

from torch import Tensor, nn

from rewindctl.fused import convolution, head, norms
from rewindctl.fused.launching import NARROW, WHOLE, Launching, all_of, shape_of, some, whole
from rewindctl.fused.layout import power_of_two
from rewindctl.fused.memory import Images, Normed
from rewindctl.fused.tiles import stages_of, tile_columns, tile_rows


class Forward(Launching):
    """Each adds kernels and returns what they leave."""

    # Where activations are kept: here each in a tensor of its own, for the way back

    def made(self, name: str, like: tuple[int, int, int, int]) -> Images:
        """Where a kernel leaves images (images, height, width, channels)."""
        return self.memory.images(f"{name} out", like)

    def normed_to(self, name: str, raw: Images, again: bool) -> Images:
        """Where a norm leaves its output; `again`: somebody else reads `raw` after it."""
        return self.made(name, (raw.count, raw.height, raw.width, raw.channels))

    def let_go(self, images: Images) -> None:
        """No kernel forward reads these any more."""

    # Kernels

    def first(self, name: str, batch: Images, sums: bool = True) -> Images:
        """The convolution of the batch; with `sums` a norm may follow at once."""
        module, tiles = self.convolution_of(name), self.tiles
        out = self.made(name, (batch.count, batch.height, batch.width, module.out_channels))
        size, into = module.kernel_size[0], module.in_channels
        columns = tile_columns(out.channels, tiles.wide)
        block = tile_rows(tiles, out.rows, out.channels)
        programs = -(-out.rows // block)
        part = self.new_part(programs, out.channels, block) if sums else out.tensor
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
                **{"SUMS": sums, "SPLIT": tiles.split},
            },
            read=(whole(batch, out.channels // columns), self.kernel(name, programs)),
            written=(whole(out), *([all_of(part)] if sums else [])),
            operations=WHOLE * out.elements * module.weight[0].numel(),
        )
        return out

    def convolve(self, name: str, of: Images | Normed, added: Images | None = None, sums: bool = True) -> Images:
        """The convolution `name`, plus `added`; with `sums` a norm may follow at once."""
        x, stat, fold = self.read_of(of)
        module, tiles = self.convolution_of(name), self.tiles
        size, stride = module.kernel_size[0], module.stride[0]
        height, width = -(-x.height // stride), -(-x.width // stride)
        out = self.made(name, (x.count, height, width, module.out_channels))
        columns = tile_columns(out.channels, tiles.wide)
        block = tile_rows(tiles, out.rows, out.channels)
        programs = -(-out.rows // block)
        part = self.new_part(programs, out.channels, block) if sums else out.tensor
        stages = stages_of(tiles, programs, out.channels)
        self.add(
            name,
            convolution.convolution,
            (programs, out.channels // columns),
            (
                *(x.tensor, self.parameters.copy(f"{name}.weight"), out.tensor),
                *((added or out).tensor, part, stat),
                *(x.elements, self.parameters.layout.size, out.elements, 4 * x.channels, out.rows),
            ),
            {
                **shape_of(x, out, stride, size),
                **{"BM": block, "BN": columns, "BK": tile_columns(x.channels, tiles.depth)},
                **{"ADD": added is not None, "SUMS": sums, "FOLD": fold},
                **{"SPLIT": tiles.split, "STAGES": stages},
            },
            warps=self.warps(block, columns),
            stages=stages,
            read=(
                self.asked(x, out, size, out.channels // columns, stages),
                self.kernel(name, programs),
                *([whole(added)] if added else []),
            ),
            written=(whole(out), *([all_of(part)] if sums else [])),
            operations=WHOLE * out.elements * module.weight[0].numel(),
        )
        return out

    def norm(
        self, name: str, raw: Images, added: Images | None = None, once: bool = False, again: bool = False
    ) -> Normed:
        """relu(norm(raw) (+ added)); `raw` was written last, with its sums.

        `once`: one convolution alone reads it. `again`: somebody else reads `raw` after it.
        """
        channels, stat = raw.channels, self.statistics(name, raw)
        if once and added is None and self.tiles.fold:
            return Normed(name, raw, raw, stat, folded=True)
        out, columns = self.normed_to(name, raw, again), tile_columns(channels, 64)
        rows = self.elementwise(raw, columns)
        self.add(
            name,
            norms.normalise,
            (-(-raw.rows // rows), channels // columns),
            (raw.tensor, (added or raw).tensor, out.tensor, stat, raw.elements, 4 * channels, raw.rows),
            {"C": channels, "BM": rows, "BC": columns, "ADD": added is not None},
            read=(whole(raw), all_of(stat), *([whole(added)] if added else [])),
            written=(whole(out),),
        )
        return Normed(name, raw, out, stat)

    def batch_norm_of(self, name: str) -> nn.BatchNorm2d:
        found = self.network.get_submodule(name)
        assert isinstance(found, nn.BatchNorm2d)
        return found

    def statistics(self, name: str, raw: Images) -> Tensor:
        """Where a norm's statistics are, (4 channels,): from the sums of the batch, which move the running ones."""
        module, channels = self.batch_norm_of(name), raw.channels
        assert module.momentum is not None
        stat = self.memory.get(f"{name} stat", (4 * channels,))
        mean, part = self.parameters.running_of(name), self.last_part()
        self.add(
            f"{name} statistics",
            norms.statistics,
            (channels // NARROW, 1),
            (
                *(part.tensor, self.parameters.master(f"{name}.weight"), self.parameters.master(f"{name}.bias"), stat),
                *(mean, mean[channels:], part.programs, self.parameters.layout.size, 4 * channels),
                *(self.parameters.running.shape[1], raw.rows, float(module.eps), float(module.momentum)),
            ),
            {"C": channels, "BM": part.tile, "BC": NARROW, "BP": min(512, power_of_two(part.programs))},
            warps=8,
            read=(all_of(part.tensor),),
            written=(all_of(stat), some(mean, 2 * channels * 4)),
        )
        return stat

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
        part = self.new_part(programs, y.channels)
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
                whole(y, 2),
                whole(last.raw),
                some(self.parameters.master("dense.weight"), 4 * y.channels * classes),
            ),
            written=(whole(dy), all_of(part), all_of(features), all_of(dlogits), all_of(losses)),
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
            read=(all_of(features), some(dlogits, images * classes * 4, channels // NARROW + 1)),
            written=(
                some(places.sums_of("dense.weight"), channels * classes * 4),
                some(places.sums_of("dense.bias"), classes * 4),
            ),
            operations=WHOLE * images * channels * classes,
        )
