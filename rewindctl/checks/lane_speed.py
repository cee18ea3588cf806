"""How fast one set of kernels trains several trials at once, by how many: measured once on a device, then kept."""

import json
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rewindctl.arithmetic import Arithmetic
from rewindctl.checks.speed import noise, recipe_to_measure
from rewindctl.datasets.batches import DeviceData, Epochs
from rewindctl.datasets.inventory import DataFacts
from rewindctl.fused.pairs import is_whole, missing_part, unfit
from rewindctl.models import Network
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import DenseSpec
from rewindctl.system.files import keep_text, state_folder
from rewindctl.training.agreement import known_disagreement
from rewindctl.training.graph import captured
from rewindctl.training.kernel_key import kernel_key
from rewindctl.training.kernels import reproducible
from rewindctl.training.memory import free_bytes
from rewindctl.training.records import TrainSettings

if TYPE_CHECKING:
    from rewindctl.fused.lane_memory import LaneBytes

COUNTS = (1, 2, 4, 8, 16, 32)
LEAST_GAIN = 1.03  # over the best so far: with less, more trials at once are not tried
NEAR_BEST = 0.95
USED_SHARE = 0.9  # of the memory that is free: others want some too
SECONDS = 0.5  # of updates for each number of trials
NO_MEMORY = "more do not fit into the memory"
NO_GAIN = "more are no faster"
Free = Callable[[torch.device], int | None]


@dataclass(frozen=True)
class LaneCurve:
    """Updates per second of all trials in sum, by how many run at once; `ended`: why no more were measured."""

    speeds: dict[int, float]
    ended: str = ""

    def at(self, count: int) -> float:
        """Of so many trials: measured, else on the line between its neighbours; past the last one as there."""
        counts = sorted(self.speeds)
        place = bisect_left(counts, count)
        if place == len(counts):
            return self.speeds[counts[-1]]
        above = counts[place]
        if place == 0 or above == count:
            return self.speeds[above]
        below = counts[place - 1]
        part = (count - below) / (above - below)
        return (1 - part) * self.speeds[below] + part * self.speeds[above]


def best_lanes(curve: LaneCurve, most: int) -> int:
    """The fewest trials at once, `most` at most, that are within 5 % of the best of so few; 1 at least.

    `most` itself is looked at too where it lies between two that were measured.
    """
    counts = [count for count in sorted(curve.speeds) if count <= most]
    if counts and most < max(curve.speeds):
        counts.append(most)
    best = max(map(curve.at, counts), default=0.0)
    return next((count for count in counts if curve.at(count) >= NEAR_BEST * best), 1)


def why_no_lanes(device: torch.device, arithmetic: Arithmetic) -> str:
    """Why no trainings run as trials of one set of kernels on `device`; empty where those of some networks can."""
    if arithmetic.step == "pytorch":
        return "--update-step pytorch is given"
    return "--compile is given" if arithmetic.compiled else missing_part(device)


@dataclass(frozen=True)
class LaneKind:
    """What trials of one set of kernels have in common: the recipe of `spec` but for its seed, on `device`."""

    spec: DenseSpec
    facts: DataFacts
    device: torch.device
    arithmetic: Arithmetic

    @cached_property
    def recipe(self) -> tuple[Network, TrainSettings]:
        """The network, and the settings of a training of it."""
        return recipe_to_measure(self.spec, self.facts, self.device, self.arithmetic)

    @property
    def unfit(self) -> str:
        """Why no kernels of our own train several at once; empty where they do."""
        network, settings = self.recipe
        if why := missing_part(self.device) or unfit(network):
            return why
        if not is_whole(network):
            return "kernels of our own make a part of its updates alone"
        found = known_disagreement(self.device, network, self.image, settings)
        return f"on this device they make {found}" if found else ""

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return (*self.facts.image_size, self.facts.channels)

    @cached_property
    def memory(self) -> "LaneBytes":
        """What its trials take beside the data set, masks among it."""
        from rewindctl.fused.lane_memory import lane_bytes
        from rewindctl.training.fused_step import constants_of

        network, settings = self.recipe
        return lane_bytes(network, self.facts.train_size, self.image, constants_of(settings), self.device)

    @property
    def key(self) -> str:
        """Under which its speeds are kept."""
        network, settings = self.recipe
        return kernel_key(
            self.device, network, settings.precision, self.image, settings.batch_size, settings.crop_padding
        )


