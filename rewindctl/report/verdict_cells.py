"""What tables of verdicts say in a cell."""

from typing import Any

import pandas as pd


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
