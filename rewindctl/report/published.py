"""Which published number belongs beside a cell of ours."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from rewindctl.paper.plan import Cell
from rewindctl.paper.reference import at_end, is_in_paper, paper_points, paper_tables, renda_points, usual

Against = Literal["report", "renda", "none"]
TOLERANCE = 0.01  # 9.31x and 9.35x are the same level; neighbours are 20 % apart


@dataclass(frozen=True)
class Published:
    """Accuracies as fractions: the median, the 10th and 90th percentiles (NaN: not published), the baseline.

    `trials`: how many they are of; of the paper, which does not say, the fewest that its numbers can be made of.
    """

    median: float
    p10: float
    p90: float
    baseline: float
    source: str
    trials: int = 1


def spreads_of(cell: Cell) -> list[Published]:
    """The published numbers whose spread is that of a cell, whatever its K and clock; those of one trial have none."""
    found = [point for point in (_of_paper(cell), _of_renda(cell)) if point is not None and cell.schedule != "dense"]
    return [point for point in found if point.trials > 1 and math.isfinite(point.p90 - point.p10)]


def published_of(cell: Cell, row: dict[str, Any], against: Against) -> Published | None:
    """The published number of a cell, None where there is none for its settings, which `row` has as tidy columns.

    The paper's are for what `is_in_paper` says, at any length; those of Renda et al. for the settings that both
    papers share, under any K: theirs is another one.
    """
    if against == "report" and is_in_paper(row, cell.label):
        return _of_paper(cell)
    if against == "renda" and usual(row, cell.label) and at_end(row):
        return _of_renda(cell)
    return None


def _of_paper(cell: Cell) -> Published | None:
    if cell.schedule == "dense":
        return _baseline(cell)
    points = paper_points()
    found = points[
        (points["model"] == cell.model)
        & (points["dataset"] == cell.dataset)
        & (points["structure"] == cell.structure)
        & (points["schedule"] == cell.schedule)
        & (points["method"] == cell.method)
        & ((points["compression"] / cell.compression - 1).abs() < TOLERANCE)
    ]
    if cell.schedule == "iterative":
        found = found[(found["step_fraction"] - (cell.step or math.nan)).abs() < TOLERANCE]
    if not len(found):
        return _of_table5(cell)
    own = found[found["figure"].map(lambda number: f"fig{number}") == cell.study]
    point = (own if len(own) else found).iloc[0]
    baseline = point["baseline_accuracy_pct"]
    return Published(
        point["accuracy_pct"] / 100,
        (baseline + point["ci80_low_true_pp"]) / 100,
        (baseline + point["ci80_high_true_pp"]) / 100,
        baseline / 100,
        f"report figure {point['figure']}",
        1 if pd.isna(point["n_trials_min_consistent"]) else int(point["n_trials_min_consistent"]),
    )


def _of_table5(cell: Cell) -> Published | None:
    table = paper_tables()["table_5"]
    settings = (table["network"], table["dataset"], table["structure"], table["schedule"])
    if settings != (cell.model, cell.dataset, cell.structure, cell.schedule):
        return None
    accuracies = {(row["method"], round(row["sparsity_pct"], 1)): row["test_accuracy_pct"] for row in table["rows"]}
    accuracy = accuracies.get((cell.method, round(100 * cell.sparsity, 1)))
    if accuracy is None:
        return None
    return Published(accuracy / 100, math.nan, math.nan, accuracies[None, 0.0] / 100, "report table 5")


def _baseline(cell: Cell) -> Published | None:
    for number in (1, 2):
        for row in paper_tables()[f"table_{number}"]["rows"]:
            accuracy = row.get(f"{cell.dataset}_accuracy_pct")
            if row["key"] == cell.model and accuracy is not None:
                return Published(accuracy / 100, math.nan, math.nan, accuracy / 100, f"report table {number}")
    return None


def _of_renda(cell: Cell) -> Published | None:
    """Median of 3 trials; the percentiles follow from their minimum and maximum. Of several lengths, the longest."""
    points = renda_points()
    of_network = points[(points["network"] == cell.model) & (points["dataset"] == cell.dataset)]
    if cell.structure != "unstructured" or not len(of_network):
        return None
    if cell.schedule == "dense":
        mean = float(of_network.iloc[0]["base_test_acc_mean_pct"]) / 100
        return Published(mean, math.nan, math.nan, mean, "Renda et al. (mean of their dense runs)")
    found = of_network[
        (of_network["schedule"] == cell.schedule)
        & (of_network["method"] == cell.method)
        & ((of_network["compression"] / cell.compression - 1).abs() < TOLERANCE)
    ]
    if not len(found) or (cell.schedule == "iterative" and abs((cell.step or 0) - 0.2) > TOLERANCE):
        return None
    return _renda_row(found.sort_values("retrain_epochs").iloc[-1])


def _renda_row(point: "pd.Series[Any]") -> Published:
    low, middle, high = (float(point[f"test_acc_{name}_pct"]) for name in ("min", "median", "max"))
    return Published(
        middle / 100,
        (low + 0.2 * (middle - low)) / 100,
        (high - 0.2 * (high - middle)) / 100,
        float(point["base_test_acc_mean_pct"]) / 100,
        f"Renda et al., {point['retrain_epochs']} epochs of retraining",
        int(point["n_trials"]),
    )
