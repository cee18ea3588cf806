"""The verdicts that a study ends in: each of its comparisons in each of its scenarios."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from rewindctl.conditions import parse_conditions
from rewindctl.errors import RewindError
from rewindctl.paper.claims import UNDECIDED
from rewindctl.paper.plan import pruning_name
from rewindctl.paper.request import BEST
from rewindctl.report.best_of import LEGEND, best_of
from rewindctl.report.cells import SETTINGS
from rewindctl.report.contrast import NO_NUMBERS, SCENARIO
from rewindctl.report.formats import Table
from rewindctl.report.paired import Side, both, lifted, pair_table, paired, values_of
from rewindctl.report.tables import method_name

if TYPE_CHECKING:
    from rewindctl.report.study import StudyReport

PLACE = ["model", "dataset", "iterations", *SETTINGS, "schedule", "step"]
NO_RUNS = "no dense run has both"


def verdict_table(report: "StudyReport", caption: str) -> Table:
    """A row per comparison and scenario; one without runs of both sides says so."""
    rows = [row for first, second in report.compared for row in _rows(report, first, second)]
    made = pd.DataFrame(rows, columns=None if rows else ["precisions", "effect", "test"])
    table = pair_table(made, report.accuracy)
    legend = (LEGEND,) if any(first.startswith(BEST) for first, _ in report.compared) else ()
    return replace(table, caption=caption, notes=(*table.notes, *legend))


def _rows(report: "StudyReport", first: str, second: str) -> list[dict[str, Any]]:
    one, other = _cells(report, first), _cells(report, second)
    apart = lifted(one, other)
    try:
        if first.startswith(BEST):
            made = best_of(report.rows, first.removeprefix(BEST), second, accuracy=report.accuracy)
        else:
            made = paired(report.rows, first, second, accuracy=report.accuracy)
    except RewindError:  # a side without runs; what no cell of the study is was refused before it was run
        made = pd.DataFrame(columns=PLACE)
    rows: list[dict[str, Any]] = made.to_dict(orient="records")  # type: ignore[assignment]
    common = [column for column in PLACE if column not in apart]
    shown = {_place(row, common) for row in rows}
    there = {_place(cell, common): cell for _, cell in other.rows.iterrows()}
    for _, cell in one.rows.drop_duplicates(common).iterrows():
        if (place := _place(cell, common)) in there and place not in shown:
            rows.append(_without_runs(cell, there[place], apart) | _names(first, second))
    return rows


def _place(row: Any, columns: list[str]) -> tuple[Any, ...]:
    """Where a row belongs, None for what is missing."""
    return tuple(None if pd.isna(row[column]) else row[column] for column in columns)


def _cells(report: "StudyReport", text: str) -> Side:
    """The cells of a study that a side is about."""
    cells = report.cells
    if text.startswith(BEST):
        return Side(text, (), cells[cells["method"] == text.removeprefix(BEST)])
    if text in set(cells["label"]):
        return Side(text, (), cells[cells["label"] == text])
    conditions = tuple(parse_conditions(text, "comparisons"))
    for condition in conditions:
        cells = cells[[condition.holds(value) for value in values_of(cells, condition.name)]]
    return Side(text, conditions, cells)


def _names(first: str, second: str) -> dict[str, str]:
    """The two sides, in words and as they were asked for."""
    sides = {"first": first, "second": second}
    labels = {f"{name}_label": side for name, side in sides.items()}
    return labels | {name: method_name(side.partition(" ")[0], side) for name, side in sides.items()}


def _without_runs(first: "pd.Series[Any]", second: "pd.Series[Any]", apart: list[str]) -> dict[str, Any]:
    row = {column: None if column in apart else first.get(column) for column in [*SCENARIO, "scale"]} | NO_NUMBERS
    return row | {
        "pruning": both(pruning_name(cell) for cell in (first, second)),
        "precisions": "",
        "test": "",
        "basis": "",
        "verdict": UNDECIDED,
        "remark": NO_RUNS,
    }
