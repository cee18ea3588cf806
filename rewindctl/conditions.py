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


@dataclass(frozen=True)
class Condition:
    """`name` `sign` `wanted`, as in `compression>5`."""

    name: str
    sign: str
    wanted: str

    def holds(self, value: Any, same: float = 0.0) -> bool:
        """Whether it is true of `value`; numbers that differ by the share `same` or less are equal.

        A value that is missing is `none`; text has no order.
        """
        compare, number = COMPARISONS[self.sign], _number(self.wanted)
        if isinstance(value, int | float) and number is not None:
            equal = abs(value - number) <= same * abs(number)
            if self.sign in ("=", "!="):
                return equal == (self.sign == "=")
            return "=" in self.sign if equal else compare(value, number)
        if self.sign not in ("=", "!="):
            return False
        return compare("none" if value is None else str(value), self.wanted)


def parse_conditions(text: str, option: str, known: Collection[str] | None = None) -> list[Condition]:
    """Conditions joined by commas. Raises: UsageError naming the option, and the columns known where one is not."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\w+)\s*(>=|<=|!=|=|>|<)\s*(.+)", part.strip())
        if match is None:
            raise UsageError(f"{option} {part.strip()!r} is not a condition", EXAMPLE)
        found.append(Condition(*match.groups()))
        if known is not None:
            require_known(found[-1], option, known)
    return found


def require_known(condition: Condition, option: str, known: Collection[str]) -> None:
    """Raises: UsageError when the condition is on a column that is not known."""
    if condition.name not in known:
        raise unknown(f"{option}: unknown column", condition.name, sorted(known))


def _number(text: str) -> float | None:
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        return None
