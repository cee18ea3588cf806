"""The comparisons of a study as they stand while its trials are collected: decided, or how many trials away from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rewindctl.paper.allotment import PlannedComparison
from rewindctl.paper.claims import CONTRADICTED, SUPPORTED, UNDECIDED
from rewindctl.report import sequential
from rewindctl.report.contrast import LOOKED_AT, NO_NUMBERS, looked_at_numbers, significant
from rewindctl.report.formats import Column, Table
from rewindctl.report.paired import FIRST, SECOND
from rewindctl.report.verdict_tables import INTERVAL, SMALLEST, VERDICT

SHOWN = {"worse": (CONTRADICTED, SUPPORTED), "as_good": (SUPPORTED, CONTRADICTED), "either": (FIRST, SECOND)}
NOTES = (
    f"{LOOKED_AT}: verdict and interval hold for all looks together (alpha spending, Lan and DeMets 1983), however the "
    "trials were stopped. effect: accuracy of the first minus that of the second, in percentage points, the mean over "
    "the n dense runs that have all levels of both. bound: what a verdict is for, from the claim.",
)


@dataclass(frozen=True)
class Decision:
    """A comparison, its effects by seed, and what they show. `more`: trials until a decision, infinite: over 40."""

    comparison: PlannedComparison
    effects: Mapping[int, float]
    numbers: Mapping[str, Any]
    verdict: str
    more: float

    @property
    def decided(self) -> bool:
        return self.verdict != UNDECIDED


def decide(comparison: PlannedComparison, effects: Mapping[int, float]) -> Decision:
    """Judge a comparison by its trials, in the order of their seeds, each looked at after the one before."""
    values, n = np.array(list(effects.values())), len(effects)
    if not n:
        return Decision(comparison, effects, {**NO_NUMBERS, "remark": "no trial"}, UNDECIDED, sequential.FEWEST)
    numbers = looked_at_numbers(values, comparison.bound)
    above, below = SHOWN[comparison.direction]
    shown = above if significant(numbers["p_above"]) else below if significant(numbers["p_below"]) else UNDECIDED
    needed = sequential.needed(abs(numbers["effect"] - comparison.bound), numbers["deviation"] or 0.0) if n > 1 else 0
    return Decision(comparison, effects, numbers, shown, max(needed - n, sequential.FEWEST - n, 1))


def decision_rows(decisions: list[Decision]) -> list[dict[str, Any]]:
    """Every number, unrounded; `effects` is what each seed has."""
    return [
        {
            "study": decision.comparison.study,
            "comparison": decision.comparison.name,
            "claim": decision.comparison.claim,
            "direction": decision.comparison.direction,
            "bound": decision.comparison.bound,
            "levels": len(decision.comparison.first),
            "n": len(decision.effects),
            "effects": {str(seed): value for seed, value in decision.effects.items()},
            **{name: decision.numbers[name] for name in ("effect", "low", "high", "confidence", "p_above", "p_below")},
            **{name: decision.numbers[name] for name in ("deviation", "smallest_effect", "needed")},
            "verdict": decision.verdict,
            "remark": "" if decision.decided else decision.numbers["remark"],
        }
        for decision in decisions
    ]


def decision_table(decisions: list[Decision]) -> Table:
    """The rows as people see them."""
    columns = (
        Column("comparison", lambda row: row["comparison"]),
        Column("claim", lambda row: "" if pd.isna(row["claim"]) else str(row["claim"])),
        Column("bound", lambda row: f"{row['bound']:g}"),
        Column("n", lambda row: str(row["n"])),
        Column("effect (points)", lambda row: "" if pd.isna(row["effect"]) else f"{row['effect']:+.2f}"),
        INTERVAL,
        SMALLEST,
        VERDICT,
    )
    return Table(pd.DataFrame(decision_rows(decisions)).astype(object), columns, notes=NOTES)
