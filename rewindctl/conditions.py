"""Conditions as people write them on a command line: `method=lr_rewind,compression>5`."""

import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from rewindctl.catalog import unknown
from rewindctl.errors import UsageError

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
EXAMPLE = "write method=lr_rewind,compression>5"
SIGNS = f"the signs are {' '.join(sorted(COMPARISONS))}"


@dataclass(frozen=True)
class Condition:
    """`name` `sign` `wanted`, as in `compression>5`."""

    name: str
    sign: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.wanted}"

    @property
    def ordered(self) -> bool:
        """Whether it asks for more or less, which numbers alone are."""
        return self.sign not in ("=", "!=")

    @property
    def number(self) -> float | None:
        """What is wanted as a number; None for text."""
        try:
            return float(self.wanted.removesuffix("x"))
        except ValueError:
            return None

    def holds(self, value: Any, same: float = 0.0) -> bool:
        """Whether it is true of `value`; numbers that differ by the share `same` or less are equal.

        A value that is missing is `none`; text has no order.
        """
        compare, number = COMPARISONS[self.sign], self.number
        if isinstance(value, int | float) and number is not None:
            equal = abs(value - number) <= same * abs(number)
            if self.sign in ("=", "!="):
                return equal == (self.sign == "=")
            return "=" in self.sign if equal else compare(value, number)
        if self.ordered:
            return False
        return compare("none" if value is None else str(value), self.wanted)


def parse_conditions(text: str, option: str, known: Collection[str] | None = None) -> list[Condition]:
    """Conditions joined by commas. Raises: UsageError naming the option, and the columns known where one is not."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\w+)\s*(>=|<=|!=|=|>|<)\s*([^=<>!].*)", part.strip())
        if match is None:
            raise UsageError(f"{option} {part.strip()!r} is not a condition", f"{EXAMPLE}; {SIGNS}")
        found.append(Condition(*match.groups()))
        if found[-1].ordered and found[-1].number is None:
            raise not_a_number(found[-1], option)
        if known is not None and found[-1].name not in known:
            raise unknown(f"{option}: unknown column", found[-1].name, sorted(known))
    return found


def not_a_number(condition: Condition, option: str) -> UsageError:
    """The error for a condition on numbers whose value is none."""
    return UsageError(
        f"{option} '{condition}': {condition.wanted!r} is not a number", f"text takes = and !=; {EXAMPLE}"
    )
