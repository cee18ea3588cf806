"""Everything that a screen says of a run, read from the registry; what cannot be read is noted, never raised."""

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from rewindctl.commands import command_of
from rewindctl.errors import IntegrityError, RewindError, UsageError
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.runs.manifest import LAYERS
from rewindctl.report.runs import spec_order
from rewindctl.system.files import read_text
from rewindctl.system.safe_text import finite

T = TypeVar("T")
LARGEST_LAYERS = 10_000_000  # bytes of layers.csv
MOST_LAYERS = 100_000
LONGEST_NAME = 1_000


@dataclass(frozen=True)
class Layer:
    """A kernel under the mask in force in a run."""

    name: str
    shape: str
    weights: int
    kept: int
    sparsity: float

    def sane(self) -> bool:
        """Whether it says what a mask can be: the text of a cell is short, the share is one."""
        texts = all(isinstance(text, str) and len(text) <= LONGEST_NAME for text in (self.name, self.shape))
        return texts and 0 <= self.sparsity <= 1


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
            "accuracies": [{"iteration": at, "test_accuracy": finite(value)} for at, value in self.accuracies],
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
    spec = tried("spec", lambda: run.spec, None) if run.kind in ("dense", "prune", "retrain", "replay") else None
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
        frozenset(tried("omitted", lambda: registry.artifacts.omitted(run), set[str]()) if run.finished else ()),
    )


def _curve(registry: Registry, run: RunRecord) -> list[tuple[int, float]]:
    if "test_accuracy" not in run.metrics:
        return []
    return sorted({step: value for step, _, value in registry.history(run, "test_accuracy")}.items())


def _files(registry: Registry, run: RunRecord) -> dict[str, int]:
    return {path: int(entry["size"]) for path, entry in sorted(registry.manifest(run).items())} if run.kind else {}


def _layers(registry: Registry, run: RunRecord) -> list[Layer]:
    return parse_layers(registry.artifact(run, LAYERS), f"{LAYERS} of run {run.run_id}")


def parse_layers(path: Path, where: str) -> list[Layer]:
    """The rows of a `layers.csv`. Raises: IntegrityError naming `where` and what is wrong."""
    try:
        text = read_text(path, where, LARGEST_LAYERS, "restore it, or run the stage again with --force")
        rows = list(islice(csv.DictReader(text.splitlines()), MOST_LAYERS + 1))
        layers = [
            Layer(row["layer"], row["shape"], int(row["weights"]), int(row["kept"]), float(row["sparsity"]))
            for row in rows
        ]
        wrong = [one for one in layers if not (0 <= one.kept <= one.weights < 2**53 and one.weights and one.sane())]
    except (ValueError, KeyError, TypeError, csv.Error, UsageError) as error:
        raise IntegrityError(f"{where} is not readable: {type(error).__name__}: {error}"[:300]) from None
    if wrong or len(layers) > MOST_LAYERS:
        what = f"layer {str(wrong[0].name)[:80]!r} is none" if wrong else f"it has more than {MOST_LAYERS:,} layers"
        raise IntegrityError(f"{where} is not readable: {what}")
    return layers