def lane_curve(
    kind: LaneKind, *, say: Callable[[str], None] = lambda text: None, anew: bool = False, free: Free = free_bytes
) -> LaneCurve:
    """What is kept of this kind of training, else measured now, for seconds, and kept."""
    path, key = state_folder() / "lane_speed.json", kind.key
    kept = _read(path)
    found = None if anew else _curve(kept.get(key))
    if found is not None and not (found.ended == NO_MEMORY and _fits(kind, 2 * max(found.speeds), free)):
        return found
    say(f"measuring {kind.spec.model} by kernels of our own, several trials at once ...")
    found = measured_curve(kind, free=free)
    keep_text(path, json.dumps(kept | {key: asdict(found)}, indent=1))
    return found


def measured_curve(
    kind: LaneKind, counts: tuple[int, ...] = COUNTS, seconds: float = SECONDS, free: Free = free_bytes
) -> LaneCurve:
    """Updates of masked trials on noise, evaluations apart, until more do not fit or gain too little.

    Raises: UsageError for a batch that is too large; torch.OutOfMemoryError where a single trial does not fit.
    """
    speeds: dict[int, float] = {}
    with reproducible(kind.device, kind.arithmetic.deterministic):
        data = DeviceData.upload(noise(kind.facts, kind.spec.batch_size), kind.device)
        for count in counts:
            if speeds and not _fits(kind, count, free):
                return LaneCurve(speeds, NO_MEMORY)
            best = max(speeds.values(), default=0.0)
            try:
                speeds[count] = _speed(kind, data, count, seconds)
            except torch.OutOfMemoryError:
                if not speeds:
                    raise
                return LaneCurve(speeds, NO_MEMORY)
            if speeds[count] < LEAST_GAIN * best:
                return LaneCurve(speeds, NO_GAIN)
    return LaneCurve(speeds)


def _fits(kind: LaneKind, count: int, free: Free) -> bool:
    available = free(kind.device)
    return available is None or kind.memory.of(count) <= USED_SHARE * available


def _speed(kind: LaneKind, data: DeviceData, count: int, seconds: float) -> float:
    """Updates per second of `count` trials in sum."""
    from rewindctl.fused.trials import FusedTrials
    from rewindctl.training.fused_step import constants_of

    network, settings = kind.recipe
    trials = FusedTrials(network, data, constants_of(settings), count)
    start = TrainState.initial(network)
    epochs = Epochs(data, settings.batch_size, settings.crop_padding, settings.horizontal_flip, settings.seed)
    for trial in range(count):
        trials.load(trial, start, None)
        trials.draws.of(trial).copy_(epochs.draw(0))
    trials.rate.fill_(settings.rate(0))
    if kind.device.type != "cuda":
        return count * _rate(trials.run, lambda: None, seconds)
    replay = captured(trials.run, trials.changed(), kind.device)
    return count * _rate(replay, lambda: torch.cuda.synchronize(kind.device), seconds)


def _rate(update: Callable[[], None], wait: Callable[[], None], seconds: float) -> float:
    """Calls per second: as many as take about so long, found by doubling, so that the last calls are not waited for."""
    count = 1
    while True:
        began = time.perf_counter()
        for _ in range(count):
            update()
        wait()
        took = time.perf_counter() - began
        if took >= seconds:
            return count / max(took, 1e-9)
        count *= 2


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _curve(kept: object) -> LaneCurve | None:
    """What was kept, if it is whole: a speed for 1 trial, all of them numbers above 0."""
    if not isinstance(kept, Mapping) or not isinstance(kept.get("speeds"), Mapping):
        return None
    try:
        speeds = {int(count): float(speed) for count, speed in kept["speeds"].items()}
    except (TypeError, ValueError):
        return None
    whole = 1 in speeds and all(count > 0 and 0 < speed < math.inf for count, speed in speeds.items())
    return LaneCurve(speeds, str(kept.get("ended", ""))) if whole else None
