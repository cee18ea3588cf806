"""What a study compares at its end: its own labels, the best settings of a method, or conditions, at its scale."""

from collections.abc import Callable
from dataclasses import replace

from rewindctl.catalog import unknown
from rewindctl.conditions import Condition, parse_conditions
from rewindctl.datasets.inventory import DataFacts
from rewindctl.errors import UsageError
from rewindctl.paper.plan import Cell, make_plan, scaled
from rewindctl.paper.study import Study

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
            raise UsageError(f"study {study.name!r}: {second!r} is compared with, not compared", "put it first")
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
