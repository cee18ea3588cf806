"""How much of a shared step reaches the user: trials in lanes, over a step that only waits, into a real registry.

    python benchmarks/lanes.py --lanes 32 --rate 5000 --store server --output lanes.json

The step takes as long as `--rate` updates a second in sum say, and an evaluation `--evaluation` seconds, one after the
other on a device that is given its work ahead, as a GPU is; everything else is what `train-dense --seeds` does: the
engine, its lanes, every run with its metrics, points, artifacts. `reaches` is the share of the time in which the device
had work: from when all lanes were at work first until they were last (`steady`), and from the command's begin to its
end (`whole`). `host` is what the thread that starts the kernels
computes for an update of all lanes, measured where the kernels do nothing.
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
from collections.abc import Callable, Iterator
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
from rewindctl.datasets import Dataset, load_dataset, register_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.engines.lanes import Lanes
from rewindctl.engines.run import run_plan
from rewindctl.engines.work import WorkerConfig
from rewindctl.fused.trials import Constants, FusedTrials
from rewindctl.models import Network, build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.pipeline import RunPolicy
from rewindctl.pipeline.plan import plan_dense
from rewindctl.pipeline.requests import dense_spec
from rewindctl.registry import Registry
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training import agreement, loop, step
from rewindctl.training.device import device_name
from rewindctl.training.shared_step import Leg, SharedStep

EVALUATE_EVERY = 2_000  # as at full length
AHEAD = 0.05  # seconds, as `SharedStep` starts updates before those before have ended
LEAST_MARKS = 100
AT_ONCE = 7  # updates, as 32 lanes at 5,000 a second have them
EPOCHS, EPOCH = 40, 390
CONSTANTS = Constants(128, 1, 0.9, True, 2e-4, torch.float32)
IMAGES = 50_000  # as CIFAR-10: an epoch's draws every 390 updates
DEADLINE = 240.0


@register_dataset("bench-images")
def images(data_dir: Path | None) -> dict[str, Any]:
    """Small ones, drawn."""
    draw = np.random.default_rng(0)
    made = {"x_train": draw.integers(0, 256, (IMAGES, 8, 8, 1), np.uint8), "y_train": np.arange(IMAGES) % 10}
    return made | {"x_test": draw.integers(0, 256, (100, 8, 8, 1), np.uint8), "y_test": np.arange(100) % 10}


@dataclass
class Device:
    """Does one thing at a time, and is told up to `AHEAD` seconds before."""

    rate: float
    evaluation: float
    free_at: float = 0.0
    busy: float = 0.0  # seconds of work so far
    updates: int = 0
    evaluations: int = 0
    marks: list[tuple[float, int, float]] = field(default_factory=list)  # when, lanes, work done by then
    lock: threading.Lock = field(default_factory=threading.Lock)

    def step(self, trials: FusedTrials, count: int | None = None) -> None:
        """An update of so many lanes."""
        lanes = count or trials.count
        end = self._take(lanes / self.rate)
        self.updates += 1
        self.marks.append((end, lanes, self.busy))
        _sleep_until(end - AHEAD)

    def evaluate(self, network: Network, data: DeviceData) -> tuple[float, float]:
        _sleep_until(self._take(self.evaluation))
        self.evaluations += 1
        return 2.3, 0.1

    def ask(self, shared: SharedStep, work: Callable[[], Any]) -> Any:
        """The answer comes when all that was started before is done."""
        answer, end = ask(shared, lambda: (work(), self.free_at))
        _sleep_until(end)
        return answer

    def _take(self, seconds: float) -> float:
        with self.lock:
            self.free_at = max(self.free_at, time.perf_counter()) + seconds
            self.busy += seconds
            return self.free_at


ask = SharedStep.ask


def _sleep_until(moment: float) -> None:
    if (left := moment - time.perf_counter()) > 0:
        time.sleep(left)


def wait_for(device: Device) -> None:
    """In place of kernels and evaluations."""
    FusedTrials.run = lambda trials, count=None: device.step(trials, count)  # type: ignore[method-assign]
    SharedStep.ask = lambda shared, work: device.ask(shared, work)  # type: ignore[method-assign]  # noqa: PLW0108
    loop.evaluate = device.evaluate
    agreement.disagreement = lambda *arguments: ""
    step.missing_part = lambda place: ""


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
        os.environ["TRITON_INTERPRET"] = "1"  # no kernel is compiled
        with store(options.store, Path(folder)) as uri:
            made = measure(uri, options)
    say(made)
    if options.output:
        options.output.write_text(json.dumps(made, indent=2) + "\n")


def measure(uri: str, options: argparse.Namespace) -> dict[str, object]:
    device = Device(options.rate, options.evaluation)
    fields = {"iterations": options.iterations, "batch_size": 128, "evaluate_every": EVALUATE_EVERY}
    data = load_dataset("bench-images")
    plan = plan_dense(dense_spec(options.model, data, seed, **fields) for seed in range(options.lanes))
    policy = RunPolicy(arithmetic=Arithmetic(step="fused"))
    Registry(uri)
    wait_for(device)
    engine = Lanes(WorkerConfig(uri, "lanes", "cpu", policy=policy, threads=1), options.lanes)
    began = time.perf_counter()
    finished = run_plan(plan, {}, engine, Console(quiet=True))
    seconds = time.perf_counter() - began
    assert not finished.failures, finished.failures[0]
    return {
        "what": f"{device_name(torch.device('cpu'))}, torch {torch.__version__}",
        "store": options.store,
        "lanes": options.lanes,
        "rate": options.rate,
        "evaluations": device.evaluations,
        "steady": steady(device, options.lanes),
        "whole": round(device.busy / seconds, 4),
        "host_us": round(host_microseconds(options.lanes, data), 2),
        "seconds": round(seconds, 2),
    }


def host_microseconds(lanes: int, data: Dataset) -> float:
    """Of an update of all lanes: what the step's thread computes, AT_ONCE updates to a turn, where no kernel is."""
    shared = SharedStep(tiny(), DeviceData.upload(data, torch.device("cpu")), CONSTANTS, lanes)
    start, spent, turn = TrainState.initial(tiny()), [0.0], SharedStep._turn

    def timed() -> bool:
        shared._at_once, before = AT_ONCE, time.thread_time()
        more = turn(shared)
        spent[0] += time.thread_time() - before
        return more

    FusedTrials.run = lambda trials, count=None: None  # type: ignore[method-assign]
    all_lanes = [shared.enter(start, None) for _ in range(lanes)]
    shared._turn = timed  # type: ignore[method-assign]
    for epoch in range(EPOCHS):
        for lane in all_lanes:
            shared.give(lane, Leg(epoch * EPOCH, (epoch + 1) * EPOCH, 0.1, 0, None))
    while any(lane.legs for lane in all_lanes):
        time.sleep(0.01)
    shared.close()
    return 1e6 * spent[0] / (EPOCHS * EPOCH)


def tiny() -> Network:
    return build_network("resnet8", NetworkConfig(1, 10, 0.1, 1e-5), 0)


def steady(device: Device, lanes: int) -> float | None:
    """From when all lanes were at work first until they were last; None where they were not for long."""
    full = [mark for mark in device.marks if mark[1] == lanes]
    if len(full) < LEAST_MARKS:
        return None
    return round((full[-1][2] - full[0][2]) / (full[-1][0] - full[0][0]), 4)


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
