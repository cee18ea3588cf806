"""Engines by name: a new one is registered here and keeps the contract (`contract.py`).

The command line reads this catalog for its help: what is heavy is imported when an engine is checked or opened.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rewindctl.catalog import Catalog
from rewindctl.engines.contract import Engine
from rewindctl.errors import UsageError

if TYPE_CHECKING:
    from rewindctl.engines.work import WorkerConfig


@dataclass(frozen=True)
class EngineOptions:
    """Stages in parallel; for Ray also the cluster's address, what a process takes, and its stages at once.

    None: not given.
    """

    jobs: int | None = None
    address: str | None = None
    cpus: float | None = None
    gpus: float | None = None
    lanes: int | None = None


@dataclass(frozen=True)
class EngineKind:
    """How an engine is checked and opened; `about` is what the help says of it.

    `check` comes before anything is written; it raises UsageError for options that the engine has no use for, and where
    the engine is not installed. `open` is given the digest of each data set needed, and raises DataError or RewindError
    where stages cannot run; nothing is under way when its block ends. `here`: on this machine, whose device and memory
    are then looked at first.
    """

    about: str
    check: Callable[[EngineOptions], None]
    open: "Callable[[WorkerConfig, Mapping[str, str], EngineOptions], AbstractContextManager[Engine]]"
    here: bool = False


engines: Catalog[EngineKind] = Catalog("engine")


def _check_local(options: EngineOptions) -> None:
    for name in ("address", "cpus", "gpus", "lanes"):
        if (value := getattr(options, name)) is not None:
            raise UsageError(f"--{name} {value} has no meaning for --engine local", "add --engine ray")


@contextmanager
def _open_local(site: "WorkerConfig", data: Mapping[str, str], options: EngineOptions) -> Iterator[Engine]:
    from rewindctl.datasets import load_dataset
    from rewindctl.engines.local import default_jobs

    for dataset in sorted(data):
        load_dataset(dataset, site.data_dir)
    engine = local_engine(site, default_jobs(site.device) if options.jobs is None else options.jobs)
    try:
        yield engine
    finally:
        engine.close()


def _check_ray(options: EngineOptions) -> None:
    from rewindctl.engines.ray_start import import_ray

    import_ray()


@contextmanager
def _open_ray(site: "WorkerConfig", data: Mapping[str, str], options: EngineOptions) -> Iterator[Engine]:
    from rewindctl.engines.ray_cluster import RayCluster

    cluster = RayCluster(site, options.jobs, options.address, options.cpus, options.gpus, options.lanes)
    cluster.check(data)
    try:
        yield cluster
    finally:
        cluster.close()


engines.register("local")(EngineKind("on this machine", _check_local, _open_local, here=True))
engines.register("ray")(EngineKind("on a Ray cluster", _check_ray, _open_ray))


def local_engine(site: "WorkerConfig", jobs: int) -> Engine:
    """The engine of this machine: this process for one job or for jobs on one GPU, else a process per job."""
    from rewindctl.engines.in_turn import InProcess
    from rewindctl.engines.local import Processes, on_one_gpu

    if jobs == 1:
        return InProcess(site)
    return lanes_engine(site, jobs) if on_one_gpu(site.device, jobs) else Processes(site, jobs)


def lanes_engine(site: "WorkerConfig", jobs: int) -> Engine:
    """The engine of one device with several stages at once, all in this process."""
    from rewindctl.engines.lanes import Lanes

    return Lanes(site, jobs)


def at_once_text(jobs: int, device: str, *, lanes: bool = False) -> str:
    """How so many stages run at once on this machine; `lanes`: as trials of one set of kernels.

    Raises: UsageError for a device that is not there.
    """
    from rewindctl.counting import count_of
    from rewindctl.engines.local import core_shares, devices, on_one_gpu, share
    from rewindctl.training.device import resolve_device

    places = sorted({str(resolve_device(place)) for place in devices(device, jobs)})
    if on_one_gpu(device, jobs):
        return f"{jobs} at once: {'lanes of one step' if lanes else 'streams of one process'} on {places[0]}"
    if places != ["cpu"]:
        return f"{jobs} at once: processes, on {', '.join(places)} in turn"
    each = f"{count_of(share(jobs), 'core')} each" if all(core_shares(jobs)) else "which share the cores"
    return f"{jobs} at once: processes, {each}"


def parallel_text(device: str) -> str:
    """How stages at once would run here, for `doctor`. Raises: UsageError for a device that is not there."""
    from rewindctl.engines.local import default_jobs, on_one_gpu
    from rewindctl.training.device import resolve_device

    if resolve_device(device).type == "cpu":
        return "--jobs N: processes, each on its share of the cores; default: one at a time"
    if on_one_gpu(device, 2):
        return "--jobs N: streams of one process; with --update-step fused lanes of one step, as many as are fastest"
    return f"a process for each of {default_jobs(device)} GPUs; --jobs N: processes, on the GPUs in turn"
