"""The best of several settings against one other way to retrain, without being too good by the choice.

The largest of several means is too large by its noise. So the interval holds for every setting at once, and with it
for whichever comes out best: the distance between a setting's mean and its true effect, the largest over all settings,
is tested by changing the signs of whole trials, the same for all settings, which keeps what settings have in common.
Source: Westfall and Young 1993, "Resampling-based multiple testing" (the maximum over all comparisons);
`evidence` for the changes of sign and what they assume.

With d the differences (trials by settings), m their means and T the largest |m - truth|: a change of the signs of the
trials F, at most half of them, brings the largest mean of d - truth up to T only where the mean of d over F is T or
more from m in some setting. So the changes that can do it are counted without the truth, and the count is never too
small: an interval m +- c holds for all settings in at least 95 % of repeats.
"""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from rewindctl.errors import RewindError
from rewindctl.paper.claims import UNDECIDED
from rewindctl.paper.plan import pruning_name
from rewindctl.report import evidence
from rewindctl.report.contrast import NO_NUMBERS, SAME_RUNS, SCENARIO, complete_block, levels, trials_of
from rewindctl.report.paired import FIRST, SECOND, side_of
from rewindctl.report.tables import method_name, precision_name

LEGEND = (
    "best of k: of all settings of the method that were run, the one with the highest mean. Its interval, p and "
    "verdict allow for the choice: they hold for all k settings at once. The effect itself is slightly too high."
)


def best_of(frame: pd.DataFrame, method: str, second: str, *, accuracy: str = "final") -> pd.DataFrame:
    """The best setting of `method` against `second` in each scenario that has both, with the columns of `paired`.

    Settings and trials are the largest set in which every trial has every setting. Raises: UsageError for what no
    retraining is, RewindError where no scenario has both.
    """
    trials = trials_of(frame, accuracy)
    other = side_of(trials, second).rows
    own = trials[(trials["method"] == method) & ~trials.index.isin(other.index)]
    rows = []
    for _, scenario in trials.groupby([*SCENARIO, "scale"], dropna=False, sort=False):
        settings, against = (scenario[scenario.index.isin(side.index)] for side in (own, other))
        if len(settings) and len(against):
            rows.append(_row(settings, against))
    if not rows:
        raise RewindError(
            f"no scenario has both {method!r:.200} and {second!r:.200}", "retrain the same masks both ways"
        )
    return pd.DataFrame(rows)


def _row(settings: pd.DataFrame, against: pd.DataFrame) -> dict[str, Any]:
    theirs = levels(against, "accuracy")
    grid = pd.DataFrame(
        {
            label: (levels(trials, "accuracy") - theirs).mean(axis=1, skipna=False)
            for label, trials in settings.groupby("label")
        }
    )
    block = complete_block(grid.dropna(how="all"))
    head, other = settings.iloc[0], against.iloc[0]
    row = {column: head[column] for column in [*SCENARIO, "scale"]} | NO_NUMBERS
    row |= {"pruning": pruning_name(head), "precisions": precision_name(head), "basis": SAME_RUNS, "verdict": UNDECIDED}
    row |= {"second": method_name(other["method"], other["label"]), "second_label": other["label"]}
    if block.empty:
        return row | {
            "first": f"best of {grid.shape[1]}: {method_name(head['method'], head['method'])}",
            "first_label": "",
            "test": "",
            "remark": "no dense run has both",
        }
    best = str(block.mean().idxmax())
    compressions = 1 / (1 - theirs.columns.to_numpy(dtype=float))
    return row | {
        "first": f"best of {block.shape[1]}: {method_name(head['method'], best)}",
        "first_label": best,
        "test": f"sign flips of {block.shape[1]} settings at once, {100 * evidence.LEVEL:g} %",
        "left_out": len(grid) - len(block),
        "levels": len(compressions),
        "lowest": float(compressions.min()),
        "highest": float(compressions.max()),
        **verdict_on(block.to_numpy(), list(block.columns).index(best)),
    }


def verdict_on(differences: evidence.Array, best: int) -> dict[str, Any]:
    """Numbers and verdict on the column `best`, the one of the highest mean, of (trials, settings) in points.

    `second better`: every setting is worse, since the best is.
    """
    n, effect = len(differences), float(differences.mean(axis=0)[best])
    if n < 2:
        return {"n": n, "effect": effect, "remark": f"needs at least {evidence.FEWEST_PAIRED} trials"}
    distances = _distances(differences)
    width, confidence = half_width(distances)
    p = float((1 + (distances >= abs(effect) - evidence.TOLERANCE).sum()) / (len(distances) + 1))
    deviation = float(differences[:, best].std(ddof=1))
    reachable = n >= evidence.FEWEST_PAIRED
    smallest = width + NormalDist().inv_cdf(evidence.POWER) * deviation / math.sqrt(n) if reachable else None
    decided = p <= evidence.LEVEL
    return {
        "n": n,
        "effect": effect,
        "low": effect - width,
        "high": effect + width,
        "confidence": confidence,
        "p": p,
        "deviation": deviation,
        "smallest_effect": smallest,
        "verdict": UNDECIDED if not decided else FIRST if effect > 0 else SECOND,
        "remark": "" if decided else _need(n, abs(effect), smallest),
    }


def half_width(distances: evidence.Array) -> tuple[float, float]:
    """How far a true effect may be from its mean, for all settings at once; the confidence: 0.95 where reachable."""
    count = len(distances) + 1
    rank = max(1, math.floor(evidence.LEVEL * count + evidence.TOLERANCE) - 1)
    return float(np.sort(distances)[::-1][rank]), min(1 - evidence.LEVEL, 1 - 2 / count)


def _distances(differences: evidence.Array) -> evidence.Array:
    """For each change of signs but none: how far its trials' mean is from that of all, the largest over settings.

    Of the trials that change and those that do not, the fewer; infinite where all change, which changes nothing.
    """
    trials = len(differences)
    changed = evidence.typical_values(np.eye(trials)) > 0  # (trials, changes)
    sums = np.abs((differences - differences.mean(axis=0)).T @ changed).max(axis=0)
    fewer = np.minimum(changed.sum(axis=0), trials - changed.sum(axis=0))
    return np.where(fewer > 0, sums / np.maximum(fewer, 1), np.inf)


def _need(n: int, effect: float, smallest: float | None) -> str:
    """How many trials would decide were the effect as it is: intervals narrow as the root of the number of trials."""
    if smallest is None:
        return f"needs at least {evidence.FEWEST_PAIRED} trials"
    needed = n * (smallest / effect) ** 2 if effect > 0 else math.inf
    if needed > evidence.MOST_TRIALS:
        return f"needs over {evidence.MOST_TRIALS:,} trials"
    return f"needs about {max(math.ceil(needed), n + 1)} trials"
