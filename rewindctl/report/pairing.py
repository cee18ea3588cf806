"""Which trials and compressions two methods have in common, and how long a training is by its recipe."""

from typing import Any

import numpy as np
import pandas as pd

from rewindctl.training.recipes import default_recipe, recipes


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
