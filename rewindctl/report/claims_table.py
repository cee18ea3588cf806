"""The verdicts on the claims as a table that people read; the unrounded numbers are the frame's own."""

from dataclasses import replace
from typing import Any

import pandas as pd

from rewindctl.report.formats import Table, as_table
from rewindctl.report.tables import pruning_name

LEGEND = (
    "effect: accuracy of the first method minus that of the second, in percentage points, the mean over n dense runs. "
    "supported: it lies significantly on the claim's side of the bound (0; for 'as good as' the --margin below 0); "
    "contradicted: significantly on the other side; not decided: neither, with what is still needed.",
    "smallest effect: the distance from the bound that n trials would show 4 times out of 5. (part): one of the two "
    "comparisons that claim 1 rests on. report's verdict -: the report has no such scenario at this length.",
)


def with_legend(table: pd.DataFrame) -> Table:
    """A table of claims with what its words mean below it."""
    return replace(as_table(table), notes=LEGEND)


def claims_table(verdicts: pd.DataFrame) -> pd.DataFrame:
    """A row per verdict: what is compared, the effect with its interval, the test, and the report's own verdict."""
    return pd.DataFrame([_readable(row) for _, row in verdicts.iterrows()])


def _readable(row: "pd.Series[Any]") -> dict[str, Any]:
    overall = row["role"] == "overall"
    return {
        "claim": f"{row['claim']}{' (part)' if row['role'] == 'part' else ''}",
        "network": row["model"],
        "data": "" if overall else row["dataset"],
        "iterations": "" if overall else _iterations(row),
        "pruning": "" if overall else pruning_name(row),
        "compared": row["comparison"],
        "compression": _compressions(row),
        "n": _trials(row),
        "effect (points)": "" if pd.isna(row["effect"]) else f"{row['effect']:+.2f}",
        "interval": "" if overall else _interval(row),
        "test": row["test"],
        "smallest effect": "" if overall else _smallest(row),
        "verdict": f"{row['verdict']} ({row['remark']})" if row["remark"] else row["verdict"],
        "report's verdict": f"{row['report']} ({row['report_source']})" if row["report_source"] else row["report"],
        "compared with": row["basis"],
    }


def _iterations(row: "pd.Series[Any]") -> str:
    """The dense run's, and what part of the recipe's where it is not all of it."""
    return f"{int(row['iterations'])}" + ("" if row["scale"] == 1 else f" (scale {row['scale']:.3g})")


def _compressions(row: "pd.Series[Any]") -> str:
    if pd.isna(row["lowest"]):
        return ""
    if row["levels"] == 1:
        return f"{row['lowest']:.2f}x"
    return f"{row['lowest']:.2f}x-{row['highest']:.2f}x ({int(row['levels'])})"


def _trials(row: "pd.Series[Any]") -> str:
    return f"{int(row['n'])}" + (f" ({int(row['left_out'])} left out)" if row["left_out"] > 0 else "")


def _interval(row: "pd.Series[Any]") -> str:
    """With its confidence, which few trials cannot bring to 95 %."""
    if pd.isna(row["low"]):
        return "none"
    return f"{row['low']:+.2f} to {row['high']:+.2f} ({100 * row['confidence']:.3g} %)"


def _smallest(row: "pd.Series[Any]") -> str:
    return "none" if pd.isna(row["smallest_effect"]) else f"{row['smallest_effect']:.2f}"
