"""Options as data: an option is declared once, as a field of the class that has its value.

The command line, recorded commands, labels, refusals and the spaces of searches are derived from what is declared.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, get_args, get_type_hints

from rewindctl.errors import UsageError

LrClock = Literal["rewound", "restarted"]
OptimizerState = Literal["zero", "restored"]
DataOrder = Literal["replayed", "continued"]
MOST_ITERATIONS: Final = 10**12  # more than anyone trains; numbers without end overflow what is computed of them


@dataclass(frozen=True)
class Point:
    """An option that is an iteration of the dense run.

    `weights`: a network is taken from there, so that it is recorded or made again. `last`: N itself may be given.
    """

    weights: bool = True
    last: bool = False


def _is_point(value: float) -> bool:
    return 0 <= value <= MOST_ITERATIONS


@dataclass(frozen=True)
class Option:
    """What is declared of an option; its name, type and default are those of its field.

    `text` is its help, `label` what a run's label says of a value (`{}`), but for the `usual` one of a spec.
    `every`: all methods take it. `result`: the spec's field with what a method made of it; None: the spec has the
    option as it was given. `tune`: a search may be given it. `check` raises UsageError for a value that no dense run
    allows; `fits` says whether a space file may have a value, `fitting` which it may, and `search` is the interval that
    is searched where there is no file, on a logarithmic scale.
    """

    text: str
    label: str
    every: bool = False
    result: str | None = None
    tune: bool = True
    usual: Callable[[Any], Any] = lambda spec: None
    point: Point | None = None
    check: Callable[[Any], None] = lambda value: None
    fits: Callable[[float], bool] = _is_point
    fitting: str = "iterations count from 0, to at most a trillion"
    search: tuple[float, float] | None = None
    name: str = ""
    kind: Any = None
    default: Any = None

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def whole(self) -> bool:
        return int in get_args(self.kind)

    @property
    def number(self) -> bool:
        return self.whole or float in get_args(self.kind)


def option(text: str, label: str, default: Any = None, **declared: Any) -> Any:
    """A field of a dataclass that is an option; the other arguments are those of `Option`."""
    return field(default=default, metadata={"option": Option(text, label, **declared)})


def options_of(kind: type) -> dict[str, Option]:
    """The options that a dataclass declares, by name and in their order."""
    hints, found = get_type_hints(kind), {one.name: one for one in fields(kind) if "option" in one.metadata}
    return {
        name: replace(one.metadata["option"], name=name, kind=hints[name], default=one.default)
        for name, one in found.items()
    }


def require_length(iterations: int) -> None:
    """Raises: UsageError."""
    if iterations <= 0:
        raise UsageError(f"--iterations {iterations} is not positive", "give a number of updates, such as 1000")


def require_rate(rate: float, usual: float = 0.001) -> None:
    """Raises: UsageError naming a `usual` rate."""
    if not (rate > 0 and math.isfinite(rate)):
        raise UsageError(f"--lr {rate} is not a positive number", f"give a rate such as {usual}")


def target_sparsity(sparsity: float | None, compression: float | None) -> float:
    """The one that is given, as a sparsity. Raises: UsageError when none or both are, or it is out of range."""
    if sparsity is not None and compression is not None:
        raise UsageError(
            f"both --sparsity {sparsity:g} and --compression {compression:g} are given", "give one of the two"
        )
    if compression is not None:
        if not 1 < compression < float("inf"):
            raise UsageError(f"--compression {compression:g} is not above 1", "give total / kept weights, such as 9.35")
        return 1 - 1 / compression
    if sparsity is None:
        raise UsageError("neither --sparsity nor --compression is given", "give one, such as --compression 9.35")
    if not 0 < sparsity < 1:
        raise UsageError(f"--sparsity {sparsity:g} is outside (0, 1)", "give removed / total weights, such as 0.893")
    return sparsity
