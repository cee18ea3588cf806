"""An engine by name."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rewindctl.datasets import load_dataset
from rewindctl.engines.local import Engine, InProcess, Processes, default_jobs
from rewindctl.engines.work import Site
from rewindctl.errors import UsageError

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
    count = default_jobs(site.device) if jobs is None else jobs
    engine: Engine = InProcess(site) if count == 1 else Processes(site, count)
    try:
        yield engine
    finally:
        engine.close()


def check_options(name: str, address: str | None, cpus: float | None, gpus: float | None) -> None:
    """Raises: UsageError for options that the engine has no use for, and for Ray where it is not installed."""
    if name == RAY:
        from rewindctl.engines.ray_start import import_ray

        import_ray()
        return
    for option, value in (("address", address), ("cpus", cpus), ("gpus", gpus)):
        if value is not None:
            raise UsageError(f"--{option} {value} has no meaning for --engine {name}", "add --engine ray")
