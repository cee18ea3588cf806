"""The two sides of a comparison, as people name them: a label that the tables show, or conditions on the tidy rows."""

from dataclasses import dataclass

import pandas as pd

from rewindctl.catalog import listed, unknown
from rewindctl.conditions import Condition, parse_conditions
from rewindctl.errors import UsageError
from rewindctl.report.contrast import SCENARIO
from rewindctl.report.frame import COLUMNS
from rewindctl.report.runs import SAME
from rewindctl.report.tables import method_name

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
            "trials are paired by dense run: ask the same of both",
        )
    return [*different, "step"] if "schedule" in different and "step" not in different else different


def values_of(rows: pd.DataFrame, column: str) -> list[object]:
    """Python's own values, None for a missing one."""
    return [None if pd.isna(value) or value == "" else value for value in rows[column].astype(object).tolist()]
