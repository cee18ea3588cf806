"""An engine by name."""

from collections.abc import Iterator
from contextlib import contextmanager

from rewindctl.engines.local import Engine, InProcess, Processes, default_jobs
from rewindctl.engines.work import Site
from rewindctl.errors import UsageError


@contextmanager
def open_engine(
    name: str, site: Site, jobs: int | None, address: str | None, cpus: float | None, gpus: float | None
) -> Iterator[Engine]:
    """The engine, with nothing under way when the block ends. Raises: UsageError for options of the other one."""
    check_options(name, address, cpus, gpus)
    count = default_jobs(site.device) if jobs is None else jobs
    engine: Engine = InProcess(site) if count == 1 else Processes(site, count)
    try:
        yield engine
    finally:
        engine.close()


def check_options(name: str, address: str | None, cpus: float | None, gpus: float | None) -> None:
    """Raises: UsageError for options that the engine has no use for."""
    for option, value in (("address", address), ("cpus", cpus), ("gpus", gpus)):
        if value is not None:
            raise UsageError(f"--{option} {value} has no meaning for --engine {name}", "add --engine ray")
