"""Trials whose updates are made by kernels of our own, as the measurements want them; not a script."""

from collections.abc import Callable, Sequence

from several import Given, mask_of
from throughput import wait_for
from torch import Tensor

from rewindctl.datasets.batches import BatchStream
from rewindctl.fused.launch import different
from rewindctl.fused.tiles import Tiles
from rewindctl.fused.trials import FusedTrials
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.fused_step import constants_of
from rewindctl.training.graph import captured


class Together:
    """A masked trial for each seed; an update is one replay of a graph on CUDA, else of every kernel by itself."""

    def __init__(self, given: Given, seeds: Sequence[int], tiles: Tiles | None = None) -> None:
        self.given, self.seeds = given, seeds
        settings = [given.settings(seed) for seed in seeds]
        data, first = given.on_device, settings[0]
        self.trials = trials = FusedTrials(given.network(seeds[0]), data, constants_of(first), len(seeds), tiles)
        self.streams = []
        for number, own in enumerate(settings):
            draws = trials.draws.of(number)
            kept_in = (draws, trials.position[number : number + 1])
            self.streams.append(
                BatchStream(data, own.batch_size, own.crop_padding, own.horizontal_flip, own.seed, kept_in)
            )
        trials.rate.fill_(first.rate(0))
        self.done = 0
        self._replay: Callable[[], None] | None = None
        self.begin()

    def begin(self) -> None:
        """All trials at their start."""
        for number, seed in enumerate(self.seeds):
            network = self.given.network(seed)
            self.trials.load(number, TrainState.initial(network), mask_of(network, seed))
        self.done = 0

    def compile(self) -> None:
        """The code of every kernel, without starting one; the interpreter needs none."""
        if self.trials.data.device.type == "cuda":
            for launch in different(self.trials.launches):
                launch.compile()

    def capture(self) -> None:
        """Once; a process that only looks at the kernels needs none."""
        device = self.trials.data.device
        if self._replay is None:
            cuda = device.type == "cuda"
            self._replay = captured(self.trials.run, self.trials.changed(), device) if cuda else self.trials.run

    def update(self, count: int = 1) -> None:
        """Of every trial, so many; waits for them."""
        self.capture()
        assert self._replay is not None
        for _ in range(count):
            for stream in self.streams:
                stream.seek(self.done)
            self._replay()
            self.done += 1
        wait_for(self.trials.data.device)

    def bytes_of(self, number: int) -> list[Tensor]:
        """Copies of weights, momentum and statistics of a trial."""
        trials = self.trials
        return [tensor[number].clone() for tensor in (trials.weights, trials.momenta, trials.running)]
