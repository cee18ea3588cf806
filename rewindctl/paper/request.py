"""What a user asks for: studies by name or file, trials, a selection of cells, a scale."""

from collections.abc import Callable
from dataclasses import fields

from rewindctl.conditions import parse_conditions
from rewindctl.counting import count_of
from rewindctl.datasets.inventory import DataFacts
from rewindctl.errors import UsageError
from rewindctl.paper.comparisons import comparisons_of
from rewindctl.paper.plan import Cell, StudyPlan, make_plan
from rewindctl.paper.study import Study, load_study, shipped

ALL = "all"
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
) -> StudyPlan:
    """The plan of what is asked for; without seeds, as many trials as each study has. Raises: UsageError, DataError."""
    plan = make_plan(studies, facts, seeds, scale)
    for study in studies:
        comparisons_of(study, facts, scale)  # a wrong one is refused before hours of training
    if cells is None:
        return plan
    columns = [field.name for field in fields(Cell) if field.name not in NOT_FOR_SELECTION] + ["compression"]
    wanted = parse_conditions(cells, "--cells", columns)
    kept = [
        cell
        for cell in plan.cells
        if all(one.holds(getattr(cell, one.name), SAME.get(one.name, EXACT)) for one in wanted)
    ]
    if not kept:
        raise UsageError(f"--cells {cells!r} selects none of {count_of(len(plan.cells), 'cell')}", "loosen it")
    return plan.only(kept)
