"""Many processes at one store, for tests and for longer soaks: as many, and for as long, as the caller says.

python tests/workload.py sqlite:////tmp/soak/mlflow.db --processes 16 --seconds 60
"""

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, TypeVar

from started import forks

KEYS = ("train_loss", "test_accuracy")
LEAST_STEPS = 20
WAIT_SECONDS = 600
T = TypeVar("T")


@dataclass(frozen=True)
class Touched:
    """What one process was given: the run that all of them want, and one of its own."""

    shared: str
    own: str


@dataclass(frozen=True)
class Written:
    """What one process was told is written: by metric, every step with its value, in order."""

    run_id: str
    points: dict[str, list[tuple[int, float]]]


def at_once(work: Callable[..., T], processes: int, *arguments: Any) -> list[T]:
    """`work(number, *arguments)` in so many processes, let go at the same moment.

    They are forked from one that has imported everything and touched no store: importing torch so many times would
    take minutes and gigabytes.
    """
    context = forks()
    gate = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, _ready, (gate,)) as pool:
        started = [pool.submit(_gated, work, number, *arguments) for number in range(processes)]
        return [one.result() for one in started]


def touch(number: int, uri: str, experiment: str) -> Touched:
    """Open the registry, train or find the baseline that all want, and register one that is this process's alone."""
    from rewindctl.console import Console
    from rewindctl.datasets import load_dataset
    from rewindctl.pipeline import Pipeline, run_stage
    from rewindctl.pipeline.labels import dense_tags
    from rewindctl.pipeline.requests import dense_spec
    from rewindctl.registry import Registry

    data = load_dataset("digits")
    pipeline = Pipeline(lambda: Registry(uri, experiment), Console(quiet=True), "cpu")
    shared = run_stage(pipeline, dense_spec("resnet8", data, 0, iterations=24, batch_size=32)).run
    own = dense_spec("resnet8", data, 1 + number, iterations=24)
    writer = pipeline.registry.start(own, f"own {number}", None, dense_tags(own))
    writer.seal()
    run = writer.finish()
    pipeline.registry.register(run)
    return Touched(shared.run_id, run.run_id)


def write(number: int, uri: str, experiment: str, seconds: float) -> Written:
    """Log metrics to a run of its own as fast as the store takes them."""
    from rewindctl.datasets import load_dataset
    from rewindctl.pipeline.requests import dense_spec
    from rewindctl.registry import Registry

    registry = Registry(uri, experiment)
    spec = dense_spec("resnet8", load_dataset("digits"), 1_000 + number, iterations=24)
    writer = registry.start(spec, f"writer {number}", None, {})
    points: dict[str, list[tuple[int, float]]] = {key: [] for key in KEYS}
    step, deadline = 0, time.monotonic() + seconds
    while step < LEAST_STEPS or time.monotonic() < deadline:
        values: dict[str, float | None] = dict.fromkeys(KEYS, number + step / 7)
        writer.log_metrics(values, step)
        for key in KEYS:
            points[key].append((step, number + step / 7))
        step += 1
    writer.seal()
    return Written(writer.finish().run_id, points)


def missing(uri: str, experiment: str, written: list[Written]) -> list[str]:
    """One line for each curve that is not, point by point and in order, what its writer was told."""
    from rewindctl.registry import Registry

    registry, wrong = Registry(uri, experiment), []
    for one in written:
        run = registry.get(one.run_id)
        for key, points in one.points.items():
            history = sorted(registry.shown_history(run, key), key=lambda point: (point[1], point[0]))
            if [(step, value) for step, _, value in history] != points:
                wrong.append(f"{key} of run {run.run_id}: {len(history)} points, {len(points)} were written")
    return wrong


def duplicates(uri: str, experiment: str, touched: list[Touched]) -> list[str]:
    """One line for each thing that is there more than once, or not at all."""
    from rewindctl.registry import Registry

    registry = Registry(uri, experiment)
    named = [one.name for one in registry.client.search_experiments() if one.name == experiment]
    runs = {run.run_id: run for run in registry.search()}
    wanted = {touched[0].shared, *(one.own for one in touched)}
    wrong = [] if len(named) == 1 else [f"{len(named)} experiments {experiment!r}"]
    wrong += [f"run {run_id} is {runs[run_id].status}" for run_id in wanted & set(runs) if not runs[run_id].finished]
    wrong += [f"run {run_id} ({runs[run_id].name}) is one too many" for run_id in set(runs) - wanted]
    wrong += [f"run {run_id} is missing" for run_id in wanted - set(runs)]
    wrong += [
        f"run {one.shared} and {touched[0].shared} are one stage" for one in touched if one.shared != touched[0].shared
    ]
    for run_id in wanted:
        count = len(registry.client.search_model_versions(f"run_id = '{run_id}'"))
        wrong += [] if count == 1 else [f"run {run_id} is {count} model versions"]
    return wrong


_gate: Barrier | None = None


def _ready(gate: Barrier) -> None:
    global _gate  # noqa: PLW0603 (a barrier can only be inherited)
    import torch

    torch.set_num_threads(1)
    _gate = gate


def _gated(work: Callable[..., T], *arguments: Any) -> T:
    assert _gate is not None
    _gate.wait(WAIT_SECONDS)
    return work(*arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description="Touch a store and write to it from many processes; read it all back.")
    parser.add_argument("uri")
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--experiment", default=f"soak-{int(time.time())}")
    given = parser.parse_args()
    touched = at_once(touch, given.processes, given.uri, given.experiment)
    wrong = duplicates(given.uri, given.experiment, touched)
    written = at_once(write, given.processes, given.uri, given.experiment, given.seconds)
    wrong += missing(given.uri, given.experiment, written)
    count = sum(len(points) for one in written for points in one.points.values())
    sys.stdout.write("\n".join([*wrong, f"{count} points from {given.processes} processes, {len(wrong)} wrong"]) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import workload  # what the processes unpickle is not of __main__

    sys.exit(workload.main())
