"""How many trials run in parallel: as many as asked for, if the memory suffices."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch

from rewindctl.arithmetic import Arithmetic
from rewindctl.checks.lane_speed import USED_SHARE, LaneCurve, LaneKind, best_lanes, lane_curve
from rewindctl.datasets.inventory import DataFacts
from rewindctl.engines.local import devices, on_one_gpu
from rewindctl.errors import UsageError
from rewindctl.models import build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.specs import DenseSpec
from rewindctl.training.device import resolve_device
from rewindctl.training.loop import EVALUATION_BATCH
from rewindctl.training.memory import Footprint, footprint, free_bytes
from rewindctl.training.step import choose_step

MOST_ON_A_GPU = 8  # unless asked for more
PROCESS_BYTES = 1_000_000_000  # Python, torch, MLflow, a registry; about 750 MB were measured
CONTEXT_BYTES = 600_000_000  # the driver's and the libraries', for each process on a GPU
WORKSPACE_BYTES = 256 * 2**20  # of cuBLAS and cuDNN, for each stream
Free = Callable[[torch.device], int | None]


@dataclass(frozen=True)
class Need:
    """Memory in bytes: of the largest trial, on a GPU or on a CPU, and of all data sets together."""

    on_device: int
    on_cpu: int
    data: int


@dataclass(frozen=True)
class LaneNeed:
    """Of stages that are trials of one set of kernels: bytes that all share, those of each, and how fast they are.

    `curves`: by network and data set, measured when they are first asked for where nothing is known.
    """

    shared: int
    each: int
    curves: Callable[[], Mapping[tuple[str, str], LaneCurve]]

    def best(self, most: int) -> int:
        """How many at once, `most` at most: what the network that gains from most of them wants."""
        return max(best_lanes(curve, most) for curve in self.curves().values())


def need_of(specs: Iterable[DenseSpec], facts: Callable[[str], DataFacts]) -> Need:
    """The memory for trainings of these baselines or of networks pruned from them. Raises: UsageError, DataError."""
    distinct = _distinct(specs)
    feet = [(_footprint(spec, facts(spec.dataset)), spec.batch_size) for spec in distinct]
    return Need(
        max(foot.on_device(batch) for foot, batch in feet),
        max(foot.on_cpu(batch) for foot, batch in feet),
        _data_of(distinct, facts),
    )


def lane_kinds(
    specs: Iterable[DenseSpec], facts: Callable[[str], DataFacts], device: str, arithmetic: Arithmetic
) -> list[LaneKind]:
    """The kinds of training among these where, on one GPU, they are trials of one set of kernels; else none.

    Raises: UsageError where the kernels were asked for and cannot be.
    """
    if not on_one_gpu(device, 2):
        return []
    place = resolve_device(device)
    if choose_step(arithmetic.step, place) != "fused":
        return []
    kinds = [LaneKind(spec, facts(spec.dataset), place, arithmetic) for spec in _distinct(specs)]
    return [] if any(kind.unfit for kind in kinds) else kinds


def lanes_of(
    specs: Iterable[DenseSpec],
    facts: Callable[[str], DataFacts],
    device: str,
    arithmetic: Arithmetic,
    say: Callable[[str], None],
) -> LaneNeed | None:
    """The need of trainings that would be trials of one set of kernels; None where they would not.

    Beside the kernels' own memory each has a network to evaluate and, while its graph is captured, a copy of what an
    update changes; one evaluates at a time. Raises: UsageError, DataError.
    """
    specs = list(specs)
    kinds = lane_kinds(specs, facts, device, arithmetic)
    if not kinds:
        return None
    feet = [(kind.memory, _footprint(kind.spec, kind.facts)) for kind in kinds]

    @cache
    def curves() -> Mapping[tuple[str, str], LaneCurve]:
        return {(kind.spec.model, kind.spec.dataset): lane_curve(kind, say=say) for kind in kinds}

    shared = max(memory.shared + EVALUATION_BATCH * foot.evaluated for memory, foot in feet)
    return LaneNeed(
        shared + WORKSPACE_BYTES + _data_of(specs, facts),
        max(memory.each + foot.kept for memory, foot in feet),
        curves,
    )


def choose_jobs(
    asked: int | None,
    trials: int,
    device: str,
    need: Need,
    say: Callable[[str], None],
    free: Free = free_bytes,
    lanes: LaneNeed | None = None,
) -> int:
    """How many of the `trials` run in parallel; at most all of them.

    Default: one on a CPU, one per GPU on several GPUs, as many as fit on one GPU; where they are `lanes` of one step as
    many of these as are fastest together. Raises: UsageError when what was asked for does not fit.
    """
    if trials <= 1:
        return 1
    wanted = min(trials, asked or (lanes.best(trials) if lanes else _usual(device)))
    if wanted <= 1:
        return 1
    fit, why = _room_of_lanes(device, lanes, free) if lanes else _room(device, wanted, need, free)
    if fit is None or fit >= wanted:
        return wanted
    fit = max(fit, 1)
    if asked is None:
        chosen = lanes.best(fit) if lanes else fit
        say(f"{chosen} at once, not {wanted}: {why}")
        return chosen
    raise UsageError(f"--jobs {asked}: {wanted} trials at once do not fit: {why}", f"give --jobs {fit}")


def _usual(device: str) -> int:
    if resolve_device(device).type != "cuda":
        return 1
    places = len(set(devices(device, torch.cuda.device_count())))
    return MOST_ON_A_GPU if places == 1 else places


def _room_of_lanes(device: str, lanes: LaneNeed, free: Free) -> tuple[int | None, str]:
    """As `_room`; None where the system does not tell."""
    place = resolve_device(devices(device, 1)[0])
    available = free(place)
    return (None, "") if available is None else _count(available, lanes.shared, lanes.each, place)


def _room(device: str, jobs: int, need: Need, free: Free) -> tuple[int, str]:
    """How many fit, and why no more."""
    places = {resolve_device(place) for place in devices(device, jobs)}
    fits = []
    for place in sorted(places, key=str):
        available = free(place)
        if available is None:
            continue
        shared, each = _cost(place, need, in_threads=on_one_gpu(device, jobs))
        fits.append(_count(available, shared, each, place))
    fewest, why = min(fits, default=(jobs, ""))
    return fewest * len(places), why


def _count(available: int, shared: int, each: int, place: torch.device) -> tuple[int, str]:
    count = max(0, int(available * USED_SHARE - shared) // each)
    return count, f"each takes about {_size(each)}, {_size(available)} are free on {place}"


def _cost(place: torch.device, need: Need, in_threads: bool) -> tuple[int, int]:
    """Bytes that all trials on a device share, and those that each takes."""
    if place.type == "cpu":
        return 0, need.on_cpu + need.data + PROCESS_BYTES
    each = need.on_device + WORKSPACE_BYTES
    return (need.data, each) if in_threads else (0, each + need.data + CONTEXT_BYTES)


def _footprint(spec: DenseSpec, facts: DataFacts) -> Footprint:
    config = NetworkConfig(facts.channels, facts.classes, spec.norm_momentum, spec.norm_epsilon)
    return footprint(build_network(spec.model, config, seed=0), (facts.channels, *facts.image_size), facts.train_size)


def _distinct(specs: Iterable[DenseSpec]) -> list[DenseSpec]:
    """One of each network, data set and batch size."""
    return list({(spec.model, spec.dataset, spec.batch_size): spec for spec in specs}.values())


def _data_of(specs: Iterable[DenseSpec], facts: Callable[[str], DataFacts]) -> int:
    """Bytes of all data sets together."""
    return sum(_data_bytes(facts(name)) for name in sorted({spec.dataset for spec in specs}))


def _data_bytes(facts: DataFacts) -> int:
    """Half as many test images as training images at most, as bytes; labels are small beside them."""
    height, width = facts.image_size
    return 3 * facts.train_size * (facts.channels * height * width + 8) // 2


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
