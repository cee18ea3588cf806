"""Fuzzing as a part of something longer: every reader for its share of the time, and what was found.

`python -m fuzz.section SECONDS [SEED] [READER ...]` (with `tests` on the path) is what `make fuzz` runs.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
START_SECONDS = 120  # to import what a reader needs, on a slow machine
MOST_MB = 1_000  # that a reader may take beyond what its libraries have


def run(budget_seconds: float, seed: int, readers: tuple[str, ...] = (), guided: bool | None = None) -> dict[str, Any]:
    """Give each reader an equal share of `budget_seconds`, one after the other.

    `guided` is coverage-guided fuzzing by atheris (None: where it is installed), else mutation from the seed alone.
    The result has `ok`, `guided`, `seed`, `budget_seconds` and by reader `executions`, `crashes` (one line each, with
    the file that does it), `hangs` and `peak_mb`. The files that crash a reader stay in a folder of their own.
    """
    names = readers or _names()
    how = "guided" if (guided if guided is not None else importlib.util.find_spec("atheris") is not None) else "mutated"
    found = {name: _one(name, budget_seconds / len(names), seed, how) for name in names}
    ok = all(not one["crashes"] and not one["hangs"] and one["peak_mb"] <= MOST_MB for one in found.values())
    return {
        "ok": ok,
        "guided": how == "guided",
        "seed": seed,
        "budget_seconds": budget_seconds,
        "executions": sum(one["executions"] for one in found.values()),
        "readers": found,
    }


def _names() -> tuple[str, ...]:
    done = subprocess.run(
        [sys.executable, "-c", "from fuzz.targets import READERS; print(*READERS)"],
        env=_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(done.stdout.split())


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}


def _one(name: str, seconds: float, seed: int, how: str) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix=f"rewindctl-fuzz-{name}-"))
    line = [sys.executable, "-m", "fuzz.worker", name, str(seconds), str(seed), str(folder), how]
    try:
        done = subprocess.run(
            line,
            env=_environment(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=max(0.0, seconds) + START_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"executions": 0, "crashes": [], "hangs": 1, "peak_mb": 0}
    found = _guided_result(done) if how == "guided" else _mutated_result(done)
    if not found["crashes"] and not found["hangs"]:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    return found


def _mutated_result(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    try:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        return {"executions": 0, "crashes": [_end_of(done)], "hangs": 0, "peak_mb": 0}


def _guided_result(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """From what libFuzzer writes to stderr."""

    def number(pattern: str) -> int:
        return max((int(text) for text in re.findall(pattern, _said(done))), default=0)

    executions = number(r"number_of_executed_units: *(\d+)") or number(r"^#(\d+)")
    hangs = len(re.findall(r"^(?:\w+\.)*Hang\b", _said(done), re.MULTILINE))
    peak = number(r"peak_rss_mb: *(\d+)")
    crashes = [] if done.returncode == 0 or hangs else [_end_of(done)]
    return {
        "executions": executions,
        "crashes": crashes,
        "hangs": hangs,
        "peak_mb": max(0, peak - number(r"baseline_mb: (\d+)")),
    }


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    """libFuzzer writes to stderr, atheris to stdout."""
    return f"{done.stdout}\n{done.stderr}"


def _end_of(done: "subprocess.CompletedProcess[str]") -> str:
    """The exception and the file that libFuzzer kept, or the last lines of a process that ended in another way."""
    wanted = r"^(?:(?:[\w.]*(?:Error|Exception|Forbidden|Interrupt)\b|.*Test unit written to|  File \").*)$"
    named = re.findall(wanted, _said(done), re.MULTILINE)
    return f"exit code {done.returncode}: " + " | ".join(named[-3:] or _said(done).splitlines()[-3:])


def main() -> None:
    seconds, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    found = run(seconds, seed, tuple(sys.argv[3:]))
    for name, one in found["readers"].items():
        state = "; ".join([*one["crashes"], *(["hangs"] if one["hangs"] else [])]) or "nothing found"
        print(f"{name:18} {one['executions']:>9,} executions  {one['peak_mb']:>5} MB  {state}")
    print(f"{found['executions']:,} executions, seed {seed}, {'coverage-guided' if found['guided'] else 'mutation'}")
    sys.exit(0 if found["ok"] else 1)


if __name__ == "__main__":
    main()
