"""Section: Many processes at one store: nothing is made twice, and no point is lost."""

import tempfile
import time
from pathlib import Path
from typing import Any

from workload import at_once, duplicates, missing, touch, write

from soak.sections import Failures

FULL_SECONDS = 100.0  # from this budget on there are as many as a whole soak has
PROCESSES, WRITERS, WRITE_SECONDS = 32, 16, 60.0
FEW, FEW_SECONDS = 4, 2.0

failures = Failures()


def run(budget_seconds: float, seed: int) -> dict[str, Any]:
    """First touches of a fresh store, then metrics as fast as it takes them. Nothing here is drawn from the seed."""
    del seed
    whole = budget_seconds >= FULL_SECONDS
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        uri = f"sqlite:///{Path(folder, 'new', 'mlflow.db')}"
        touched = at_once(touch, PROCESSES if whole else FEW, uri, "touched")
        failures.extend(duplicates(uri, "touched", touched))
        left = budget_seconds - (time.monotonic() - began)
        seconds = max(FEW_SECONDS, min(WRITE_SECONDS, left))
        written = at_once(write, WRITERS if whole else FEW, uri, "written", seconds)
        failures.extend(missing(uri, "written", written))
    return {
        "processes that began on a fresh store at once": len(touched),
        "writers at once": len(written),
        "seconds that they wrote": round(seconds),
        "points written and read back": sum(len(points) for one in written for points in one.points.values()),
    }
