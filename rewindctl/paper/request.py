"""What a user asks for: studies by name or file, trials, a selection of cells, a scale, comparisons at the end."""

from collections.abc import Callable
from dataclasses import fields, replace

from rewindctl.catalog import unknown
from rewindctl.conditions import Condition, parse_conditions
from rewindctl.counting import count_of
from rewindctl.datasets.inventory import DataFacts
from rewindctl.errors import UsageError
from rewindctl.paper.plan import Cell, StudyPlan, make_plan, scaled
from rewindctl.paper.study import Study, load_study, shipped

ALL = "all"
NOT_FOR_SELECTION = ("group", "stages")
SAME = {"compression": 5e-3}  # relative: 9.35 selects the cell of 9.3458; neighbours are 25 % apart, sparsities 0.4 %
EXACT = 1e-9


def studies_of(names: tuple[str, ...]) -> list[Study]:
    """Studies by name or file, `all` for those of the paper; each once. Raises: UsageError."""
    found: dict[str, Study] = {}
    for name in names:
        chosen = [s for s in shipped().values() if s.part_of_paper] if name == ALL else [load_study(name)]
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


BEST = "best of "
COLUMNS = (
    *("label", "method", "schedule", "pruned_at", "model", "dataset", "structure", "scope", "criterion"),
    *("channel_norm", "exclude", "sparsity_asked", "precision"),
)
OTHERS = f"or {BEST}METHOD, or conditions such as label=lr_rewind,pruned_at=72000"


def comparisons_of(study: Study, facts: Callable[[str], DataFacts], scale: float) -> tuple[tuple[str, str], ...]:
    """The two sides of each comparison as the rows of a run at `scale` have them; the file's are those of full length.

    Raises: UsageError for what no cell of the study is, DataError.
    """
    if not study.comparisons:
        return ()
    full, here = (make_plan([study], facts, (0,), factor).cells for factor in (1.0, scale))
    labels = {one.label: other.label for one, other in zip(full, here, strict=True) if one.method != "none"}
    found = []
    for first, second in study.comparisons:
        if second.startswith(BEST):
            raise UsageError(f"study {study.name!r}: {second!r} must be the first of a comparison", "put it first")
        found.append((_side(study, first, full, labels, scale), _side(study, second, full, labels, scale)))
    return tuple(found)


def _side(study: Study, text: str, cells: list[Cell], labels: dict[str, str], scale: float) -> str:
    where = f"study {study.name!r}, comparisons"
    if text.startswith(BEST):
        known = sorted({cell.method for cell in cells} - {"none"})
        if text.removeprefix(BEST) not in known:
            raise unknown(f"{where}: no cell has the method", text.removeprefix(BEST), known)
        return text
    if text in labels:
        return labels[text]
    if not any(sign in text.partition(" ")[0] for sign in "=<>"):
        raise unknown(f"{where}: no cell has the label", text, sorted(labels), others=OTHERS)
    return ",".join(str(_at(one, labels, scale, where)) for one in parse_conditions(text, where, COLUMNS))


def _at(condition: Condition, labels: dict[str, str], scale: float, where: str) -> Condition:
    """A condition as it is at `scale`, where labels and iterations are others. Raises: UsageError."""
    if condition.name == "label":
        if condition.wanted not in labels:
            raise unknown(f"{where}: no cell has the label", condition.wanted, sorted(labels))
        return replace(condition, wanted=labels[condition.wanted])
    if condition.name == "pruned_at" and condition.number is not None:
        return replace(condition, wanted=str(scaled(int(condition.number), scale)))
    return condition
