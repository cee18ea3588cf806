"""A paired comparison of any two ways to retrain, in every scenario that has both, and its table.

A side is a label that the tables show, or conditions on the tidy rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from rewindctl.catalog import listed, unknown
from rewindctl.conditions import Condition, parse_conditions
from rewindctl.errors import RewindError, UsageError
from rewindctl.paper.claims import UNDECIDED
from rewindctl.paper.plan import pruning_name
from rewindctl.report.contrast import LEVEL_TEXT, SCENARIO, against_ours, significant, trials_of
from rewindctl.report.formats import Column, Table
from rewindctl.report.frame import COLUMNS
from rewindctl.report.runs import SAME
from rewindctl.report.tables import DATA, NETWORK, method_name, precision_name
from rewindctl.report.verdict_tables import (
    COMPRESSION,
    INTERVAL,
    SMALLEST,
    TRIALS,
    VERDICT,
    effect_column,
    iterations,
    notes,
)

FIRST, SECOND = "first better", "second better"
LEGEND = (
    "effect: accuracy of the first minus that of the second, in percentage points, the mean over n dense runs, each "
    "the mean over the compressions that both have. p: of both directions. "
    f"first better, second better: the effect is significantly above or below 0, at {LEVEL_TEXT}; not decided: "
    "neither, with what is still needed. Each verdict holds for its own scenario only.",
    "smallest effect: what n trials would show 4 times out of 5, given the spread of these.",
)


def paired(frame: pd.DataFrame, first: str, second: str, *, accuracy: str = "final") -> pd.DataFrame:
    """`first` against `second` in each scenario that has both, from the rows of `tidy_frame`, unrounded.

    Each is a label as the tables show it (`weight_rewind k=8000`, `weight rewinding k=8000`) or conditions on tidy
    columns (`method=lr_rewind,schedule=iterative`), which may hold for several labels: each pair of them has a row.
    A scenario is a network, data, dense recipe, pruning, schedule, step and precision; a column of it that the two
    sides ask different things of is compared, and missing in the row. Pairs are of one dense run and one level.

    Columns: those of a scenario; `first`, `second` (in words), `first_label`, `second_label`; what `against_ours`
    gives; `verdict`: `first better`, `second better`, `not decided`, which `remark` then explains; `pruning`,
    `precisions`: of both sides in words.
    Raises: UsageError for what no retraining is; RewindError where no scenario has both.
    """
    trials = trials_of(frame, accuracy)
    one, other = side_of(trials, first), side_of(trials, second)
    free = lifted(one, other)
    if set(one.rows.index) == set(other.rows.index):
        raise UsageError(
            f"{OPTION}: {first!r:.200} and {second!r:.200} are the same retrainings", "give two that differ"
        )
    common = [column for column in [*SCENARIO, "scale"] if column not in free]
    sides = trials.index.isin(one.rows.index.union(other.rows.index))
    rows = [
        row
        for _, scenario in trials[sides].groupby(common, dropna=False, sort=False)
        for row in _rows(scenario, one.rows, other.rows, free)
    ]
    if not rows:
        raise RewindError(
            f"{OPTION}: no scenario has both {first!r:.200} and {second!r:.200}",
            "retrain masks of the same dense runs both ways, in one precision",
        )
    return pd.DataFrame(rows)


def _rows(
    scenario: pd.DataFrame, first: pd.DataFrame, second: pd.DataFrame, free: list[str]
) -> Iterator[dict[str, Any]]:
    """Each way of the one side against each of the other, in one scenario."""
    arms = [
        [arm for _, arm in scenario[scenario.index.isin(side.index)].groupby(["label", *free], dropna=False)]
        for side in (first, second)
    ]
    for one, other in product(*arms):
        if not one.index.equals(other.index):
            yield _row(one, other, free)


def _row(one: pd.DataFrame, other: pd.DataFrame, free: list[str]) -> dict[str, Any]:
    heads = one.iloc[0], other.iloc[0]
    numbers = against_ours(one, other)
    decided = {FIRST: significant(numbers["p_above"]), SECOND: significant(numbers["p_below"])}
    verdict = next((name for name, holds in decided.items() if holds), UNDECIDED)
    return {
        **{column: None if column in free else heads[0][column] for column in [*SCENARIO, "scale"]},
        "pruning": both(pruning_name(head) for head in heads),
        "precisions": both(precision_name(head) for head in heads),
        **{name: _name(head, free) for name, head in zip(("first", "second"), heads, strict=True)},
        **{f"{name}_label": head["label"] for name, head in zip(("first", "second"), heads, strict=True)},
        **numbers,
        "verdict": verdict,
        "remark": numbers["remark"] if verdict == UNDECIDED else "",
    }


def _name(head: "pd.Series[Any]", free: list[str]) -> str:
    """A side in words, with the columns that make it what it is besides its label."""
    values = [f"{column}={'none' if pd.isna(head[column]) else head[column]}" for column in free]
    return ", ".join([method_name(head["method"], head["label"]), *values])


def both(names: Iterator[str]) -> str:
    """What two sides have in common, or each of the two."""
    return " / ".join(dict.fromkeys(names))


def pair_table(made: pd.DataFrame, accuracy: str = "final") -> Table:
    """The rows of `paired` with the columns that people see of them."""
    made, effect = effect_column(made, accuracy)
    columns = [NETWORK, DATA, Column("iterations", iterations), Column("pruning", lambda row: row["pruning"])]
    if made["precisions"].nunique() > 1:
        columns.append(Column("precision", lambda row: row["precisions"]))
    columns += [
        Column("first", lambda row: row["first"]),
        Column("second", lambda row: row["second"]),
        COMPRESSION,
        TRIALS,
        effect,
        INTERVAL,
        Column("p", lambda row: "" if pd.isna(row["p"]) else f"{row['p']:.3g}"),
        SMALLEST,
        VERDICT,
        Column("paired by", lambda row: row["basis"]),
    ]
    return Table(made, tuple(columns), notes=notes(LEGEND, made["test"]))


OPTION = "--pair"
OF_BASELINE = ("model", "dataset", "iterations", "dense_group", "dense_precision")


@dataclass(frozen=True)
class Side:
    """What was asked for, its conditions (none for a label), and the retrainings that meet it."""

    text: str
    conditions: tuple[Condition, ...]
    rows: pd.DataFrame

    def on(self, column: str) -> set[str]:
        """What is asked of a column."""
        return {str(one) for one in self.conditions if one.name == column}


def side_of(trials: pd.DataFrame, text: str) -> Side:
    """The retrainings of a label (`weight_rewind k=8000`, `LR rewinding`) or of conditions (`method=lr_rewind`).

    Raises: UsageError with the labels, the columns or the values that there are.
    """
    labels = sorted(set(trials["label"]))
    shown = {method_name(label.partition(" ")[0], label): label for label in labels}
    label = shown.get(text.strip(), text.strip())
    if label in labels:
        return Side(text, (), trials[trials["label"] == label])
    if not any(sign in text.partition(" ")[0] for sign in "=<>"):
        raise unknown(f"{OPTION}: no retraining has the label", text, labels, others="or conditions: method=lr_rewind")
    conditions = tuple(parse_conditions(text, OPTION, known=COLUMNS))
    rows = trials
    for condition in conditions:
        met = [condition.holds(value, SAME.get(condition.name, 0.0)) for value in values_of(rows, condition.name)]
        if not any(met):
            known = sorted({"none" if value is None else str(value) for value in values_of(rows, condition.name)})
            raise UsageError(
                f"{OPTION} {text!r:.200}: no retraining has {condition}", f"{condition.name} is {listed(known)}"
            )
        rows = rows[met]
    return Side(text, conditions, rows)


def lifted(first: Side, second: Side) -> list[str]:
    """The columns of a scenario that the two sides ask different things of: what is compared, not what is common.

    Raises: UsageError where no dense run can have both.
    """
    asked = [column for column in SCENARIO if first.on(column) and second.on(column)]
    different = [column for column in asked if first.on(column) != second.on(column)]
    if apart := [column for column in different if column in OF_BASELINE]:
        raise UsageError(
            f"{OPTION}: {first.text!r:.200} and {second.text!r:.200} are of dense runs that differ in {apart[0]}",
            "trials are paired by dense run: give both the same conditions on dense runs",
        )
    return [*different, "step"] if "schedule" in different and "step" not in different else different


def values_of(rows: pd.DataFrame, column: str) -> list[object]:
    """Python's own values, None for a missing one."""
    return [None if pd.isna(value) or value == "" else value for value in rows[column].astype(object).tolist()]
