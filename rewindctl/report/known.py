"""Trials of a plan that were run elsewhere: which rows of files are of which of its stages."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rewindctl.arithmetic import AUTO
from rewindctl.paper.allotment import TrialResult
from rewindctl.paper.plan import Cell, StudyPlan
from rewindctl.pipeline.labels import retrain_label
from rewindctl.report.cells import PRECISIONS
from rewindctl.report.frame import in_order, mask_columns, recipe_of
from rewindctl.report.rows import RUN, TRIAL, Files
from rewindctl.report.runs import SAME
from rewindctl.specs import PruneSpec, RetrainSpec

EQUAL = (
    *("model", "dataset", "iterations", "recipe"),
    *("structure", "scope", "criterion", "channel_norm", "exclude"),
    *("level", "label"),
)
CLOSE = ("sparsity_asked", "pruned_at")


@dataclass(frozen=True)
class Known:
    """What files have of a plan: the results of its cells' stages, and the files that have none."""

    files: Files
    results: Mapping[str, TrialResult]
    strangers: tuple[Path, ...]


@dataclass(frozen=True)
class _Training:
    """A training of a plan, whatever its seed, as a row shows it; `before`: the group of the level before it."""

    group: str
    dense_group: str
    before: str | None
    step: float | None
    data_digest: str
    columns: Mapping[str, Any]

    def is_of(self, row: Mapping[str, Any]) -> bool:
        """Whether a row, whose columns of `EQUAL` are these, is of this training."""
        numbers = [(row[name], self.columns[name]) for name in CLOSE]
        numbers += [(row["step"], self.step)] if self.before else []  # a first level is the same whatever follows
        return row["data_digest"] in ("", self.data_digest) and all(_close(*pair) for pair in numbers)


def known_of(files: Files, plan: StudyPlan, precision: str = AUTO) -> Known:
    """What of a plan is known from files. `precision`: the one asked for, `auto` for any.

    A row is of a stage when its settings are, whatever group its registry gave it: hashes differ between versions. A
    level after the first is known only with the levels before it, for its own columns do not say what those were.
    """
    rows = _renamed(files.rows, _names(files.rows, plan))
    counted = rows if precision == AUTO else rows[(rows[PRECISIONS] == precision).all(axis=1)]
    columns = ["group", "seed", "dense_run_id", "test_accuracy", "precision"]
    found: dict[tuple[str, int], TrialResult] = {}
    for group, seed, *result in counted[columns].itertuples(index=False):
        found.setdefault((group, seed), TrialResult(*result))
    trials = {key: (cell.group, plan.dense_of(plan.stages[key]).seed) for cell in plan.cells for key in cell.stages}
    results = {key: found[trial] for key, trial in trials.items() if trial in found}
    own = set(rows["run_id"][rows["group"].isin({cell.group for cell in plan.cells})])
    return Known(files, results, tuple(path for path, runs in files.runs.items() if not runs & own))


def together(own: pd.DataFrame, theirs: pd.DataFrame, plan: StudyPlan) -> pd.DataFrame:
    """The rows of a registry and those of files, each run and each trial once, the registry's first.

    Rows of the plan's trainings get its groups. What is in the registry twice stays so.
    """
    parts = [part for part in (own, theirs) if len(part)] or [theirs]
    both = _renamed(pd.concat(parts, ignore_index=True), _names(theirs, plan))
    doubles = both.duplicated([*RUN]) | both.duplicated([*TRIAL])
    return in_order(both[~doubles | (both.index < len(own))])


def _renamed(rows: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    columns = ("group", "dense_group")
    return rows.assign(**{column: rows[column].map(lambda name: names.get(name, name)) for column in columns})


def _names(rows: pd.DataFrame, plan: StudyPlan) -> dict[str, str]:
    """The plan's group for each group of rows that is of one of its trainings."""
    wanted = _trainings(plan)
    names = {one.group: one.group for trainings in wanted.values() for one in trainings}
    chains: set[tuple[str, float, str]] = set()  # levels that were recognised: of which baseline, step and group
    for _, level in rows.drop_duplicates(["group", "dense_run_id", "step"]).groupby("level"):
        records: list[dict[str, Any]] = [
            {str(name): value for name, value in row.items()} for row in level.to_dict("records")
        ]
        alike: dict[tuple[str, str], set[str]] = defaultdict(set)
        for row in records:
            for one in wanted.get(tuple(row[name] for name in EQUAL), ()):
                if one.is_of(row) and (not one.before or (row["dense_run_id"], row["step"], one.before) in chains):
                    alike[row["dense_run_id"], one.group].add(row["group"])
                    names.setdefault(row["dense_group"], one.dense_group)
        for (_, group), groups in alike.items():
            if len(groups) == 1:  # of several, as of chains that began in two ways, nothing tells which one it is
                names.setdefault(groups.pop(), group)
        chains |= {(row["dense_run_id"], row["step"], names.get(row["group"], "")) for row in records}
    return names


def _trainings(plan: StudyPlan) -> dict[tuple[Any, ...], list[_Training]]:
    """The trainings of a plan's cells and those on the way to them, by their columns of `EQUAL`."""
    found: dict[tuple[Any, ...], list[_Training]] = {}
    for cell in plan.cells:
        for one in _chain(plan, cell):
            same = found.setdefault(tuple(one.columns[name] for name in EQUAL), [])
            if one not in same:
                same.append(one)
    return found


def _chain(plan: StudyPlan, cell: Cell) -> list[_Training]:
    """The baseline of a cell and the retrainings down to it."""
    keys = plan.lineage(cell.stages[0])[::-1]
    dense = plan.dense_of(plan.stages[keys[0]])
    specs = [plan.stages[key].spec for key in keys]
    masks = [spec for spec in specs if isinstance(spec, PruneSpec)]
    found = []
    for level, key in enumerate(keys[::2]):
        spec, mask = plan.stages[key].spec, masks[level - 1] if level else None
        columns = {
            "model": dense.model,
            "dataset": dense.dataset,
            "iterations": dense.iterations,
            "recipe": recipe_of(dense),
            **mask_columns(mask),
            "level": level,
            "label": retrain_label(spec) if isinstance(spec, RetrainSpec) else "none",
            "sparsity_asked": mask.sparsity if mask else 0.0,
            "pruned_at": masks[0].iteration if mask else None,
        }
        before = plan.groups[keys[2 * level - 2]] if level > 1 else None
        groups = plan.groups[key], plan.groups[keys[0]]
        found.append(_Training(*groups, before, cell.step, dense.data_digest, columns))
    return found


def _close(value: float | None, wanted: float | None) -> bool:
    """Whether two numbers are one, or both are missing."""
    if wanted is None or value is None or pd.isna(value):
        return wanted is None and (value is None or pd.isna(value))
    return abs(value - wanted) <= SAME["sparsity"] * abs(wanted)
