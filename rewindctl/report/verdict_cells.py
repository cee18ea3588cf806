"""What tables of verdicts say in a cell."""

from typing import Any

import pandas as pd

from rewindctl.report.contrast import LOOKED_AT

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
