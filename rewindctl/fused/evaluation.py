"""Loss and accuracy of all trials on the whole test set, by kernels that do a batch of every trial at a time."""

import torch
from torch import Tensor, nn

from rewindctl.fused import families, scoring
from rewindctl.fused.forward import Forward
from rewindctl.fused.launch import Launch, started_on
from rewindctl.fused.launching import NARROW, WHOLE, all_of, some, whole
from rewindctl.fused.layout import power_of_two
from rewindctl.fused.memory import Images, Memory, Normed, Parameters
from rewindctl.fused.tiles import Tiles, tile_columns
from rewindctl.fused.trials import FusedTrials

MOST_IMAGES = 500  # of a batch
MOST_AT_ONCE = 2**22  # elements of its largest activation: 16 MiB of each trial
ADDED_AT_ONCE = 256  # losses


class FusedEvaluation:
    """Evaluates trials in float32, of their master weights and running statistics, which it reads where they are.

    After `run`, of each trial on the device: `loss_sum` float64 and `correct` int64, (trials,), of all `total` images.
    No kernel's arithmetic depends on how many trials there are, or on a trial's place among them.
    """

    def __init__(self, trials: FusedTrials, batch_size: int | None = None, tiles: Tiles | None = None) -> None:
        """`batch_size`: images of a trial at a time, by default as many as take little memory."""
        self.trials, self.device = trials, trials.data.device
        self.tiles = tiles or Tiles.evaluating(self.device)
        self.total = len(trials.data.test_images)
        largest = _largest_activation(trials)
        most = batch_size or max(1, min(MOST_IMAGES, MOST_AT_ONCE // largest))
        self.batches = -(-self.total // most)
        self.batch_size = -(-self.total // self.batches)  # all about as large
        self.memory = memory = Memory(trials.count, torch.float32, self.device)
        self.loss_sum = memory.get("loss sum", (), torch.float64)
        self.correct, self.position = (memory.get(name, (), torch.int64) for name in ("correct", "position"))
        parameters = Parameters(
            *(trials.layout, trials.weights, trials.weights, trials.memory.tensors["sums"], trials.where),
            *(trials.running, trials.running_places),
        )
        passes = _Evaluating(trials.network, memory, parameters, self.tiles, self.batch_size * largest)
        passes.start(self.loss_sum, self.correct, self.position)
        batch = passes.take(trials, self.batch_size, self.position)
        last = families.forward(passes, trials.network, batch)
        passes.score(last, trials.data.test_labels, self.position)
        passes.add_up(self.loss_sum, self.correct, self.position)
        self.starts, self.launches = passes.starts, passes.launches

    def run(self, count: int | None = None) -> None:
        """Evaluate the first `count` trials, by default every one; the sums of the others stay as they are."""
        self.start(count)
        for _ in range(self.batches):
            self.batch(count)

    def start(self, count: int | None = None) -> None:
        """What comes before the first batch: nothing is summed up, the norms have the statistics of now."""
        self._do(self.starts, count)

    def batch(self, count: int | None = None) -> None:
        """The next of `batches` batches, the same kernels on the same addresses."""
        self._do(self.launches, count)

    def _do(self, launches: list[Launch], count: int | None) -> None:
        with started_on(self.device):
            for launch in launches:
                launch(count)

    def changed(self) -> list[Tensor]:
        """Every tensor that a batch writes to and that the next one reads."""
        return [self.loss_sum, self.correct, self.position]

    def result(self, trial: int) -> tuple[float, float]:
        """Mean loss and accuracy of a trial, as `evaluate` has them; waits for the device."""
        return float(self.loss_sum[trial]) / self.total, int(self.correct[trial]) / self.total

    @property
    def bytes_per_trial(self) -> int:
        """Of its own memory, beside that of the trials; nothing is shared by all."""
        return self.memory.bytes_per_trial


class _Evaluating(Forward):
    """The forward pass with known statistics, its activations in a few tensors that are written over and over.

    `starts`: the kernels before the first batch; `launches`: those of a batch.
    """

    def __init__(
        self, network: nn.Module, memory: Memory, parameters: Parameters, tiles: Tiles, most_elements: int
    ) -> None:
        """`most_elements`: of the largest activation of a batch."""
        super().__init__(network, memory, parameters, tiles)
        self.starts: list[Launch] = []
        self._most_elements, self._slots = most_elements, 0
        self._free: list[Tensor] = []
        self._held: list[tuple[Images, Tensor]] = []

    def made(self, name: str, like: tuple[int, int, int, int]) -> Images:
        """In a slot that is free: (trials, most_elements), of which its beginning is used."""
        if not self._free:
            self._free.append(self.memory.get(f"slot {self._slots}", (self._most_elements,)))
            self._slots += 1
        slot, (count, height, width, channels) = self._free.pop(), like
        elements = self.trials * count * height * width * channels
        found = Images(slot.view(-1)[:elements].view(self.trials, *like), height, width, channels, count)
        self._held.append((found, slot))
        return found

    def let_go(self, images: Images) -> None:
        (slot,) = (slot for held, slot in self._held if held is images)
        self._held = [(held, slot) for held, slot in self._held if held is not images]
        self._free.append(slot)

    def normed_to(self, name: str, raw: Images, again: bool) -> Images:
        """In place, where nobody else reads what is normalised."""
        return super().normed_to(name, raw, again) if again else raw

    def first(self, name: str, batch: Images, sums: bool = False) -> Images:
        return super().first(name, batch, sums=False)

    def convolve(self, name: str, of: Images | Normed, added: Images | None = None, sums: bool = False) -> Images:
        return super().convolve(name, of, added, sums=False)

    def statistics(self, name: str, raw: Images) -> Tensor:
        """Of the running ones, once for all batches."""
        channels, parameters = raw.channels, self.parameters
        stat, running = self.memory.get(f"{name} stat", (4 * channels,)), parameters.running_of(name)
        self.add(
            f"{name} statistics",
            scoring.known_statistics,
            (channels // NARROW, 1),
            (
                *(parameters.master(f"{name}.weight"), parameters.master(f"{name}.bias")),
                *(running, running[channels:], stat, parameters.layout.size, parameters.running.shape[1]),
                *(4 * channels, float(self.batch_norm_of(name).eps)),
            ),
            {"C": channels, "BC": NARROW},
            read=(some(running, 2 * channels * 4),),
            written=(all_of(stat),),
        )
        self._at_start()
        return stat

    def start(self, loss_sum: Tensor, correct: Tensor, position: Tensor) -> None:
        self.add("start", scoring.start_scores, (1, 1), (loss_sum, correct, position), {})
        self._at_start()

    def _at_start(self) -> None:
        """The kernel that was added last is none of a batch."""
        self.starts.append(self.launches.pop())

    def take(self, trials: FusedTrials, count: int, position: Tensor) -> Images:
        """The images of the test set's batch that a trial is at."""
        data = trials.data
        batch = self.memory.images("batch", (count, trials.height, trials.width, trials.channels))
        elements = trials.height * trials.width * trials.channels
        block = min(1024, power_of_two(elements))
        self.add(
            "batch",
            scoring.take_test_batch,
            (-(-elements // block), count),
            (data.test_images, position, data.scale, data.shift, batch.tensor, len(data.test_images)),
            {"ELEMENTS": elements, "CHANNELS": trials.channels, "IMAGES": count, "BLOCK": block},
            read=(some(data.test_images, batch.elements),),
            written=(whole(batch),),
        )
        return batch

    def score(self, last: Normed, labels: Tensor, position: Tensor) -> None:
        """Loss of each image, and whether the answer is right."""
        y, layout, classes = last.out, self.parameters.layout, self.parameters.layout.classes
        pixels = y.height * y.width
        padded, columns = power_of_two(pixels), tile_columns(y.channels, max(16, 1024 // classes))
        images = max(1, min(4, 4096 // (padded * columns), 4096 // (columns * classes)))
        images = power_of_two(images + 1) // 2
        losses = self.memory.get("losses", (y.count,), torch.float64)
        right = self.memory.get("right", (y.count,), torch.int32)
        weight = self.parameters.master("dense.weight")
        self.add(
            "score",
            scoring.score,
            (-(-y.count // images), 1),
            (
                *(y.tensor, weight, self.parameters.master("dense.bias"), labels, position, losses, right),
                *(y.elements, layout.size, y.count, len(labels)),
            ),
            {
                **{"PIXELS": pixels, "PP": padded, "C": y.channels, "BC": columns},
                **{"CLASSES": layout.places["dense.bias"].shape[0], "KP": classes, "BI": images},
            },
            read=(whole(y), some(weight, 4 * y.channels * classes)),
            written=(all_of(losses), all_of(right)),
            operations=WHOLE * y.count * y.channels * classes,
        )

    def add_up(self, loss_sum: Tensor, correct: Tensor, position: Tensor) -> None:
        """The batch's sums, and on to the next one."""
        losses, right = self.memory.tensors["losses"], self.memory.tensors["right"]
        images = losses.shape[1]
        self.add(
            "scores",
            scoring.add_scores,
            (1, 1),
            (losses, right, loss_sum, correct, position, images),
            {"BN": min(ADDED_AT_ONCE, power_of_two(images))},
            read=(all_of(losses), all_of(right)),
        )


def _largest_activation(trials: FusedTrials) -> int:
    """Elements of one image, of what any convolution makes."""
    sizes = trials.output_sizes()
    return max(
        sizes[name][0] * sizes[name][1] * module.out_channels
        for name, module in trials.network.named_modules()
        if isinstance(module, nn.Conv2d)
    )
