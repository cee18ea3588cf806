"""An engine by name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rewindctl.datasets import load_dataset
from rewindctl.engines.contract import Engine
from rewindctl.engines.in_turn import InProcess
from rewindctl.engines.local import Processes, default_jobs, devices
from rewindctl.engines.streams import Streams
from rewindctl.engines.work import Site
from rewindctl.errors import UsageError
from rewindctl.training.device import resolve_device

RAY = "ray"


@contextmanager
def open_engine(
    name: str,
    site: Site,
    data: Mapping[str, str],
    jobs: int | None = None,
    address: str | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
) -> Iterator[Engine]:
    """The engine, with nothing under way when the block ends. `data`: the digest of each data set that it needs.

    Raises: UsageError for options of the other one, DataError or RewindError where stages cannot run.
    """
    check_options(name, address, cpus, gpus)
    if name == RAY:
        from rewindctl.engines.ray_cluster import RayCluster

        cluster = RayCluster(site, jobs, address, cpus, gpus)
        cluster.check(data)
        try:
            yield cluster
        finally:
            cluster.close()
        return
    for dataset in sorted(data):
        load_dataset(dataset, site.data_dir)
    engine = local_engine(site, default_jobs(site.device) if jobs is None else jobs)
    try:
        yield engine
    finally:
        engine.close()


def local_engine(site: Site, jobs: int) -> Engine:
    """This process for one stage at a time and for all that share one GPU, else a process each."""
    if jobs == 1:
        return InProcess(site)
    return Streams(site, jobs) if on_one_gpu(site.device, jobs) else Processes(site, jobs)


def on_one_gpu(device: str, jobs: int) -> bool:
    """Whether all of several stages at once have the same GPU. Raises: UsageError for a device that is not there."""
    places = {resolve_device(place) for place in devices(device, jobs)}
    return len(places) == 1 and places.pop().type == "cuda"


def check_options(name: str, address: str | None, cpus: float | None, gpus: float | None) -> None:
    """Raises: UsageError for options that the engine has no use for, and for Ray where it is not installed."""
    if name == RAY:
        from rewindctl.engines.ray_start import import_ray

        import_ray()
        return
    for option, value in (("address", address), ("cpus", cpus), ("gpus", gpus)):
        if value is not None:
            raise UsageError(f"--{option} {value} has no meaning for --engine {name}", "add --engine ray")
