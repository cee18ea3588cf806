"""Runs as a list: which of them, in which order, which page; and what a line says of one."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from rewindctl.catalog import Catalog, unknown
from rewindctl.conditions import Condition, not_a_number
from rewindctl.counting import count_of
from rewindctl.errors import UsageError
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.rewinding.methods import OPTIONS, methods
from rewindctl.system.safe_text import one_line

KINDS = ("dense", "prune", "retrain")
ALL_KINDS = (*KINDS, "replay", "tune", "trial", "report")
OWN_TAG = "rewindctl."
ATTRIBUTES = ("kind", "name", "status")
TAGGED = ("kind", "model", "dataset", "structure", "scope", "method")  # words that the store itself can look for
# Achieved values differ from those asked for by less than this share: `compression=5` is a mask of 5.0001.
LONGEST_KEY = 300  # characters that decide the order of names
STATES = {"pruned": "stopped early", "failed": "diverged"}  # Optuna's words; to prune is something else here
SAME = {"compression": 5e-3, "sparsity": 1e-4}
Order = Callable[[RunRecord], Any]
orders: Catalog[Order] = Catalog("order")


@dataclass(frozen=True)
class Page:
    """Some of the runs found: those from number `first` (count_of from 1) of `total`."""

    runs: list[RunRecord]
    first: int
    total: int
    number: int
    pages: int

    def __str__(self) -> str:
        if self.pages == 1:
            return count_of(self.total, "run") if self.total else "no runs"
        last = self.first + len(self.runs) - 1
        return f"runs {self.first:,}-{last:,} of {self.total:,} (page {self.number} of {self.pages})"


def select(registry: Registry, tags: dict[str, str], conditions: list[Condition]) -> list[RunRecord]:
    """The runs of the experiment with these tags that meet every condition.

    A condition is on a metric, a param, a tag of ours (without `rewindctl.`), the name, kind or status; a metric goes
    before a param and a param before a tag of the same name. Raises: UsageError for a column that no run has, and for
    a value that it cannot have.
    """
    asked = {one.name: one.wanted for one in conditions if one.sign == "=" and one.name in TAGGED}
    words = {name: word for name, word in asked.items() if word != "none" and re.fullmatch(r"[A-Za-z][\w-]*", word)}
    found = registry.search(**(words | tags))
    for condition in conditions:
        values = {value_of(run, condition.name) for run in found} - {None}
        if condition.name in ("kind", "status", "method"):
            _require_word(condition, values)
        elif found and not values:
            raise _unknown(condition.name, found)
        _require_comparable(condition, values)
    return [run for run in found if all(_holds(run, condition) for condition in conditions)]


def value_of(run: RunRecord, column: str) -> float | str | None:
    """The value of a column in a run, a number where it reads as one; None where the run has none."""
    if column in ATTRIBUTES:
        return str(getattr(run, column))
    if column in run.metrics:
        return run.metrics[column]
    text = run.params.get(column, run.tags.get(OWN_TAG + column))
    return None if text is None else _number(text)


def page_of(runs: list[RunRecord], order: str, reverse: bool, limit: int, number: int) -> Page:
    """Page `number` of the runs in that order; those without a value come last either way. Raises: UsageError."""
    key = orders[order]
    by_spec = sorted(runs, key=spec_order)
    valued = [run for run in by_spec if key(run) is not None]
    rest = [run for run in by_spec if key(run) is None]
    ordered = [*sorted(valued, key=key, reverse=reverse), *rest]
    pages = max(1, -(-len(ordered) // limit))
    if number > pages:
        raise UsageError(f"--page {number} is past the last page, {pages}", "give a smaller --page")
    start = (number - 1) * limit
    return Page(ordered[start : start + limit], start + 1, len(ordered), number, pages)


@orders.register("spec")
def spec_order(run: RunRecord) -> tuple[Any, ...]:
    """Network, data, kind, pruning, method and its numbers; then seed and time."""
    tags = run.tags
    kind = KINDS.index(run.kind) if run.kind in KINDS else len(KINDS)
    keys = ("iterations", *(name for name, one in OPTIONS.items() if one.point))
    numbers = tuple(float(_number_or(run.params.get(key), -1)) for key in keys)
    return (
        natural(tags.get(tag.MODEL, "")),
        natural(tags.get(tag.DATASET, "")),
        kind,
        tags.get(tag.STRUCTURE, ""),
        tags.get(tag.SCOPE, ""),
        _number_or(tags.get(tag.SPARSITY), 0.0),
        tags.get(tag.METHOD, ""),
        numbers,
        _number_or(tags.get(tag.SEED), -1),
        run.started,
        run.run_id,
    )


@orders.register("accuracy")
def _by_accuracy(run: RunRecord) -> float | None:
    return run.metrics.get("test_accuracy")


@orders.register("compression")
def _by_compression(run: RunRecord) -> float | None:
    return run.metrics.get("compression")


@orders.register("started")
def _by_start(run: RunRecord) -> int:
    return run.started


@orders.register("name")
def _by_name(run: RunRecord) -> Any:
    return natural(run.name)


def line(run: RunRecord) -> str:
    """ID, status, accuracy, name."""
    return f"{run.run_id}  {run.status:8}  {accuracy_text(run):>7}  {one_line(run.name)}{trial_state(run)}"


def trial_state(run: RunRecord) -> str:
    """How a trial of a search ended; its accuracy is not one of the test set."""
    state, accuracy = run.tags.get(tag.TRIAL_STATE), run.metrics.get("validation_accuracy")
    if state is None:
        return ""
    state = one_line(STATES.get(state, state))
    return f"  {state}" if accuracy is None else f"  {state}, {accuracy:.2%} of the held-out part"


def accuracy_text(run: RunRecord) -> str:
    """Final test accuracy in percent; `-` for a run that has none."""
    accuracy = run.metrics.get("test_accuracy")
    return "-" if accuracy is None else f"{accuracy:.2%}"


def label(run: RunRecord) -> str:
    """A run's name without what its dense run's name says: seed, network, data."""
    name = one_line(run.name)
    if run.kind == "dense":
        return name
    return name.removesuffix(f" s{run.tags.get(tag.SEED)} {run.tags.get(tag.MODEL)}-{run.tags.get(tag.DATASET)}")


def natural(text: str) -> tuple[tuple[str, int], ...]:
    """A sort key that puts resnet8 before resnet20."""
    return tuple((word, int(digits or 0)) for word, digits in re.findall(r"(\D*)([0-9]{0,18})", text[:LONGEST_KEY]))


def _holds(run: RunRecord, condition: Condition) -> bool:
    return condition.holds(value_of(run, condition.name), SAME.get(condition.name, 0.0))


def _require_word(condition: Condition, had: Collection[float | str | None]) -> None:
    """Raises: UnknownNameError for a word that neither we have for such a column nor a run has there."""
    words = {"kind": ALL_KINDS, "status": tag.STATUSES, "method": ("none", *methods)}[condition.name]
    if condition.wanted not in words and condition.wanted not in had:
        raise unknown(f"--where: unknown {condition.name}", condition.wanted, words)


def _require_comparable(condition: Condition, values: Collection[float | str | None]) -> None:
    """Raises: UsageError for text that is asked of numbers, and for an order of text. `none` stands for no value."""
    kinds = {isinstance(value, str) for value in values if value != "none"}
    if kinds == {True} and condition.ordered:
        raise UsageError(f"--where '{condition}': {condition.name} is text, which has no order", "use = or !=")
    if kinds == {False} and condition.name not in TAGGED and condition.number is None and condition.wanted != "none":
        raise not_a_number(condition, "--where")


def _unknown(column: str, runs: list[RunRecord]) -> UsageError:
    known = {*ATTRIBUTES}
    for run in runs:
        known |= {
            *run.metrics,
            *run.params,
            *(key.removeprefix(OWN_TAG) for key in run.tags if key.startswith(OWN_TAG)),
        }
    return unknown("--where: no run has", column, sorted(known))


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _number_or(text: str | None, missing: float) -> float:
    value = missing if text is None else _number(text)
    return value if isinstance(value, float) else missing
