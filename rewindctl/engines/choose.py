"""Engines by name: a new one is registered here and keeps the contract (`contract.py`)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from rewindctl.catalog import Catalog
from rewindctl.datasets import load_dataset
from rewindctl.engines.contract import Engine
from rewindctl.engines.in_turn import InProcess
from rewindctl.engines.local import Processes, default_jobs, devices
from rewindctl.engines.streams import Streams
from rewindctl.engines.work import WorkerConfig
from rewindctl.errors import UsageError
from rewindctl.training.device import resolve_device


@dataclass(frozen=True)
class EngineOptions:
    """Stages at once; of Ray the cluster's address and what a stage takes. None where not given."""

    jobs: int | None = None
    address: str | None = None
    cpus: float | None = None
    gpus: float | None = None


@dataclass(frozen=True)
class EngineKind:
    """How an engine is checked and opened.

    `check` comes before anything is written; it raises UsageError for options that the engine has no use for, and where
    the engine is not installed. `open` is given the digest of each data set needed, and raises DataError or RewindError
    where stages cannot run; nothing is under way when its block ends.
    """

    check: Callable[[EngineOptions], None]
    open: Callable[[WorkerConfig, Mapping[str, str], EngineOptions], AbstractContextManager[Engine]]


engines: Catalog[EngineKind] = Catalog("engine")


def _check_local(options: EngineOptions) -> None:
    for name in ("address", "cpus", "gpus"):
        if (value := getattr(options, name)) is not None:
            raise UsageError(f"--{name} {value} has no meaning for --engine local", "add --engine ray")


@contextmanager
def _open_local(site: WorkerConfig, data: Mapping[str, str], options: EngineOptions) -> Iterator[Engine]:
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
def _open_ray(site: WorkerConfig, data: Mapping[str, str], options: EngineOptions) -> Iterator[Engine]:
    from rewindctl.engines.ray_cluster import RayCluster

    cluster = RayCluster(site, options.jobs, options.address, options.cpus, options.gpus)
    cluster.check(data)
    try:
        yield cluster
    finally:
        cluster.close()


engines.register("local")(EngineKind(_check_local, _open_local))
engines.register("ray")(EngineKind(_check_ray, _open_ray))


def local_engine(site: WorkerConfig, jobs: int) -> Engine:
    """This process for one stage at a time and for all that share one GPU, else a process each."""
    if jobs == 1:
        return InProcess(site)
    return Streams(site, jobs) if on_one_gpu(site.device, jobs) else Processes(site, jobs)


def on_one_gpu(device: str, jobs: int) -> bool:
    """Whether all of several stages at once have the same GPU. Raises: UsageError for a device that is not there."""
    places = {resolve_device(place) for place in devices(device, jobs)}
    return len(places) == 1 and places.pop().type == "cuda"
