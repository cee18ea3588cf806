"""How many trials run in parallel: as many as asked for, if the memory suffices."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from rewindctl.datasets.inventory import DataFacts
from rewindctl.engines.local import devices, on_one_gpu
from rewindctl.errors import UsageError
from rewindctl.models import build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.specs import DenseSpec
from rewindctl.training.device import resolve_device
from rewindctl.training.memory import Footprint, footprint, free_bytes

MOST_ON_A_GPU = 8  # unless asked for more
USED_SHARE = 0.9  # of what is free: others want some too
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


def need_of(specs: Iterable[DenseSpec], facts: Callable[[str], DataFacts]) -> Need:
    """The memory for trainings of these baselines or of networks pruned from them. Raises: UsageError, DataError."""
    distinct = {(spec.model, spec.dataset, spec.batch_size): spec for spec in specs}.values()
    feet = [(_footprint(spec, facts(spec.dataset)), spec.batch_size) for spec in distinct]
    sets = {spec.dataset: facts(spec.dataset) for spec in distinct}
    return Need(
        max(foot.on_device(batch) for foot, batch in feet),
        max(foot.on_cpu(batch) for foot, batch in feet),
        sum(_data_bytes(one) for one in sets.values()),
    )


def choose_jobs(
    asked: int | None, trials: int, device: str, need: Need, say: Callable[[str], None], free: Free = free_bytes
) -> int:
    """How many of the `trials` run in parallel; at most all of them.

    Default: one on a CPU, one per GPU on several GPUs, as many as fit on one GPU. Raises: UsageError when what was
    asked for does not fit.
    """
    wanted = min(trials, asked or _usual(device))
    if wanted <= 1:
        return 1
    fit, why = _room(device, wanted, need, free)
    if fit >= wanted:
        return wanted
    if asked is None:
        say(f"{max(fit, 1)} at once, not {wanted}: {why}")
        return max(fit, 1)
    raise UsageError(f"--jobs {asked}: {wanted} trials at once do not fit: {why}", f"give --jobs {max(fit, 1)}")


def lanes_of_a_gpu(device: torch.device) -> int:
    """How many stages one process has under way at once on a GPU that is its own."""
    return MOST_ON_A_GPU


def _usual(device: str) -> int:
    if resolve_device(device).type != "cuda":
        return 1
    places = len(set(devices(device, torch.cuda.device_count())))
    return MOST_ON_A_GPU if places == 1 else places


def _room(device: str, jobs: int, need: Need, free: Free) -> tuple[int, str]:
    """How many fit, and why no more."""
    places = {resolve_device(place) for place in devices(device, jobs)}
    fits = []
    for place in sorted(places, key=str):
        available = free(place)
        if available is None:
            continue
        shared, each = _cost(place, need, in_threads=on_one_gpu(device, jobs))
        count = max(0, int(available * USED_SHARE - shared) // each)
        fits.append((count, f"each takes about {_size(each)}, {_size(available)} are free on {place}"))
    fewest, why = min(fits, default=(jobs, ""))
    return fewest * len(places), why


def _cost(place: torch.device, need: Need, in_threads: bool) -> tuple[int, int]:
    """Bytes that all trials on a device share, and those that each takes."""
    if place.type == "cpu":
        return 0, need.on_cpu + need.data + PROCESS_BYTES
    each = need.on_device + WORKSPACE_BYTES
    return (need.data, each) if in_threads else (0, each + need.data + CONTEXT_BYTES)


def _footprint(spec: DenseSpec, facts: DataFacts) -> Footprint:
    config = NetworkConfig(facts.channels, facts.classes, spec.norm_momentum, spec.norm_epsilon)
    return footprint(build_network(spec.model, config, seed=0), (facts.channels, *facts.image_size), facts.train_size)


def _data_bytes(facts: DataFacts) -> int:
    """Half as many test images as training images at most, as bytes; labels are small beside them."""
    height, width = facts.image_size
    return 3 * facts.train_size * (facts.channels * height * width + 8) // 2


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
