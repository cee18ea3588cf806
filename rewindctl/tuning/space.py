"""What a search may vary: the options of a method that are numbers; from a file, or the usual for the method."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rewindctl.catalog import unknown
from rewindctl.errors import UsageError
from rewindctl.options import Option, Point
from rewindctl.paper.lines import Document, parse_yaml
from rewindctl.rewinding.methods import OPTIONS, methods
from rewindctl.specs import DenseSpec, canonical_json, first_problem
from rewindctl.system.files import read_text

LARGEST_FILE = 100_000
MOST_STEPS = 10**9  # Optuna counts them in decimal numbers of 28 digits
HINT = "write a line such as: lr: {type: float, low: 0.00001, high: 0.1, log: true}"


class Dimension(BaseModel):
    """The values of one setting: an interval with `low` and `high`, or `choices`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Dimension":
        interval = (self.low, self.high, self.step)
        if self.type == "categorical":
            if not self.choices or len(set(self.choices)) != len(self.choices):
                raise ValueError("categorical needs choices, each once")
            if interval != (None, None, None) or self.log:
                raise ValueError("categorical has no low, high, step or log")
            return self
        if self.choices is not None:
            raise ValueError(f"{self.type} has no choices: give low and high")
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"{self.type} needs low and high, low the smaller")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0 and no step")
        if self.step is not None and not 0 < self.step <= self.high - self.low <= MOST_STEPS * self.step:
            raise ValueError(f"step must be above 0 and fit between low and high, {MOST_STEPS:,} times at most")
        if self.type == "int" and not all(value is None or value == int(value) for value in interval):
            raise ValueError("int needs whole numbers")
        return self

    @property
    def values(self) -> tuple[float, ...]:
        """The choices, or the two ends."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high


Space = dict[str, Dimension]


def searched(method: str) -> tuple[str, ...]:
    """The settings of a method that can be searched: its options that are numbers. Raises: UnknownNameError."""
    takes = methods[method].takes
    return tuple(name for name, one in OPTIONS.items() if one.number and (one.every or name in takes))


def read_space(path: Path, method: str) -> Space:
    """The space in a YAML file. Raises: UsageError naming the file, the line and the value."""
    return parse_space(read_text(path, f"space {path}", LARGEST_FILE, "give a YAML file"), str(path), method)


def parse_space(text: str, where: str, method: str) -> Space:
    """The space in YAML `text`. Raises: UsageError naming `where` and the line."""
    document = parse_yaml(text, where)
    if not isinstance(document.value, dict) or not document.value:
        raise UsageError(f"{where}: a space is a list of settings by name", HINT)
    return {name: _dimension(document, name, where, method) for name in document.value}


def _dimension(document: Document, name: str, where: str, method: str) -> Dimension:
    known = searched(method)
    if name not in known:
        line = document.line((name,))
        raise unknown(f"{where}, line {line}: {method} has no setting", name, known)
    try:
        found = Dimension.model_validate(document.value[name])
    except ValidationError as error:
        problem = error.errors()[0]
        line = document.line((name, *problem["loc"]))
        reason = first_problem(error).replace("value error, ", "")
        raise UsageError(f"{where}, line {line}: {name}: {reason}", HINT) from None
    option = OPTIONS[name]
    for value in found.values:
        if not option.fits(value) or (option.whole and value != int(value)):
            line, why = document.line((name,)), "a whole number is needed" if option.fits(value) else option.fitting
            raise UsageError(f"{where}, line {line}: {name} {value:g} is out of range: {why}", "correct the file")
    return found


def usual_space(method: str, dense: DenseSpec) -> Space:
    """The rate of fine-tuning, K of weight rewinding, W and C of rewinding.

    Raises: UsageError for a method without a usual space.
    """
    usual = {name: _usual(OPTIONS[name], dense) for name in searched(method)}
    if space := {name: one for name, one in usual.items() if one is not None}:
        return space
    raise UsageError(f"there is no default search space for {method}", f"give --space FILE with {' or '.join(usual)}")


def _usual(option: Option, dense: DenseSpec) -> Dimension | None:
    """Where an option is searched that no file is given for.

    A clock up to the last boundary of the schedule: a later one only shortens the training at the lowest rate.
    """
    if option.search is not None:
        return Dimension(type="float", low=option.search[0], high=option.search[1], log=True)
    if option.point is None:
        return None
    if option.point.weights:
        return Dimension(type="categorical", choices=tuple(map(float, _recorded(option.point, dense))))
    return Dimension(type="int", low=0, high=dense.lr_boundaries[-1] if dense.lr_boundaries else dense.iterations - 1)


def _recorded(point: Point, dense: DenseSpec) -> tuple[int, ...]:
    """The iterations of the dense run whose weights are recorded and leave something to train."""
    return dense.rewind_points if point.last else dense.rewind_points[:-1]


def on_points(space: Space, dense: DenseSpec, where: str) -> Space:
    """`space` with K and W among the recorded rewind points of the dense run, C before its end. Raises: UsageError."""
    points = {name: point for name in space if (point := OPTIONS[name].point)}
    for name, point in points.items():
        if not point.weights and (latest := max(space[name].values)) >= dense.iterations:
            raise UsageError(
                f"{where}: {name} {latest:.0f} leaves nothing to train",
                f"give iterations from 0 to {dense.iterations - 1}",
            )
    recorded = {name: _recorded(point, dense) for name, point in points.items() if point.weights}
    return {name: _on(recorded[name], name, one, where) if name in recorded else one for name, one in space.items()}


def _on(points: Sequence[int], name: str, one: Dimension, where: str) -> Dimension:
    """`one` with no other value than `points`. Raises: UsageError."""
    recorded = f"recorded: {', '.join(map(str, points))}"
    if one.choices is not None:
        if missing := [value for value in one.choices if value not in points]:
            raise UsageError(f"{where}: {name} {missing[0]:g} is not a recorded rewind point to train from", recorded)
        return one
    inside = tuple(float(point) for point in points if one.values[0] <= point <= one.values[1])
    if not inside:
        raise UsageError(f"{where}: no rewind point from {one.values[0]:g} to {one.values[1]:g} is recorded", recorded)
    return Dimension(type="categorical", choices=inside)


def space_text(space: Space) -> str:
    """The canonical JSON of a space: what a spec holds."""
    return canonical_json({name: one.model_dump(mode="json", exclude_defaults=True) for name, one in space.items()})


def space_of(text: str) -> Space:
    """The space of a spec."""
    return {name: Dimension.model_validate(one) for name, one in json.loads(text).items()}


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms, in the order of the names."""
    return {name: _distribution(name, space[name]) for name in sorted(space)}


def _distribution(name: str, one: Dimension) -> BaseDistribution:
    whole = OPTIONS[name].whole
    if one.choices is not None:
        return CategoricalDistribution([int(value) if whole else value for value in one.choices])
    low, high = one.values
    if one.type == "int" or whole:
        return IntDistribution(math.ceil(low), math.floor(high), log=one.log, step=int(one.step or 1))
    return FloatDistribution(low, high, log=one.log, step=one.step)


def longest(space: Space, name: str, fixed: int) -> int:
    """The largest value that `name` takes: in the space, or `fixed` where it is not searched."""
    values: tuple[Any, ...] = space[name].values if name in space else (fixed,)
    return int(max(values))
