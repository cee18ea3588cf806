"""A study's results: each of its cells once, ours and the published number beside it."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from rewindctl.datasets.inventory import facts_of
from rewindctl.paper.plan import Cell, StudyPlan, make_plan
from rewindctl.paper.request import comparisons_of
from rewindctl.paper.study import Study
from rewindctl.report.cells import PRECISIONS, SETTINGS, differences, statistics
from rewindctl.report.formats import Table
from rewindctl.report.frame import recipe_of, scale_of
from rewindctl.report.published import Against, Published, published_of
from rewindctl.report.section import Drawing, Section
from rewindctl.specs import RetrainSpec, Spec

NUMBERS = ("median", "p10", "p90", "baseline")
NAN = dict.fromkeys(NUMBERS, math.nan) | differences(math.nan, math.nan, math.nan, math.nan)
NO_RUNS: dict[str, Any] = {"n": 0, **NAN, "run_ids": "", "devices": "", "deterministic": ""}


@dataclass(frozen=True)
class StudyReport:
    """The cells of a study in its order, and the tidy rows that they are made of with those of their baselines.

    A cell whose trials are of several precisions has a row for each of them.
    A cell's columns are those of `statistics` (accuracies are fractions), `planned` (trials; 0: it was not selected),
    the same numbers
    `published_*`, and `difference` and `difference_delta`: ours minus published, in percentage points, of the median
    and of its difference from the baseline. Both are missing for scaled runs, which say nothing of the paper's.
    """

    study: Study
    cells: pd.DataFrame
    rows: pd.DataFrame
    against: Against = "report"
    accuracy: str = "final"
    data_dir: Path | None = None
    compared: tuple[tuple[str, str], ...] = ()

    @property
    def has_runs(self) -> bool:
        return bool(len(self.rows))

    @property
    def scales(self) -> list[float]:
        """The lengths of the cells over those of their recipes; [1.0] for a full-length study."""
        return sorted(set(self.cells["scale"])) if len(self.cells) else [1.0]

    @property
    def mark(self) -> str:
        """What a scaled study is marked with, as `scaled x0.01`; empty for a full-length one."""
        return "" if self.scales == [1.0] else f"scaled {', '.join(f'x{scale:.4g}' for scale in self.scales)}"

    @property
    def stem(self) -> str:
        """The start of the names of its files; a scaled study never takes the place of a full-length one."""
        return self.study.name + ("" if not self.mark else f"-{self.mark.replace(', ', '-').replace(' ', '-')}")

    def section(
        self, delta: str = "relative", tables: Sequence[str] = (), figures: Sequence[str] | None = None
    ) -> Section:
        """Its tables and figures, or those named. Raises: UnknownNameError."""
        from rewindctl.report.study_figures import OVER, study_figures
        from rewindctl.report.study_tables import study_tables

        made: dict[str, Table] = {}
        for name in tables or self.study.tables:
            made[self.stem if name == self.study.name else f"{self.stem}-{name}"] = study_tables[name](self)
        title = f"{self.study.title} ({self.study.source})" + (
            f", {self.mark}: not the paper's experiment" if self.mark else ""
        )
        drawn: dict[str, Drawing] = {}
        for name in (self.study.figures if figures is None else figures) if len(self.cells) else ():
            stem = self.stem if name in ("curves", self.study.name) else f"{self.stem}-{name}"
            kind = "curves" if name == self.study.name else name
            drawn[stem] = Drawing(title, self.cells, delta, study_figures[kind], OVER[kind])
        return Section(title, made, drawn)


def study_report(
    rows: pd.DataFrame,
    study: Study,
    *,
    scale: float = 1.0,
    trials: int | None = None,
    against: Against = "report",
    accuracy: str = "final",
    selected: Collection[str] | None = None,
    data_dir: Path | None = None,
) -> StudyReport:
    """The results that `rows` (of `tidy_frame` or `read_rows`) hold for the cells of `study` at `scale`.

    `selected`: groups of the cells that were asked for, None for all; the others show what runs they have.
    `data_dir`: where data sets are looked for first.
    The runs of a cell are those of its group: the same experiment whatever the seed. Raises: UsageError, DataError.
    """
    facts = partial(facts_of, data_dir=data_dir)
    plan = make_plan([study], facts, (0,), scale)
    groups = {cell.group for cell in plan.cells}
    own = rows[rows["group"].isin(groups)].drop_duplicates("run_id")
    by_group = dict(iter(own.groupby("group")))
    planned = trials or study.trials
    counts = {cell.group: planned if selected is None or cell.group in selected else 0 for cell in plan.cells}
    cells = [
        _cell(plan, study, cell, trials, counts[cell.group], against, accuracy)
        for cell in plan.cells
        for trials in _by_precision(by_group.get(cell.group))
    ]
    baselines = rows[rows["run_id"].isin(set(own["dense_run_id"]))]
    used = rows[rows["group"].isin(groups) | rows.index.isin(baselines.index)]
    compared = comparisons_of(study, facts, scale)
    return StudyReport(study, pd.DataFrame(cells), used, against, accuracy, data_dir, compared)


def _by_precision(trials: pd.DataFrame | None) -> list[pd.DataFrame | None]:
    """The trials of a cell, those of each precision by themselves; one None for a cell without trials."""
    if trials is None:
        return [None]
    return [of_one for _, of_one in trials.groupby(PRECISIONS, dropna=False)]


def _cell(
    plan: StudyPlan,
    study: Study,
    cell: Cell,
    trials: pd.DataFrame | None,
    planned: int,
    against: Against,
    accuracy: str,
) -> dict[str, Any]:
    stage = plan.stages[cell.stages[0]]
    dense = plan.dense_of(stage)
    scale = scale_of(dense)
    row = {
        "study": study.name,
        "panel": cell.panel,
        "model": cell.model,
        "dataset": cell.dataset,
        "iterations": dense.iterations,
        "scale": scale,
        "recipe": recipe_of(dense),
        **_pruning(cell),
        **_retraining(stage.spec),
        "schedule": cell.schedule,
        "step": cell.step,
        "method": cell.method,
        "label": cell.label,
        "sparsity_asked": cell.sparsity,
        "compression_asked": cell.compression,
        "sparsity": cell.sparsity,
        "compression": cell.compression,
        "accuracy": accuracy,
        "planned": planned,
        **{name: "" if trials is None else trials[name].iloc[0] for name in PRECISIONS},
    }
    row |= NO_RUNS if trials is None else statistics(trials, accuracy)
    known = published_of(cell, row, against)
    return row | _beside(row, known, scale) | {"group": cell.group}


def _pruning(cell: Cell) -> dict[str, Any]:
    """The settings of a cell's masks as the columns of the tidy frame; those of a dense network are empty."""
    settings = {name: getattr(cell, name) if cell.schedule != "dense" else "" for name in SETTINGS}
    return settings | {"pruned_at": math.nan if cell.pruned_at is None else cell.pruned_at}


