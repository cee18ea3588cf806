"""From trials to cells: median, 10th and 90th percentile, n, and the difference from the dense baseline."""

import math
from typing import Any

import pandas as pd

SETTINGS = ["structure", "scope", "criterion", "channel_norm", "exclude", "pruned_at"]
PRECISIONS = ["precision", "dense_precision"]
KEYS = [
    "model",
    "dataset",
    "iterations",
    "scale",
    *SETTINGS,
    "schedule",
    "step",
    "dense_group",
    "label",
    "group",
    *PRECISIONS,
]
LOW, HIGH = 0.1, 0.9


def summarise(frame: pd.DataFrame, accuracy: str = "final") -> pd.DataFrame:
    """One row per cell (a group key under a schedule, in one precision) of a tidy frame, with its `statistics`."""
    rows = []
    for _, trials in frame.groupby(KEYS, dropna=False, sort=False):
        first = trials.iloc[0]
        row = {key: first[key] for key in (*KEYS, "method", "level", "sparsity_asked")}
        rows.append(row | statistics(trials, accuracy))
    cells = pd.DataFrame(rows)
    order = ["model", "dataset", "iterations", "structure", "schedule", "step", "compression", "label", *PRECISIONS]
    return cells.sort_values(order, ignore_index=True) if len(cells) else cells


def statistics(trials: pd.DataFrame, accuracy: str = "final") -> dict[str, Any]:
    """The numbers of one cell from its trials, a row each.

    `accuracy` is `final` (after the last iteration) or `best` (over evaluations, chosen on the test set). `baseline`
    is the median accuracy of the dense runs that the cell's trials descend from; `delta_points` is 100 * (median -
    baseline), `delta_relative` 100 * (median / baseline - 1), both also for the percentiles. Source: the
    paper, section 5, whose "80 % confidence intervals" are the 10th and 90th percentiles of the trials (linear
    interpolation).
    """
    suffix = "" if accuracy == "final" else "_best"
    values = trials[f"test_accuracy{suffix}"]
    baseline = float(trials.drop_duplicates("dense_run_id")[f"dense_accuracy{suffix}"].median())
    row: dict[str, Any] = {
        "sparsity": float(trials["sparsity"].median()),
        "compression": float(trials["compression"].median()),
        "accuracy": accuracy,
        "n": len(trials),
        "median": float(values.median()),
        "p10": float(values.quantile(LOW)),
        "p90": float(values.quantile(HIGH)),
        "baseline": baseline,
        "run_ids": " ".join(trials["run_id"]),
        "devices": _each(trials["device"]),
        "deterministic": _each(trials["deterministic"]),
    }
    return row | differences(row["median"], row["p10"], row["p90"], baseline)


def _each(values: "pd.Series[Any]") -> str:
    """The values that are there, each once."""
    return "; ".join(sorted({str(value) for value in values if pd.notna(value) and value}))


def differences(median: float, p10: float, p90: float, baseline: float) -> dict[str, float]:
    """Accuracies (fractions) against a baseline: plain percentage points, and percent of the baseline."""
    row: dict[str, float] = {}
    for name, value in (("", median), ("_p10", p10), ("_p90", p90)):
        row[f"delta_points{name}"] = 100 * (value - baseline)
        row[f"delta_relative{name}"] = 100 * (value / baseline - 1) if baseline else math.nan
    return row
