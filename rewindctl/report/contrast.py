"""One way to retrain against another in one scenario: the effect, its interval, its p-values, what n trials can show.

The other is retrainings of our own, paired by dense run and level of pruning, or published trials of Renda et al. The
trial is a dense run: its effect is the mean, over the compressions that both have, of the difference of accuracy in
percentage points. See `evidence` for the tests and for what they assume.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from rewindctl.paper.claims import STATE_OF_THE_ART, at_compression, state_of_the_art
from rewindctl.pipeline.pipeline import UNTIL_DECIDED
from rewindctl.report import evidence, sequential
from rewindctl.report.cells import PRECISIONS, SETTINGS
from rewindctl.system.safe_text import finite
from rewindctl.training.recipes import default_recipe, recipes

SCENARIO = ["model", "dataset", "iterations", *SETTINGS, "schedule", "step", "dense_group", *PRECISIONS]
LEVEL_TEXT = f"{100 * evidence.LEVEL / 2:g} % each way"
LOOKED_AT = f"sign flips, a look after every trial, {LEVEL_TEXT}"
SAME_MASKS = "the same dense runs and masks"
SAME_LEVELS = "the same dense runs and levels, each chain with masks of its own"
SAME_RUNS = "the same dense runs and levels"  # rows of an older version do not name their masks
NO_PUBLISHED = "no published numbers"
NO_NUMBERS: dict[str, Any] = {
    "n": 0,
    "left_out": 0,
    "levels": 0,
    **dict.fromkeys(
        (
            "lowest",
            "highest",
            "effect",
            "low",
            "high",
            "confidence",
            "p",
            "p_above",
            "p_below",
            "deviation",
            "smallest_effect",
            "needed",
        )
    ),
}


def trials_of(frame: pd.DataFrame, accuracy: str = "final") -> pd.DataFrame:
    """The retrainings of a tidy frame with `accuracy` in percent, `delta` (from the dense run) in points, `scale`."""
    suffix = "" if accuracy == "final" else "_best"
    trials = frame[frame["method"] != "none"].assign(
        accuracy=lambda rows: 100 * rows[f"test_accuracy{suffix}"],
        delta=lambda rows: 100 * (rows[f"test_accuracy{suffix}"] - rows[f"dense_accuracy{suffix}"]),
    )
    return with_scale(trials).sort_values([*SCENARIO, "label", "sparsity_asked"], ignore_index=True)


def against_ours(first: pd.DataFrame, second: pd.DataFrame, bound: float = 0.0) -> dict[str, Any]:
    """The effect of `first` over `second`, each the rows of `trials_of` of one label in one scenario.

    `effect`, `low`, `high`, `smallest_effect`, `deviation` (of the trials' effects): percentage points. `p_above`,
    `p_below`: one-sided, that the effect is above or below `bound`; `p`: of both sides. `smallest_effect`: the
    distance from `bound` that n trials show with 80 % power, given these trials' deviation. `lowest` and `highest`
    compression of the `levels` that are averaged; `left_out` trials lack some of them. `needed`: how many trials
    would decide were the effect as it is now, `remark` says it. Trials that were added until a decision are judged as
    those that were looked at one by one, in the order of their seeds. None is what n trials do not tell.
    """
    both = levels(first, "accuracy") - levels(second, "accuracy")
    block = complete_block(both)
    row = NO_NUMBERS | {"test": f"sign flips, {LEVEL_TEXT}", "basis": _basis(first, second, block)}
    if block.empty:
        return row | {"remark": "no dense run has both"}
    effects = block.mean(axis=1).to_numpy()
    if _added_until_decided(first) or _added_until_decided(second):
        seeds = first.drop_duplicates("dense_run_id").set_index("dense_run_id")["seed"]
        return row | coverage(both, block) | looked_at_numbers(effects[np.argsort(seeds[block.index])], bound)
    row |= coverage(both, block) | _numbers(evidence.typical_values(effects), effects, float(effects.mean()), bound)
    deviation, needed = _deviation(effects), None
    row["smallest_effect"] = finite(evidence.standard_effect(len(effects)) * deviation)
    if len(effects) > 1:
        needed = evidence.needed_paired(abs(row["effect"] - bound), deviation)
    return row | _need(needed, len(effects), evidence.FEWEST_PAIRED)


def against_published(ours: pd.DataFrame, bound: float = 0.0) -> dict[str, Any]:
    """Our differences from our own dense runs against Renda et al.'s from theirs, at the compressions of both.

    Their trials are known level by level only: the smallest of each level are taken as one trial, the middle ones as
    another, the largest as the third. That is the widest that their averages can lie apart. Columns: `against_ours`;
    where they have no such numbers, `basis` is `NO_PUBLISHED` and `remark` says what they lack.
    """
    row = NO_NUMBERS | {"test": f"exchange with 3 published trials, {LEVEL_TEXT}", "basis": STATE_OF_THE_ART}
    if _added_until_decided(ours):
        row["test"] += ", valid for an n fixed beforehand (not the case here)"
    published = state_of_the_art(ours.iloc[0])
    grid = levels(ours, "delta")
    found = {float(s): at_compression(published, 1 / (1 - float(s))) for s in grid.columns.to_numpy()}
    matched = {sparsity: level for sparsity, level in found.items() if level is not None}
    block = complete_block(grid[list(matched)])
    if block.empty:
        lacking = NO_PUBLISHED if published.empty else "no published numbers at these compressions"
        return row | {"n": len(grid), "remark": lacking, "basis": NO_PUBLISHED}
    theirs = (
        pd.DataFrame([matched[float(s)] for s in block.columns.to_numpy()])[["low", "middle", "high"]].mean().to_numpy()
    )
    trials = block.mean(axis=1).to_numpy()
    values, effect = evidence.exchange_values(trials, theirs), float(trials.mean() - theirs.mean())
    row |= coverage(grid[list(block)], block) | _numbers(values, trials, effect, bound)
    deviation, needed = _deviation(trials), None
    if len(trials) > 1:
        row["smallest_effect"] = finite(evidence.smallest_against(len(trials), deviation, theirs))
        needed = evidence.needed_against(abs(effect - bound), deviation, theirs)
    return row | _need(needed, len(trials), evidence.FEWEST_AGAINST, "too close for 3 published trials")


def looked_at_numbers(effects: evidence.Array, bound: float) -> dict[str, Any]:
    """Those of `against_ours` for trials in the order in which they were looked at, each look after one more."""
    seen, deviation, effect = sequential.looked_at(effects, bound), _deviation(effects), float(effects.mean())
    needed = sequential.needed(abs(effect - bound), deviation) if len(effects) > 1 else None
    return {
        "effect": effect,
        "low": seen.low,
        "high": seen.high,
        "confidence": None if seen.low is None else 1 - evidence.LEVEL,
        "p": min(1.0, 2 * min(seen.p_above, seen.p_below)),
        "p_above": seen.p_above,
        "p_below": seen.p_below,
        "deviation": finite(deviation),
        "smallest_effect": finite(sequential.standard_effect(len(effects)) * deviation),
        "test": LOOKED_AT,
        **_need(needed, len(effects), sequential.FEWEST, f"needs over {sequential.MOST_PLANNED} trials"),
    }


def _added_until_decided(rows: pd.DataFrame) -> bool:
    """Whether some trials are there because those before did not decide."""
    return "collected" in rows and bool((rows["collected"] == UNTIL_DECIDED).any())


def significant(p: float | None) -> bool:
    """Whether a one-sided p-value decides: the 95 % interval lies wholly on that side of the bound."""
    return p is not None and p <= evidence.LEVEL / 2


def _basis(first: pd.DataFrame, second: pd.DataFrame, block: pd.DataFrame) -> str:
    """Whether the pairs that are averaged have their masks in common."""
    one, other = (
        levels(rows, "prune_run_id").reindex(index=block.index, columns=block.columns).astype(object).fillna("")
        for rows in (first, second)
    )
    if block.empty or (one == "").any(axis=None) or (other == "").any(axis=None):
        return SAME_RUNS
    return SAME_MASKS if one.equals(other) else SAME_LEVELS


def _numbers(values: evidence.Array, effects: evidence.Array, effect: float, bound: float) -> dict[str, Any]:
    """Effect, interval (none from one trial) and p-values."""
    low, high, confidence = evidence.interval(values) if len(effects) > 1 else (None, None, None)
    above, below = float(evidence.p_above(values, bound)), float(evidence.p_below(values, bound))
    return {
        "effect": effect,
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
        "confidence": confidence,
        "p": min(1.0, 2 * min(above, below)),
        "p_above": above,
        "p_below": below,
        "deviation": finite(_deviation(effects)),
    }


def _need(needed: float | None, n: int, fewest: int, never: str = "") -> dict[str, Any]:
    """How many trials would decide; one trial has no deviation to tell from, but the test has its least number."""
    if needed is None:
        return {"needed": None, "remark": f"needs at least {fewest} trials"}
    if math.isinf(needed):
        return {"needed": None, "remark": never or f"needs over {evidence.MOST_TRIALS:,} trials"}
    trials = max(int(needed), n + 1)
    return {"needed": trials, "remark": f"needs about {trials} trials"}


def _deviation(effects: evidence.Array) -> float:
    return float(effects.std(ddof=1)) if len(effects) > 1 else math.nan


def with_scale(trials: pd.DataFrame) -> pd.DataFrame:
    """`scale`: the frame's own, where it has none the iterations of the dense run by those of the usual recipe."""
    full = [
        recipes[default_recipe(model, dataset)].iterations
        for model, dataset in zip(trials["model"], trials["dataset"], strict=True)
    ]
    by_recipe = trials["iterations"] / np.array(full, dtype=float)
    return trials.assign(scale=trials["scale"].fillna(by_recipe) if "scale" in trials else by_recipe)


def levels(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """A row per dense run, a column per sparsity asked for, from the rows of one label.

    Chains of several methods can end in the same label: of such, the group with the most trials.
    """
    if (rows.groupby("sparsity_asked")["group"].nunique() > 1).any():
        sizes = rows.groupby(["sparsity_asked", "group"])["dense_run_id"].nunique().rename("trials").reset_index()
        largest = sizes.sort_values(["trials", "group"], ascending=[False, True]).drop_duplicates("sparsity_asked")
        rows = rows.merge(largest[["sparsity_asked", "group"]])
    cells = rows.dropna(subset=column).drop_duplicates(["dense_run_id", "sparsity_asked"])
    return cells.pivot(index="dense_run_id", columns="sparsity_asked", values=column)


def complete_block(grid: pd.DataFrame) -> pd.DataFrame:
    """The largest set of trials that all have the same levels: the most cells, and of equal ones the most trials.

    Each trial's own levels are tried. Which cells are there, never what they hold, decides.
    """
    present = grid.notna().to_numpy()
    of_each_trial = sorted({tuple(map(int, np.flatnonzero(row))) for row in present if row.any()})
    if not of_each_trial:
        return grid.iloc[:0]

    def size(columns: tuple[int, ...]) -> tuple[int, int]:
        trials = int(present[:, columns].all(axis=1).sum())
        return trials * len(columns), trials

    best = max(of_each_trial, key=size)
    kept = grid.iloc[np.flatnonzero(present[:, best].all(axis=1))]
    return kept[list(kept.columns[list(best)])]


def coverage(grid: pd.DataFrame, block: pd.DataFrame) -> dict[str, Any]:
    """What of `grid` is in its complete block: trials, trials left out, levels, and their compressions."""
    sparsities = block.columns.to_numpy(dtype=float)
    return {
        "n": len(block),
        "left_out": int(grid.notna().any(axis=1).sum()) - len(block),
        "levels": len(sparsities),
        "lowest": float(1 / (1 - sparsities.min())),
        "highest": float(1 / (1 - sparsities.max())),
    }
