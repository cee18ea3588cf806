"""How many trials show an effect, before any run: from the spread of published trials.

A published percentile range of n trials becomes a standard deviation of one trial by what such a range is on average
of n normal trials. The paper does not say n: taken is the fewest trials that a number of it can be made of, which
gives the largest deviation. Points without a range of their own (one trial, or hidden behind their marker) are left
out, so the deviation errs to the large side again. Two assumptions no publication can replace: methods are independent
on one baseline (trials that are paired vary together at best, so the difference varies less), and the levels of a
scenario, which are averaged, vary together wholly (many trials) or not at all (few); the truth is between.
"""

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from rewindctl.paper.allotment import PlannedComparison
from rewindctl.paper.plan import Cell
from rewindctl.report import evidence, sequential
from rewindctl.report.cells import HIGH, LOW
from rewindctl.report.formats import Column, Table
from rewindctl.report.published import spreads_of

DRAWS = 20_000
NOTES = (
    "Trials that show the effect with 80 % power at 2.5 % each way, of levels that vary together (in brackets: "
    "independently); the truth is between. Fixed: a number set beforehand and looked at once. Until decided: a look "
    "after every trial, the average, and --max-trials that is enough 4 times out of 5. "
    f"Over {sequential.MOST_PLANNED} are not computed.",
    "Deviations, in points: of one trial, from published 10th to 90th percentiles or minimum and maximum, of the "
    "fewest trials that these can be of; of a difference, of methods that are independent on one baseline. Both are "
    "more likely too large than too small.",
)


def power_rows(comparisons: Iterable[PlannedComparison], effect: float) -> list[dict[str, Any]]:
    """For each comparison the trials that show it `effect` points away from its bound; None where it is not known.

    `deviation_*` in points; `fixed`: trials of a number set beforehand; `expected` and `worst`: looked at one by one
    (`sequential.planned`); None: more than are counted. `*_independent`: the same for independent levels.
    """
    return [_row(comparison, effect) for comparison in comparisons]


def _row(comparison: PlannedComparison, effect: float) -> dict[str, Any]:
    (first, of_first), (second, of_second) = (deviation_of(side) for side in (comparison.first, comparison.second))
    together = math.hypot(first, second)
    levels = len(comparison.first)
    row: dict[str, Any] = {
        "study": comparison.study,
        "comparison": comparison.name,
        "claim": comparison.claim,
        "bound": comparison.bound,
        "effect": effect,
        "levels": levels,
        "deviation_first": first,
        "deviation_second": second,
        "published": " and ".join(sorted({*of_first, *of_second})),
    }
    for name, deviation in (("", together), ("_independent", together / math.sqrt(levels))):
        known = math.isfinite(deviation)
        fixed = evidence.needed_paired(effect, deviation) if known else math.nan
        plan = sequential.plan_for(effect, deviation) if known else sequential.Planned(math.nan, math.nan)
        numbers = {"deviation": deviation, "fixed": fixed, "expected": plan.expected, "worst": plan.worst}
        row |= {f"{key}{name}": value for key, value in numbers.items()}
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def deviation_of(cells: Iterable[Cell]) -> tuple[float, set[str]]:
    """The standard deviation of one trial in points, pooled over the published trials of cells, and whose they are."""
    points = [point for cell in cells for point in spreads_of(cell)]
    squares = [(100 * (point.p90 - point.p10)) ** 2 / square_of_range(point.trials) for point in points]
    sources = {point.source.partition(",")[0].partition(" figure")[0] for point in points}
    return (math.sqrt(sum(squares) / len(squares)) if squares else math.nan), sources


@cache
def square_of_range(n: int) -> float:
    """The mean square of the 10th to 90th percentile range of n standard normal trials; simulated."""
    draws = np.random.default_rng(0).standard_normal((DRAWS, n))
    low, high = np.quantile(draws, [LOW, HIGH], axis=1)
    return float(((high - low) ** 2).mean())


def power_table(rows: list[dict[str, Any]]) -> Table:
    """The rows as people see them."""
    columns = [
        Column("comparison", lambda row: row["comparison"]),
        Column("levels", lambda row: str(row["levels"])),
        Column("deviation of a trial", lambda row: _two(row, "deviation_first", "deviation_second", " / ")),
        Column("of a difference", lambda row: _two(row, "deviation", "deviation_independent")),
        Column("fixed", lambda row: _counts(row, "fixed")),
        Column("until decided", lambda row: _counts(row, "expected")),
        Column("--max-trials", lambda row: _counts(row, "worst")),
        Column("published by", lambda row: row["published"].replace("report", "the paper") or "nobody: no such trials"),
    ]
    return Table(pd.DataFrame(rows).astype(object), tuple(columns), notes=NOTES)


def _two(row: "pd.Series[Any]", one: str, other: str, between: str = "") -> str:
    values = ["-" if pd.isna(row[name]) else f"{row[name]:.2f}" for name in (one, other)]
    return between.join(values) if between else f"{values[0]} ({values[1]})"


def _counts(row: "pd.Series[Any]", name: str) -> str:
    if pd.isna(row["deviation"]):
        return "-"
    most = evidence.MOST_TRIALS if name == "fixed" else sequential.MOST_PLANNED
    texts = [f"over {most}" if pd.isna(value) else f"{value:.0f}" for value in (row[name], row[f"{name}_independent"])]
    return f"{texts[0]} ({texts[1]})"