def _retraining(spec: Spec) -> dict[str, float]:
    """Where its weights come from, where its schedule starts (missing for a constant rate), and how long it is."""
    if not isinstance(spec, RetrainSpec):
        return dict.fromkeys(("weights_iteration", "clock_start", "retraining_iterations"), math.nan)
    return {
        "weights_iteration": spec.weights_iteration,
        "clock_start": math.nan if spec.constant_lr is not None else spec.clock_start,
        "retraining_iterations": spec.iterations,
    }


def _beside(row: dict[str, Any], known: Published | None, scale: float) -> dict[str, Any]:
    """The published numbers of a cell, and ours minus theirs in points unless ours is of another length."""
    if known is None:
        numbers: dict[str, Any] = dict(NAN)
    else:
        numbers = {name: getattr(known, name) for name in NUMBERS}
        numbers |= differences(known.median, known.p10, known.p90, known.baseline)
    beside = {f"published_{name}": value for name, value in numbers.items()}
    beside |= {"published_source": known.source if known else ""}
    comparable = scale == 1.0
    beside["difference"] = 100 * (row["median"] - numbers["median"]) if comparable else math.nan
    pruned = row["schedule"] != "dense" and comparable
    beside["difference_delta"] = row["delta_points"] - numbers["delta_points"] if pruned else math.nan
    return beside
