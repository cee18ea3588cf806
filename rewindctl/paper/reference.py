"""The published numbers: the paper's figures and tables, and Renda et al.'s medians, as they are shipped.

Source: the paper, figures 1-6 (digitised from the vector drawing), tables 1-5; Renda et al. 2020, summary data.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

_FOLDER = files("rewindctl.paper") / "published"


@cache
def paper_points() -> pd.DataFrame:
    """The 272 points of the paper's figures, baselines included, a row each.

    `accuracy_pct` is the absolute median in percent, `delta_true_pp` and `ci80_{low,high}_true_pp` percentage points
    against the baseline (10th and 90th percentiles of the trials), `delta_accuracy_pp` and `ci80_{low,high}_pp` the
    readings of the figures' axis, which is relative: 100 * (median / baseline - 1). Not to be changed in place.
    """
    return _csv("paper_figures.csv")


@cache
def paper_tables() -> dict[str, Any]:
    """The paper's tables 1 to 5 (`table_1`, ...), its hyper-parameters and its cost. Not to be changed in place."""
    tables: dict[str, Any] = json.loads((_FOLDER / "paper_tables.json").read_text())
    return tables


@cache
def renda_points() -> pd.DataFrame:
    """Renda et al.'s medians of 3 trials, unstructured, ResNet-20/56/110 on CIFAR-10, a row per cell.

    `test_acc_{median,min,max}_pct` on their 8,000 test images; `delta_median_vs_base_mean_pp` is plain percentage
    points against the mean of their dense runs. Not to be changed in place.
    """
    return _csv("renda_summary.csv")


def _csv(name: str) -> pd.DataFrame:
    with (_FOLDER / name).open("r", encoding="utf-8") as file:
        return pd.read_csv(file)
