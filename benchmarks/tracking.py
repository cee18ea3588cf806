"""What the registry costs: training with it against the same training without, and the seconds of a whole chain.

    python benchmarks/tracking.py --rounds 5 --output tracking.json

A network small enough for a GPU's speed on a CPU, with the evaluations of a full-length run, one every 2,000 updates.
Rounds alternate; the machine must have nothing else to do. On a CPU one thread trains, and `CPU` compares the seconds
that it computed: what others on the machine take is not in it. Two shares of the training without bound what it can
lose: `calls`, the seconds that the training itself is in calls that report to the run, waiting included; `writing`,
what the writing thread computes beside it, which a machine with no core to spare takes from the training. The chain is
dense -> prune -> retrain over SQLite: its seconds but for training.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from rich.console import Console as RichConsole
from rich.table import Table
from torch import Tensor, nn

from rewindctl.console import Console
from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.models import build_network, register_model
from rewindctl.models.network import NetworkConfig
from rewindctl.pipeline import Pipeline, RunPolicy, run_stage, stages, train_run
from rewindctl.pipeline.requests import PruneOptions, dense_spec, prune_spec, retrain_spec
from rewindctl.pipeline.resume import Background
from rewindctl.pipeline.train_run import RunObserver, dense_settings
from rewindctl.registry import Registry
from rewindctl.registry.store.client import Client
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.rewinding.methods import RetrainOptions
from rewindctl.seeds import derived_seed
from rewindctl.specs import DenseSpec
from rewindctl.training.device import device_name, resolve_device
from rewindctl.training.loop import train

EVALUATE_EVERY = 2_000
RESUME_SECONDS = 5.0  # a minute unless told otherwise: these runs are shorter
CHAIN_ITERATIONS = 100  # what the registry takes does not grow with them


@register_model("bench-tiny")
class Tiny(nn.Module):
    """One convolution and one dense layer."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(config.in_channels, 8, 3, padding=1, bias=False)
        self.norm = config.norm(8)
        self.dense = nn.Linear(8, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.dense(torch.relu(self.norm(self.conv(x))).mean(dim=(2, 3)))
        return logits


class Silent:
    """An observer that does nothing."""

    def nothing(self, what: object) -> None:
        pass

    evaluated = checkpoint = resumable = progressed = nothing

    def is_over(self, ahead: float) -> bool:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = resolve_device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    head = f"{device_name(device)}, torch {torch.__version__}"
    with tempfile.TemporaryDirectory(prefix="rewindctl-bench-") as folder:
        began = time.perf_counter()
        Registry(f"sqlite:///{folder}/empty.db")
        fresh = time.perf_counter() - began
        training = compare_training(Path(folder), options, device)
        print_training(head, training)
        chain = [chain_seconds(Path(folder), number, device) for number in range(options.rounds + 1)][1:]
        print_chain(chain, fresh)
    if options.output:
        made = {"what": head, "training": training, "chain": chain, "seconds_to_make_a_store": round(fresh, 3)}
        options.output.write_text(json.dumps(made, indent=2) + "\n")


def compare_training(folder: Path, options: argparse.Namespace, device: torch.device) -> list[dict[str, float]]:
    """A row per round: updates per second of both, and the seconds of both before and after the training."""
    data = load_dataset("digits")
    spec = dense_spec(
        "bench-tiny", data, 0, iterations=options.iterations, batch_size=16, evaluate_every=EVALUATE_EVERY
    )
    pipeline = open_pipeline(shutil.copy(folder / "empty.db", folder / "training.db"), device)
    uploaded = DeviceData.upload(data, device)
    ways: dict[str, Callable[[], tuple[float, float]]] = {
        "with": lambda: with_registry(pipeline, spec),
        "without": lambda: without_registry(spec, uploaded),
    }
    rows = []
    for number in range(-1, options.rounds):  # the first round warms up
        row: dict[str, float] = {}
        written, called, computed = Written(), Spent(), Spent(time.thread_time)
        for name in sorted(ways, reverse=number % 2 == 1):  # the order alternates, or the first would be favoured
            with ExitStack() as watched:
                watched.enter_context(written)
                for report in ("evaluated", "checkpoint", "resumable", "progressed", "is_over"):
                    watched.enter_context(called.watching(RunObserver, report, "calls"))
                for module in (train_run, sys.modules[__name__]):
                    watched.enter_context(computed.watching(module, "train", name))
                training, around = ways[name]()
            row |= {f"{name}_iterations_per_second": options.iterations / training, f"{name}_around_seconds": around}
        row["ratio"] = row["with_iterations_per_second"] / row["without_iterations_per_second"]
        row["cpu_ratio"] = computed.seconds["without"] / computed.seconds["with"]
        seconds = options.iterations / row["without_iterations_per_second"]
        row |= {"writing_share": written.seconds / seconds, "calls_share": called.seconds["calls"] / seconds}
        rows.append(row)
    return rows[1:]


def with_registry(pipeline: Pipeline, spec: DenseSpec) -> tuple[float, float]:
    """Seconds of the training, and of the rest of the run."""
    began = time.perf_counter()
    run = run_stage(pipeline, spec).run
    training = run.metrics["duration_seconds"]
    return training, time.perf_counter() - began - training


class Written:
    """CPU seconds of what is handed to a run's writing thread."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._give = Background.give

    def __enter__(self) -> "Written":
        give = self._give

        def counted(job: Callable[[], object]) -> None:
            began = time.thread_time()
            job()
            self.seconds += time.thread_time() - began

        Background.give = lambda work, job: give(work, partial(counted, job))  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        Background.give = self._give  # type: ignore[method-assign]


def without_registry(spec: DenseSpec, data: DeviceData) -> tuple[float, float]:
    began = time.perf_counter()
    config = NetworkConfig(1, 10, spec.norm_momentum, spec.norm_epsilon)
    network = build_network(spec.model, config, derived_seed(spec.seed, "init"))
    result = train(network, data, dense_settings(spec), TrainState.initial(network), Silent())
    return result.duration_seconds, time.perf_counter() - began - result.duration_seconds


def open_pipeline(store: Path, device: torch.device) -> Pipeline:
    return Pipeline(
        open_registry=partial(Registry, f"sqlite:///{store}"),
        console=Console(quiet=True),
        device_name=str(device),
        policy=RunPolicy(force=True, checkpoint_seconds=RESUME_SECONDS),
    )


def chain_seconds(folder: Path, number: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Of each stage: seconds of training, and of the rest those in calls of the store, in the plot, elsewhere."""
    pipeline = open_pipeline(shutil.copy(folder / "empty.db", folder / f"chain-{number}.db"), device)
    data = pipeline.dataset("digits")
    spent, rows = Spent(), {}
    with spent.watching(Client, "patiently", "store"), spent.watching(stages, "plot_density", "plot"):
        began = time.perf_counter()
        dense = run_stage(pipeline, dense_spec("resnet8", data, 0, iterations=CHAIN_ITERATIONS)).run
        rows["dense"] = spent.row(began, dense.metrics["duration_seconds"])
        began = time.perf_counter()
        mask = run_stage(pipeline, prune_spec(dense, 0.8, PruneOptions()), dense).run
        rows["prune"] = spent.row(began, 0.0)
        began = time.perf_counter()
        retrained = run_stage(pipeline, retrain_spec(mask, dense, RetrainOptions(method="lr_rewind")), mask).run
        rows["retrain"] = spent.row(began, retrained.metrics["duration_seconds"])
    return rows


class Spent:
    """Seconds of the main thread, by a clock, by what they went to."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: Counter[str] = Counter()
        self._clock, self._depth = clock, 0

    def row(self, began: float, training: float) -> dict[str, float]:
        """Of a stage that has just ended; what is counted next is the next one's."""
        registry = time.perf_counter() - began - training
        row = {"training": training, "registry": registry, **self.seconds}
        row["elsewhere"] = registry - self.seconds.total()
        self.seconds.clear()
        return row

    def watching(self, owner: Any, name: str, label: str) -> "Watching":
        return Watching(self, owner, name, label)

    def timed(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **values: Any) -> Any:
            if self._depth or threading.current_thread() is not threading.main_thread():
                return function(*args, **values)
            self._depth, began = 1, self._clock()
            try:
                return function(*args, **values)
            finally:
                self._depth = 0
                self.seconds[label] += self._clock() - began

        return call


class Watching:
    """A function whose time is counted during a block."""

    def __init__(self, spent: Spent, owner: Any, name: str, label: str) -> None:
        self.owner, self.name, self.function = owner, name, getattr(owner, name)
        self.timed = spent.timed(self.function, label)

    def __enter__(self) -> None:
        setattr(self.owner, self.name, self.timed)

    def __exit__(self, *error: object) -> None:
        setattr(self.owner, self.name, self.function)


def print_training(head: str, rows: list[dict[str, float]]) -> None:
    table = Table("training", "it/s", "against without", "CPU", "calls", "writing", "seconds before and after it")
    for name in ("without", "with"):
        speed = statistics.median(row[f"{name}_iterations_per_second"] for row in rows)
        around = statistics.median(row[f"{name}_around_seconds"] for row in rows)
        beside = [spread([row[key] for row in rows]) if name == "with" else "" for key in ("ratio", "cpu_ratio")]
        shares = [statistics.median(row[f"{what}_share"] for row in rows) for what in ("calls", "writing")]
        cells = [f"{share:.2%}" if name == "with" else "" for share in shares]
        table.add_row(f"{name} the registry", f"{speed:,.0f}", *beside, *cells, f"{around:.2f}")
    RichConsole().print(f"{head}, {len(rows)} rounds", table)


def spread(ratios: list[float]) -> str:
    return f"x{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"


def print_chain(rounds: list[dict[str, dict[str, float]]], fresh: float) -> None:
    parts = list(dict.fromkeys(part for row in rounds for stage in row.values() for part in stage))
    table = Table("stage", *(f"{part} s" for part in parts))
    totals = Counter[str]()
    for name in rounds[0]:
        middle = {part: statistics.median(row[name].get(part, 0.0) for row in rounds) for part in parts}
        totals.update(middle)
        table.add_row(name, *(f"{middle[part]:.2f}" for part in parts))
    table.add_row("all", *(f"{totals[part]:.2f}" for part in parts))
    RichConsole().print("registry = all but training = store + plot + elsewhere", table)
    RichConsole().print(f"a fresh store, made once: {fresh:.2f} s more")


if __name__ == "__main__":
    main()
