"""Section: Every reader of files of others is given broken and hostile ones: no crash, no hang, no memory."""

import random
from typing import Any

from fuzz import section

from soak.sections import Failures

LEAST_SECONDS = 15.0  # of a reader: less is the time to start it

failures = Failures()


def run(budget_seconds: float, seed: int) -> dict[str, Any]:
    """As many readers as the time is for, chosen by the seed."""
    names = list(section._names())
    random.Random(seed).shuffle(names)
    chosen = tuple(sorted(names[: max(1, int(budget_seconds / LEAST_SECONDS))]))
    found = section.run(budget_seconds, seed, chosen)
    for name, one in found["readers"].items():
        failures.extend(f"{name}: {line}" for line in one["crashes"])
        if one["hangs"]:
            failures.append(f"{name}: {one['hangs']} hangs")
        if one["peak_mb"] > section.MOST_MB:
            failures.append(f"{name}: {one['peak_mb']} MB")
    return {
        "readers": f"{len(chosen)} of {len(names)}",
        "guided by coverage": "yes" if found["guided"] else "no",
        "inputs": found["executions"],
        "most memory of a reader in MB": max(one["peak_mb"] for one in found["readers"].values()),
    }
