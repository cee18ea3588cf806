"""The verdicts that a study ends in: each of its comparisons in each of its scenarios."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from rewindctl.conditions import parse_conditions
from rewindctl.errors import RewindError
from rewindctl.paper.claims import UNDECIDED
from rewindctl.paper.comparisons import BEST
from rewindctl.report.best_of import LEGEND, best_of
from rewindctl.report.contrast import NO_NUMBERS, SCENARIO
from rewindctl.report.formats import Table
from rewindctl.report.paired import pair_table, paired
from rewindctl.report.tables import method_name, pruning_name

if TYPE_CHECKING:
    from rewindctl.report.study import StudyReport

PLACE = ["model", "dataset", "iterations", "schedule", "step"]
NO_RUNS = "no dense run has both"


def verdict_table(report: "StudyReport", caption: str) -> Table:
    """A row per comparison and scenario; one without runs of both sides says so."""
    rows = [row for first, second in report.compared for row in _rows(report, first, second)]
    made = pd.DataFrame(rows, columns=None if rows else ["precisions", "effect"])
    table = pair_table(made, report.accuracy)
    legend = (LEGEND,) if any(first.startswith(BEST) for first, _ in report.compared) else ()
    return replace(table, caption=caption, notes=(*table.notes, *legend))


def _rows(report: "StudyReport", first: str, second: str) -> list[dict[str, Any]]:
    try:
        if first.startswith(BEST):
            made = best_of(report.rows, first.removeprefix(BEST), second, accuracy=report.accuracy)
        else:
            made = paired(report.rows, first, second, accuracy=report.accuracy)
    except RewindError:  # a side without runs; what no cell of the study is was refused before it was run
        made = pd.DataFrame(columns=PLACE)
    rows: list[dict[str, Any]] = made.to_dict(orient="records")  # type: ignore[assignment]
    shown = {_place(row) for row in rows}
    one, other = _cells(report, first), _cells(report, second)
    for _, cell in one.drop_duplicates(PLACE).iterrows():
        there = {_place(row) for row in other.to_dict(orient="records")}
        if (
            _place(cell) in there and _place(cell) not in shown and not any(None in place for place in shown)
        ):  # None: the sides differ in it
            rows.append(_without_runs(cell, first, second))
    return rows


def _place(row: Any) -> tuple[Any, ...]:
    """Where a row belongs: network, data, length, schedule and step, 0 for no step."""
    return tuple(0.0 if key == "step" and pd.isna(row[key]) else row[key] for key in PLACE)


def _cells(report: "StudyReport", side: str) -> pd.DataFrame:
    """The cells of a study that a side is about."""
    cells = report.cells
    if side.startswith(BEST):
        return cells[cells["method"] == side.removeprefix(BEST)]
    if side in set(cells["label"]):
        return cells[cells["label"] == side]
    for condition in parse_conditions(side, "comparisons"):
        values = cells[condition.name].astype(object)
        cells = cells[[condition.holds(None if pd.isna(value) or value == "" else value) for value in values]]
    return cells


def _without_runs(cell: "pd.Series[Any]", first: str, second: str) -> dict[str, Any]:
    names = {name: method_name(side.partition(" ")[0], side) for name, side in (("first", first), ("second", second))}
    row = {column: cell.get(column) for column in [*SCENARIO, "scale"]} | NO_NUMBERS | names
    return row | {
        "first_label": first,
        "second_label": second,
        "pruning": pruning_name(cell),
        "precisions": "",
        "test": "",
        "basis": "",
        "verdict": UNDECIDED,
        "remark": NO_RUNS,
    }
