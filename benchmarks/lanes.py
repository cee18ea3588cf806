"""How much of a shared step reaches the user: trials in lanes, over a step that only waits, into a real registry.

    python benchmarks/lanes.py --lanes 32 --rate 5000 --store server --output lanes.json

The step takes as long as `--rate` updates a second in sum say, and an evaluation `--evaluation` seconds; everything
else is what `train-dense --seeds` does: the engine, its lanes, every run with its metrics, points, artifacts. `reaches`
is the share of the rate in the trainings' common time, the longest in which all lanes were at work (`steady`) and from
the command's begin to its end (`whole`), evaluations taken out of it as a GPU would: as if they were updates. `host` is
what the thread that starts the kernels takes for an update beside waiting.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console as RichConsole
from rich.table import Table

from rewindctl.arithmetic import Arithmetic
from rewindctl.console import Console
from rewindctl.datasets import load_dataset, register_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.engines.lanes import Lanes
from rewindctl.engines.run import run_plan
from rewindctl.engines.work import WorkerConfig
from rewindctl.fused.trials import FusedTrials
from rewindctl.models import Network
from rewindctl.pipeline import RunPolicy
from rewindctl.pipeline.plan import plan_dense
from rewindctl.pipeline.requests import dense_spec
from rewindctl.registry import Registry
from rewindctl.training import agreement, loop, shared_step, step
from rewindctl.training.device import device_name

EVALUATE_EVERY = 2_000  # as at full length
IMAGES = 50_000  # as CIFAR-10: an epoch's draws every 390 updates
DEADLINE = 60.0


@register_dataset("bench-images")
def images(data_dir: Path | None) -> dict[str, Any]:
    """Small ones, drawn."""
    draw = np.random.default_rng(0)
    made = {"x_train": draw.integers(0, 256, (IMAGES, 8, 8, 1), np.uint8), "y_train": np.arange(IMAGES) % 10}
    return made | {"x_test": draw.integers(0, 256, (100, 8, 8, 1), np.uint8), "y_test": np.arange(100) % 10}


@dataclass
class Clock:
    """What the device would have been at."""

    rate: float
    evaluation: float
    updates: int = 0
    waited: float = 0.0  # by the thread of the step
    evaluations: int = 0
    marks: list[tuple[float, int, int, int]] = field(default_factory=list)
    busy: threading.Lock = field(default_factory=threading.Lock)

    def step(self, trials: FusedTrials, count: int | None = None) -> None:
        """An update of so many lanes; the device does one thing at a time."""
        lanes, began = count or trials.count, time.perf_counter()
        self._take(lanes / self.rate)
        self.updates += lanes
        self.waited += time.perf_counter() - began
        self.marks.append((time.perf_counter(), lanes, self.updates, self.evaluations))

    def evaluate(self, network: Network, data: DeviceData) -> tuple[float, float]:
        self._take(self.evaluation)
        self.evaluations += 1
        return 2.3, 0.1

    def _take(self, seconds: float) -> None:
        with self.busy:
            time.sleep(max(0.0, seconds - 60e-6))  # what a sleep takes longer than it is told


@contextmanager
def waiting(clock: Clock) -> Iterator[None]:
    """In place of kernels and evaluations."""
    FusedTrials.run = lambda trials, count=None: clock.step(trials, count)  # type: ignore[method-assign]
    loop.evaluate = clock.evaluate
    agreement.disagreement = lambda *arguments: ""
    step.missing_part = lambda device: ""
    yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lanes", type=int, default=32)
    parser.add_argument("--rate", type=float, default=5_000.0, help="updates per second in sum")
    parser.add_argument("--evaluation", type=float, default=0.02, help="seconds of one")
    parser.add_argument("--iterations", type=int, default=6_000)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--store", choices=["sqlite", "server"], default="sqlite")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="rewindctl-bench-") as folder:
        os.environ["XDG_STATE_HOME"] = folder
        with store(options.store, Path(folder)) as uri:
            made = measure(uri, options)
    say(made)
    if options.output:
        options.output.write_text(json.dumps(made, indent=2) + "\n")


def measure(uri: str, options: argparse.Namespace) -> dict[str, object]:
    clock = Clock(options.rate, options.evaluation)
    fields = {"iterations": options.iterations, "batch_size": 128, "evaluate_every": EVALUATE_EVERY}
    data = load_dataset("bench-images")
    plan = plan_dense(dense_spec(options.model, data, seed, **fields) for seed in range(options.lanes))
    policy = RunPolicy(arithmetic=Arithmetic(step="fused"))
    Registry(uri)
    with waiting(clock):
        engine = Lanes(WorkerConfig(uri, "lanes", "cpu", policy=policy, threads=1), options.lanes)
        # Every turn of the step's thread, but its waits for work.
        spent, turn = 0.0, shared_step.SharedStep._turn

        def timed(own: shared_step.SharedStep) -> bool:
            nonlocal spent
            began, cpu = time.perf_counter(), clock.waited
            more = turn(own)
            spent += time.perf_counter() - began - (clock.waited - cpu)
            return more

        shared_step.SharedStep._turn = timed  # type: ignore[method-assign]
        began = time.perf_counter()
        finished = run_plan(plan, {}, engine, Console(quiet=True))
        seconds = time.perf_counter() - began
    assert not finished.failures, finished.failures[0]
    return {
        "what": f"{device_name(torch.device('cpu'))}, torch {torch.__version__}",
        "store": options.store,
        "lanes": options.lanes,
        "rate": options.rate,
        "evaluations": clock.evaluations,
        "steady_reaches": round(steady(clock, options.lanes), 4),
        "whole_reaches": round((clock.updates / options.rate + clock.evaluations * options.evaluation) / seconds, 4),
        "host_microseconds_an_update": round(1e6 * spent / max(1, len(clock.marks)), 1),
        "seconds": round(seconds, 2),
    }


def steady(clock: Clock, lanes: int) -> float:
    """From when all lanes were at work first until they were last."""
    full = [mark for mark in clock.marks if mark[1] == lanes]
    first, last = full[0], full[-1]
    work = (last[2] - first[2]) / clock.rate + (last[3] - first[3]) * clock.evaluation
    return work / (last[0] - first[0])


@contextmanager
def store(kind: str, folder: Path) -> Iterator[str]:
    """A new one: a database of this process's own, or one behind MLflow's server."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/mlflow.db"
        return
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def say(made: dict[str, object]) -> None:
    table = Table(title=str(made["what"]))
    shown = {key: value for key, value in made.items() if key != "what"}
    for key in shown:
        table.add_column(key.replace("_", " "))
    table.add_row(*map(str, shown.values()))
    RichConsole().print(table)


if __name__ == "__main__":
    main()
