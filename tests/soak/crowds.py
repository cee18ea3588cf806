"""Section: Many processes at one store, also behind a server that is killed: nothing is twice, no point is lost."""

import os
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from servers import Server
from workload import Written, at_once, duplicates, missing, touch, write

from rewindctl.registry import Registry
from soak.sections import Failures

FULL_SECONDS = 100.0  # from this budget on there are as many as a whole soak has
PROCESSES, WRITERS, WRITE_SECONDS = 32, 16, 60.0
FEW, FEW_SECONDS = 4, 2.0
AT_A_SERVER, SERVER_SECONDS = 4, 30.0  # its one worker answers one at a time
SOON, LATE = 1.0, 8.0  # seconds that a server is up before it is killed

failures = Failures()


def run(budget_seconds: float, seed: int) -> dict[str, Any]:
    """First touches of a fresh store, then metrics as fast as it takes them, then through a server that is killed.

    Only the moments of the kills are drawn from the seed.
    """
    whole = budget_seconds >= FULL_SECONDS
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.environ["XDG_STATE_HOME"] = str(Path(folder, "state"))  # before the first process is made: all have it
        uri = f"sqlite:///{Path(folder, 'new', 'mlflow.db')}"
        touched = at_once(touch, PROCESSES if whole else FEW, uri, "touched")
        failures.extend(duplicates(uri, "touched", touched))
        left = budget_seconds - (time.monotonic() - began)
        seconds = max(FEW_SECONDS, min(WRITE_SECONDS, left))
        written = at_once(write, WRITERS if whole else FEW, uri, "written", seconds)
        failures.extend(missing(uri, "written", written))
        served, kills = _served(Path(folder), uri, SERVER_SECONDS if whole else FEW_SECONDS, seed)
        failures.extend(missing(uri, "served", served))
    return {
        "processes that began on a fresh store at once": len(touched),
        "writers at once": len(written),
        "seconds that they wrote": round(seconds),
        "points written and read back": _points(written),
        "points through a server that was killed": _points(served),
        "kills of the server": kills,
    }


def _served(folder: Path, uri: str, seconds: float, seed: int) -> tuple[list[Written], int]:
    """What writers were told at a server that loses its power again and again, once they have begun; how often."""
    server = Server(folder, uri).start().wait()
    over, kills = threading.Event(), list[float]()

    def kill_again_and_again() -> None:
        draw = random.Random(seed)
        registry = Registry(uri, "served")
        while len(registry.search()) < AT_A_SERVER and not over.wait(0.2):
            pass
        while not over.wait(draw.uniform(SOON, LATE) if kills else SOON):
            server.kill()
            kills.append(time.monotonic())
            server.start().wait()

    Registry(server.uri, "served")
    killer = threading.Thread(target=kill_again_and_again)
    killer.start()
    try:
        return at_once(write, AT_A_SERVER, server.uri, "served", seconds), len(kills)
    finally:
        over.set()
        killer.join()
        server.stop()


def _points(written: list[Written]) -> int:
    return sum(len(points) for one in written for points in one.points.values())
