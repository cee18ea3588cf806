"""Everything that a screen says of a run, read from the registry; what cannot be read is noted, never raised."""

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rewindctl.commands import command_of
from rewindctl.errors import RewindError
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.paths import LAYERS
from rewindctl.report.runs import spec_order

T = TypeVar("T")


@dataclass(frozen=True)
class Layer:
    """A kernel under the mask in force in a run."""

    name: str
    shape: str
    weights: int
    kept: int
    sparsity: float


@dataclass(frozen=True)
class RunFacts:
    """A run with its relatives, curve, layers and files; `problems` says by section what could not be read."""

    run: RunRecord
    parent: RunRecord | None = None
    dense: RunRecord | None = None
    children: list[RunRecord] = field(default_factory=list)
    accuracies: list[tuple[int, float]] = field(default_factory=list)
    spec: dict[str, Any] | None = None
    layers: list[Layer] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    command: str | None = None
    problems: dict[str, str] = field(default_factory=dict)
    omitted: frozenset[str] = frozenset()

    @property
    def error(self) -> str:
        """Why the run failed; empty for one that did not."""
        return self.run.tags.get(tag.ERROR, "")

    @property
    def weights(self) -> list[tuple[str, str]]:
        """The run and the iteration that a retraining started from."""
        source, _, at = self.run.tags.get(tag.WEIGHTS_FROM, "").partition("@")
        return [(source, at)] if at else []

    def as_json(self) -> dict[str, Any]:
        """What the store's own record of the run does not have."""
        return {
            "spec": self.spec,
            "children": [child.run_id for child in self.children],
            "accuracies": [{"iteration": iteration, "test_accuracy": value} for iteration, value in self.accuracies],
            "layers": [vars(layer) for layer in self.layers],
            "files": self.files,
            "omitted": sorted(self.omitted),
            "command": self.command,
            "error": self.error or None,
            "problems": self.problems,
        }


def facts_of(registry: Registry, run: RunRecord) -> RunFacts:
    """A few queries and two small files, whatever the size of the registry; finished runs alone have files."""
    problems: dict[str, str] = {}

    def tried(section: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except RewindError as error:
            problems[section] = error.message
            return otherwise

    parent = tried("parent", lambda: registry.parent(run), None) if run.parent_id else None
    dense = tried("dense", lambda: registry.get(run.dense_run_id), None) if run.kind in ("prune", "retrain") else None
    spec = tried("spec", lambda: run.spec, None) if run.kind in ("dense", "prune", "retrain") else None
    pruned = run if run.kind == "prune" else parent if run.kind == "retrain" else None
    if not run.finished:
        problems["files"] = f"not sealed: the run is {run.status}"
    return RunFacts(
        run,
        parent,
        dense if parent is None or dense is None or dense.run_id != parent.run_id else None,
        sorted(tried("children", lambda: registry.children(run), list[RunRecord]()), key=spec_order),
        tried("accuracy", lambda: _curve(registry, run), []),
        spec.fields() if spec else None,
        tried("layers", lambda: _layers(registry, pruned), []) if pruned is not None and pruned.finished else [],
        tried("files", lambda: _files(registry, run), {}) if run.finished else {},
        command_of(spec, run.parent_id) if spec else None,
        problems,
        frozenset(tried("omitted", lambda: registry.omitted(run), set[str]())) if run.finished else frozenset(),
    )


def _curve(registry: Registry, run: RunRecord) -> list[tuple[int, float]]:
    if "test_accuracy" not in run.metrics:
        return []
    return sorted({step: value for step, _, value in registry.history(run, "test_accuracy")}.items())


def _files(registry: Registry, run: RunRecord) -> dict[str, int]:
    return {path: int(entry["size"]) for path, entry in sorted(registry.manifest(run).items())} if run.kind else {}


def _layers(registry: Registry, run: RunRecord) -> list[Layer]:
    with registry.artifact(run, LAYERS).open(newline="") as file:
        return [
            Layer(row["layer"], row["shape"], int(row["weights"]), int(row["kept"]), float(row["sparsity"]))
            for row in csv.DictReader(file)
        ]
