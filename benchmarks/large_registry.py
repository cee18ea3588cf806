"""Seconds to compare, list and look up runs in a large registry, against `mlflow.search_runs` over the same runs.

    python benchmarks/large_registry.py --runs 10000 --rounds 5 --output large_registry.json
    python benchmarks/large_registry.py --runs 50000 --store filled --rounds 0   # fills it, minutes
    python benchmarks/large_registry.py --runs 50000 --store filled              # measures it as it is

A short chain is made for real (dense, prune, three retrainings on the embedded digits); its rows in MLflow's tables are
then written again with other seeds, sparsities, run IDs and fingerprints. A second experiment of the same store holds
200 runs: what they cost shows whether time goes with the runs that are needed or with those that are there.
"""

import argparse
import json
import math
import platform
import random
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from rich.console import Console
from rich.table import Table

from rewindctl import prune, retrain, train_dense
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.report.compare import Wanted, compare
from rewindctl.report.runs import page_of, select
from rewindctl.specs import DenseSpec, PruneSpec, RetrainSpec, Spec

SPARSITIES = (0.5, 0.8, 0.893)
METHODS: tuple[dict[str, Any], ...] = (
    {"method": "lr_rewind"},
    {"method": "weight_rewind", "k": 6},
    {"method": "finetune"},
)
FAMILY = 1 + len(SPARSITIES) * (1 + len(METHODS))  # runs of one seed
OPPONENT = "mlflow.search_runs, default columns"
TABLES = ("tags", "params", "latest_metrics")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--needed", type=int, default=200, help="runs of the small experiment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--needed-only", action="store_true", help="leave out what reads every run")
    parser.add_argument(
        "--store", type=Path, help="folder of a store to fill, or filled by an earlier call [temporary]"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rewindctl-bench-") as temporary:
        folder = options.store or Path(temporary)
        is_filled = (folder / "mlflow.db").exists()
        uri = f"sqlite:///{folder}/mlflow.db"
        large, small = Registry(uri, "large"), Registry(uri, "small")
        if not is_filled:
            fill(large, options.runs)
            fill(small, options.needed)
        if not options.rounds:
            return
        times = measure(large, small, options.rounds, options.needed_only)
    report(options, times)
    if options.output:
        versions = {"python": platform.python_version(), "mlflow": mlflow.__version__, "pandas": pd.__version__}
        options.output.write_text(json.dumps({"runs": options.runs, "versions": versions, "seconds": times}, indent=1))


def measure(large: Registry, small: Registry, rounds: int, needed_only: bool) -> dict[str, list[float]]:
    """Seconds of each way in each round; the ways take turns."""
    some = random.Random(0).sample([run.fingerprint for run in large.search()], 20)
    ways: dict[str, Callable[[], object]] = {
        OPPONENT: lambda: search_runs(large),
        "compare": lambda: compare(Registry(large.uri, "large"), Wanted()),
        "list, first page by accuracy": lambda: page_of(
            select(Registry(large.uri, "large"), {}, []), "accuracy", True, 50, 1
        ),
        "find by fingerprint": lambda: large.find(some[0]),
        "compare the small experiment": lambda: compare(Registry(small.uri, "small"), Wanted()),
    }
    ways = dict(list(ways.items())[3:]) if needed_only else ways
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        some = some[turn:] + some[:turn]
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    return times


def search_runs(registry: Registry) -> pd.DataFrame:
    mlflow.set_tracking_uri(registry.uri)
    return mlflow.search_runs([registry.experiment_id])


def report(options: argparse.Namespace, times: dict[str, list[float]]) -> None:
    table = Table("what", "median s", "fastest-slowest", "against mlflow.search_runs")
    opponent = statistics.median(times.get(OPPONENT, [math.nan]))
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        table.add_row(
            name,
            f"{middle:.3f}",
            f"{min(seconds):.3f}-{max(seconds):.3f}",
            "" if math.isnan(opponent) else f"{opponent / middle:.1f}x faster",
        )
    Console().print(f"{options.runs:,} runs and a second experiment of {options.needed}, {platform.machine()}", table)


def fill(registry: Registry, runs: int) -> None:
    """Families of one seed each until there are `runs` runs."""
    with tempfile.TemporaryDirectory() as folder:
        source = Registry(f"sqlite:///{folder}/mlflow.db", "template")
        template = Template(source)
        place = Path(registry.uri.removeprefix("sqlite:///"))
        with sqlite3.connect(place) as store:
            writer, seed = Writer(store, registry), 0
            while writer.count < runs:
                template.write(writer, seed, min(FAMILY, runs - writer.count))
                seed += 1


class Template:
    """The rows of a real chain in MLflow's tables, and its specs."""

    def __init__(self, source: Registry) -> None:
        place = {"tracking_uri": source.uri, "experiment": source.experiment}
        dense = train_dense("resnet8", "digits", iterations=24, evaluate_every=12, rewind_points=(6,), **place)
        mask = prune(dense.run_id, sparsity=0.5, **place)
        made = [retrain(mask.run_id, **method, **place) for method in METHODS]
        self.dense, self.mask, *self.retrained = (source.get(run.run_id) for run in (dense, mask, *made))
        with sqlite3.connect(source.uri.removeprefix("sqlite:///")) as store:
            store.row_factory = sqlite3.Row
            self.rows = {
                name: [dict(row) for row in store.execute(f"SELECT * FROM {name}")] for name in ("runs", *TABLES)
            }

    def write(self, writer: "Writer", seed: int, runs: int) -> None:
        """The first `runs` runs of the family of a seed."""
        luck = random.Random(f"{writer.experiment_id} {seed}")
        spec = self.dense.spec
        assert isinstance(spec, DenseSpec)
        spec = spec.model_copy(update={"seed": seed})
        family: list[tuple[RunRecord, Spec, int | None, dict[str, float]]] = [(self.dense, spec, None, {})]
        for sparsity in SPARSITIES:
            mask = self.mask.spec.model_copy(update={"parent_fingerprint": spec.fingerprint(), "sparsity": sparsity})
            assert isinstance(mask, PruneSpec)
            achieved = {"sparsity": sparsity, "compression": 1 / (1 - sparsity), "sparsity_asked": sparsity}
            family.append((self.mask, mask, 0, achieved))
            above = len(family) - 1
            for run in self.retrained:
                made = run.spec.model_copy(update={"parent_fingerprint": mask.fingerprint()})
                assert isinstance(made, RetrainSpec)
                family.append((run, made, above, achieved))
        ids: list[str] = []
        for run, own, parent, metrics in family[:runs]:
            ids.append(uuid.UUID(int=luck.getrandbits(128), version=4).hex)
            jitter = {"test_accuracy": run.metrics["test_accuracy"] + luck.uniform(-0.02, 0.02)}
            tags = {tag.SPEC: own.canonical(), tag.FINGERPRINT: own.fingerprint(), tag.DENSE_RUN: ids[0]}
            tags |= {tag.SEED: str(seed)} | ({tag.PARENT: ids[parent]} if parent is not None else {})
            group = own.group(
                family[parent][1].group(family[0][1].group(None) if parent else None) if parent is not None else None
            )
            writer.copy(self.rows, run.run_id, ids[-1], tags | {tag.GROUP: group}, metrics | jitter)


class Writer:
    """Writes runs into the tables of a store."""

    def __init__(self, store: sqlite3.Connection, registry: Registry) -> None:
        self.store, self.experiment_id, self.count = store, registry.experiment_id, 0

    def copy(
        self, rows: dict[str, list[dict[str, Any]]], old: str, new: str, tags: dict[str, str], metrics: dict[str, float]
    ) -> None:
        (run,) = (row for row in rows["runs"] if row["run_uuid"] == old)
        uri = run["artifact_uri"].replace(old, new)
        start = run["start_time"] + self.count
        self._insert(
            "runs",
            [run | {"run_uuid": new, "experiment_id": self.experiment_id, "artifact_uri": uri, "start_time": start}],
        )
        for name, changed in zip(TABLES, (tags, {"seed": tags[tag.SEED]}, metrics), strict=True):
            own = [row | {"run_uuid": new} for row in rows[name] if row["run_uuid"] == old]
            self._insert(name, [row | {"value": changed.get(row["key"], row["value"])} for row in own])
        self.count += 1

    def _insert(self, name: str, rows: list[dict[str, Any]]) -> None:
        if rows:
            names = ", ".join(rows[0])
            self.store.executemany(f"INSERT INTO {name} ({names}) VALUES ({', '.join(':' + k for k in rows[0])})", rows)


if __name__ == "__main__":
    main()
