"""The cells of tables of verdicts, and the table of the claims. The unrounded numbers are in the frames themselves."""

from dataclasses import replace
from typing import Any

import pandas as pd

from rewindctl.paper.plan import pruning_name
from rewindctl.report.contrast import LOOKED_AT
from rewindctl.report.formats import Table, as_table
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


def with_legend(table: pd.DataFrame) -> Table:
    """A table of claims with what its words mean below it."""
    return replace(as_table(table), notes=notes(LEGEND, table["test"]))


def claims_table(verdicts: pd.DataFrame) -> pd.DataFrame:
    """A row per verdict: what is compared, the effect with its interval, the test, and the paper's own verdict."""
    several = several_precisions(verdicts[verdicts["role"] != "overall"].drop(columns="n"))
    return pd.DataFrame([_readable(row, several) for _, row in verdicts.iterrows()])


def _readable(row: "pd.Series[Any]", several: bool) -> dict[str, Any]:
    """`several`: scenarios are of several precisions, which each then names."""
    overall = row["role"] == "overall"
    precision = {"precision": "" if overall else precision_name(row.drop("n"))} if several else {}
    return {
        "claim": f"{row['claim']}{' (part)' if row['role'] == 'part' else ''}",
        "network": row["model"].replace("the report's", "the paper's"),
        "data": "" if overall else row["dataset"],
        "iterations": "" if overall else iterations(row),
        "pruning": "" if overall else pruning_name(row),
        **precision,
        "compared": row["comparison"],
        "compression": compressions(row),
        "n": trials_text(row),
        "effect (points)": "" if pd.isna(row["effect"]) else f"{row['effect']:+.2f}",
        "interval": "" if overall else interval(row),
        "test": row["test"],
        "smallest effect": "" if overall else smallest(row),
        "verdict": f"{row['verdict']} ({row['remark']})" if row["remark"] else row["verdict"],
        "paper's verdict": f"{row['report']} ({row['report_source']})" if row["report_source"] else row["report"],
        "compared with": row["basis"],
    }
