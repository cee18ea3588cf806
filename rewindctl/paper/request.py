"""What a user asks for: studies by name or file, trials, a selection of cells, a scale."""

import operator
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from rewindctl.datasets.facts import DataFacts
from rewindctl.errors import UsageError
from rewindctl.paper.plan import Cell, Plan, make_plan
from rewindctl.paper.study import Study, load_study, shipped

ALL = "all"
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
NOT_FOR_SELECTION = ("group", "stages")
SAME = {"compression": 5e-3}  # relative: 9.35 selects the cell of 9.3458; neighbours are 25 % apart, sparsities 0.4 %
EXACT = 1e-9


def studies_of(names: tuple[str, ...]) -> list[Study]:
    """Studies by name or file, `all` for those of the report; each once. Raises: UsageError."""
    found: dict[str, Study] = {}
    for name in names:
        chosen = [s for s in shipped().values() if s.part_of_report] if name == ALL else [load_study(name)]
        for study in chosen:
            if found.setdefault(study.name, study) != study:
                raise UsageError(f"two studies are named {study.name!r}", "rename one of them")
    return list(found.values())


def planned(
    studies: list[Study],
    facts: Callable[[str], DataFacts],
    seeds: tuple[int, ...] | None,
    cells: str | None,
    scale: float,
) -> Plan:
    """The plan of what is asked for; without seeds, as many trials as each study has. Raises: UsageError, DataError."""
    plan = make_plan(studies, facts, seeds, scale)
    if cells is None:
        return plan
    conditions = [_condition(text.strip()) for text in cells.split(",")]
    kept = [cell for cell in plan.cells if all(holds(cell) for holds in conditions)]
    if not kept:
        raise UsageError(f"--cells {cells!r} selects none of {len(plan.cells)} cells", "loosen it")
    return plan.only(kept)


def _condition(text: str) -> Callable[[Cell], bool]:
    match = re.fullmatch(r"(\w+)\s*(>=|<=|!=|=|>|<)\s*(.+)", text)
    known = [field.name for field in fields(Cell) if field.name not in NOT_FOR_SELECTION] + ["compression"]
    if match is None:
        raise UsageError(f"--cells {text!r} is not a condition", "write method=lr_rewind,compression>5")
    name, sign, wanted = match.groups()
    if name not in known:
        raise UsageError(f"--cells: unknown column {name!r}", f"known: {', '.join(sorted(known))}")
    compare = COMPARISONS[sign]
    number = _number(wanted)

    def holds(cell: Cell) -> bool:
        value = getattr(cell, name)
        if isinstance(value, int | float) and number is not None:
            same = abs(value - number) <= SAME.get(name, EXACT) * abs(number)
            if sign in ("=", "!="):
                return same == (sign == "=")
            return "=" in sign if same else compare(value, number)
        if sign not in ("=", "!="):
            return False
        return compare("none" if value is None else str(value), wanted)

    return holds


def _number(text: str) -> float | None:
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        return None
