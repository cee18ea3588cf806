"""The cells of tables of verdicts, and the table of the claims. The unrounded numbers are in the frames themselves."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from rewindctl.paper.plan import pruning_name
from rewindctl.report.contrast import LOOKED_AT
from rewindctl.report.formats import Column, Table
from rewindctl.report.tables import precision_name, several_precisions

OF_LOOKS = (
    f"{LOOKED_AT}: trials were added by reproduce --until-decided. Interval and verdict hold for all "
    "looks together, by alpha spending; a test for a fixed number of trials would be wrong more often than it says."
)


def iterations(row: "pd.Series[Any]") -> str:
    """The dense run's, and what part of the recipe's where it is not all of it."""
    return f"{int(row['iterations'])}" + ("" if row["scale"] == 1 else f" (scale {row['scale']:.3g})")


def compressions(row: "pd.Series[Any]") -> str:
    if pd.isna(row["lowest"]):
        return ""
    if row["levels"] == 1:
        return f"{row['lowest']:.2f}x"
    return f"{row['lowest']:.2f}x-{row['highest']:.2f}x ({int(row['levels'])})"


def trials_text(row: "pd.Series[Any]") -> str:
    return f"{int(row['n'])}" + (f" ({int(row['left_out'])} left out)" if row["left_out"] > 0 else "")


def interval(row: "pd.Series[Any]") -> str:
    """With its confidence, which few trials cannot bring to 95 %."""
    if pd.isna(row["low"]):
        return "none"
    return f"{row['low']:+.2f} to {row['high']:+.2f} ({100 * row['confidence']:.3g} %)"


def smallest(row: "pd.Series[Any]") -> str:
    return "none" if pd.isna(row["smallest_effect"]) else f"{row['smallest_effect']:.2f}"


def notes(legend: tuple[str, ...], tests: "pd.Series[Any]") -> tuple[str, ...]:
    """A legend, with what must be known of trials whose number was not fixed beforehand, where there are such."""
    return (*legend, OF_LOOKS) if (tests == LOOKED_AT).any() else legend


LEGEND = (
    "effect: accuracy of the first method minus that of the second, in percentage points, the mean over n dense runs. "
    "supported: it lies significantly on the claim's side of the bound (0; for 'as good as' the --margin below 0); "
    "contradicted: significantly on the other side; not decided: neither, with what is still needed; cannot be judged: "
    "the numbers to compare with were never published, so it is no part of the verdict on all.",
    "smallest effect: the distance from the bound that n trials would show 4 times out of 5. (part): one of the two "
    "comparisons that claim 1 rests on. paper's verdict -: the paper has no such scenario at this length.",
)


BEST = ("effect_on_best", "effect on best (points)")
COMPRESSION = Column("compression", compressions)
TRIALS = Column("n", trials_text)
INTERVAL = Column("interval", interval)
SMALLEST = Column("smallest effect", smallest)
VERDICT = Column("verdict", lambda row: f"{row['verdict']} ({row['remark']})" if row["remark"] else row["verdict"])


def effect_column(made: pd.DataFrame, accuracy: str) -> tuple[pd.DataFrame, Column]:
    """The rows, their `effect` renamed if it is of best accuracies, and the column that shows it.

    Best accuracies were chosen on the test set: a reader must see that, in a file too.
    """
    effect, heading = ("effect", "effect (points)") if accuracy == "final" else BEST
    shown = Column(heading, lambda row: "" if pd.isna(row[effect]) else f"{row[effect]:+.2f}")
    return made.rename(columns={"effect": effect}), shown


def claims_table(verdicts: pd.DataFrame, accuracy: str = "final") -> Table:
    """The rows of `verdicts` as people see them, the paper's own verdict beside each, and what their words mean."""

    def of_scenario(show: Callable[["pd.Series[Any]"], str]) -> Callable[["pd.Series[Any]"], str]:
        return lambda row: "" if row["role"] == "overall" else show(row)

    made, effect = effect_column(verdicts, accuracy)
    several = several_precisions(made[made["role"] != "overall"].drop(columns="n"))
    columns = (
        Column("claim", lambda row: f"{row['claim']}{' (part)' if row['role'] == 'part' else ''}"),
        Column("network", lambda row: row["model"].replace("the report's", "the paper's")),
        Column("data", of_scenario(lambda row: row["dataset"])),
        Column("iterations", of_scenario(iterations)),
        Column("pruning", of_scenario(pruning_name)),
        *([Column("precision", of_scenario(lambda row: precision_name(row.drop("n"))))] if several else []),
        Column("compared", lambda row: row["comparison"]),
        COMPRESSION,
        TRIALS,
        effect,
        Column("interval", of_scenario(interval)),
        Column("test", lambda row: row["test"]),
        Column("smallest effect", of_scenario(smallest)),
        VERDICT,
        Column(
            "paper's verdict",
            lambda row: f"{row['report']} ({row['report_source']})" if row["report_source"] else row["report"],
        ),
        Column("compared with", lambda row: row["basis"]),
    )
    return Table(made, columns, notes=notes(LEGEND, made["test"]))
