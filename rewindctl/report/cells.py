"""From trials to cells: median, 10th and 90th percentile, n, and the difference from the dense baseline."""

import math

import pandas as pd

SETTINGS = ["structure", "scope", "criterion", "channel_norm", "pruned_at"]
KEYS = ["model", "dataset", "iterations", "scale", *SETTINGS, "schedule", "step", "dense_group", "label", "group"]
LOW, HIGH = 0.1, 0.9


def summarise(frame: pd.DataFrame, accuracy: str = "final") -> pd.DataFrame:
    """One row per cell (a group key under a schedule), from the rows of `tidy_frame`.

    `accuracy` is `final` (after the last iteration) or `best` (over evaluations, chosen on the test set). `baseline`
    is the median accuracy of the dense runs that the cell's trials descend from; `delta_points` is 100 * (median -
    baseline), `delta_relative` 100 * (median / baseline - 1), both also for the percentiles. Source: report
    section 5, whose "80 % confidence intervals" are the 10th and 90th percentiles of the trials (linear
    interpolation).
    """
    suffix = "" if accuracy == "final" else "_best"
    rows = []
    for _, trials in frame.groupby(KEYS, dropna=False, sort=False):
        first = trials.iloc[0]
        values = trials[f"test_accuracy{suffix}"]
        baseline = float(trials.drop_duplicates("dense_run_id")[f"dense_accuracy{suffix}"].median())
        row = {key: first[key] for key in (*KEYS, "method", "level", "sparsity_asked")}
        row |= {
            "sparsity": float(trials["sparsity"].median()),
            "compression": float(trials["compression"].median()),
            "n": len(trials),
            "median": float(values.median()),
            "p10": float(values.quantile(LOW)),
            "p90": float(values.quantile(HIGH)),
            "baseline": baseline,
            "run_ids": " ".join(trials["run_id"]),
        }
        for name in ("median", "p10", "p90"):
            part = "" if name == "median" else f"_{name}"
            row[f"delta_points{part}"] = 100 * (row[name] - baseline)
            row[f"delta_relative{part}"] = 100 * (row[name] / baseline - 1) if baseline else math.nan
        rows.append(row)
    cells = pd.DataFrame(rows)
    order = ["model", "dataset", "iterations", "structure", "schedule", "step", "compression", "label"]
    return cells.sort_values(order, ignore_index=True) if len(cells) else cells
