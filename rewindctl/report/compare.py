"""The comparison as a whole: runs to cells to tables and figures, and to files."""

import math
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from rewindctl.catalog import unknown
from rewindctl.counting import count_of
from rewindctl.datasets.files import require_dataset
from rewindctl.datasets.inventory import facts_of
from rewindctl.errors import RewindError, UsageError
from rewindctl.paper.plan import check_scale, make_plan
from rewindctl.paper.study import load_study, shipped
from rewindctl.registry import Registry
from rewindctl.report.cells import PRECISIONS, SETTINGS, summarise
from rewindctl.report.claims import MARGIN, verdicts
from rewindctl.report.figures import figures
from rewindctl.report.formats import Table, formats
from rewindctl.report.frame import Network, tidy_frame
from rewindctl.report.known import together
from rewindctl.report.page import how_made, html_page, markdown_page
from rewindctl.report.paired import pair_table, paired
from rewindctl.report.published import Against
from rewindctl.report.rows import Files
from rewindctl.report.section import Drawing, Section, tables_text, write_files, write_texts
from rewindctl.report.study import StudyReport, study_report
from rewindctl.report.study_figures import study_figures
from rewindctl.report.study_tables import study_tables
from rewindctl.report.tables import method_name, tables
from rewindctl.report.verdict_tables import claims_table

DEFAULT_OUTPUT = Path("plots")
PANEL_OF_CELL = ("model", "dataset", "iterations", *SETTINGS, *PRECISIONS, "dense_group", "sparsity_asked")


@dataclass(frozen=True)
class Wanted:
    """What is to be compared and how it is shown.

    Without studies it is whatever runs there are; a figure or table of the paper names its study. `scale`, `against`,
    `trials` (planned) and `selected` (groups of the cells that are wanted, None for all) are those of studies;
    `data_dir`: where their data sets are looked for first.
    """

    studies: tuple[str, ...] = ()
    table: str | None = None
    figure: str | None = None
    format: str = "text"
    against: Against = "report"
    scale: float = 1.0
    trials: int | None = None
    accuracy: str = "final"
    delta: str = "relative"
    model: str | None = None
    dataset: str | None = None
    report: bool = False
    claims: bool = False
    margin: float = MARGIN
    selected: frozenset[str] | None = None
    pair: tuple[str, str] | None = None
    data_dir: Path | None = None

    def names(self) -> tuple[str, ...]:
        """The studies asked for, by a figure's or table's name too."""
        implied = [self.figure] if self.figure in _own_figures() else []
        if not self.studies and self.table in shipped():
            implied.append(self.table)
        return tuple(dict.fromkeys([*self.studies, *(name for name in implied if name)]))

    def networks(self) -> set[Network]:
        """The networks and data sets whose runs can matter."""
        panels = {(panel.model, panel.dataset) for name in self.names() for panel in load_study(name).panels}
        asked = (self.model, self.dataset)
        return {pair for pair in panels if all(map(_agree, pair, asked))} if self.names() else {asked}

    def check(self) -> None:
        """Refuse unknown names before a store is opened. Raises: UsageError."""
        formats[self.format]
        if not math.isfinite(self.margin):
            raise UsageError(f"--margin {self.margin} is not a number of points", "give a number such as 0.1")
        if self.claims and self.table is not None:
            raise UsageError(f"both --claims and --table {self.table} are given", "give one of the two")
        other = "--claims" if self.claims else f"--table {self.table}" if self.table is not None else ""
        if self.pair is not None and other:
            raise UsageError(f"both --pair and {other} are given", "give one of the two")
        check_scale(self.scale)
        names = self.names()
        for name in names:
            load_study(name)
        if self.table is not None and self.table not in names:
            _require("table", self.table, study_tables if names else tables, study_tables)
        if self.figure is not None and self.figure not in names:
            _require("figure", self.figure, study_figures if names else figures, [*study_figures, *_own_figures()])


def _require(kind: str, name: str, allowed: Iterable[str], others: Iterable[str]) -> None:
    """Raises: UnknownNameError with the nearest of all names that there are."""
    if name in allowed:
        return
    raise unknown(f"unknown {kind}", name, sorted({*allowed, *others}))


@dataclass(frozen=True)
class ComparisonReport:
    """The rows, the cells of all of them, the reports of the studies, and what is shown."""

    wanted: Wanted
    rows: pd.DataFrame
    cells: pd.DataFrame
    reports: tuple[StudyReport, ...]
    sections: tuple[Section, ...]
    source: str = ""

    @property
    def text(self) -> str:
        """The tables as they are printed; of a report of everything the first, the rest is in its files."""
        shown = self.sections if self.wanted.names() and not self.wanted.pair else self.sections[:1]
        return tables_text({stem: table for part in shown for stem, table in part.tables.items()}, self.wanted.format)

    def write(self, output: Path | None) -> list[Path]:
        """With a folder, a figure or a report: the files. Raises: UsageError."""
        if output is None and self.wanted.figure is None and not self.wanted.report:
            return []
        return self.write_files((output or DEFAULT_OUTPUT).absolute(), self.wanted.report)

    def write_files(self, folder: Path, pages: bool) -> list[Path]:
        """Figures, tables and `runs.csv` (a row per run), and `report.md` and `.html`. Raises: UsageError."""
        paths = write_files(folder, self.sections, self.wanted.format, self.rows)
        if not pages:
            return paths
        made, claims = how_made(self.rows, self.source, self.commands()), self._claims()
        texts = {
            "report.md": markdown_page(self.sections, made, claims),
            "report.html": html_page(self.sections, made, claims),
        }
        return [*paths, *write_texts(folder, texts)]

    def _claims(self) -> Table | None:
        """The verdicts for a page, where two methods can be compared at all."""
        try:
            return claims_table(verdicts(self.rows, self.wanted.margin, self.wanted.accuracy), self.wanted.accuracy)
        except RewindError:
            return None

    def commands(self) -> list[str]:
        """The command lines that make the runs, where they are those of studies, and draw them."""
        wanted = self.wanted
        scale = "" if wanted.scale == 1 else f" --scale {wanted.scale:g}"
        names = [report.study.name for report in self.reports]
        runs = [f"rewindctl reproduce {name}{scale}" for name in names]
        options = [f"--study {name}" for name in names] + [
            f"--against {wanted.against}",
            f"--accuracy {wanted.accuracy}",
        ]
        options += [shlex.join(["--pair", *wanted.pair])] if wanted.pair else []
        return [*runs, " ".join(["rewindctl compare --report", *options]) + scale + f" --delta {wanted.delta}"]


def compare(source: Registry | Files, wanted: Wanted, known: Files | None = None) -> ComparisonReport:
    """Compare the finished retrainings of the registry's experiment, or the rows of CSV files.

    `known`: files whose rows of the studies wanted are added to those of a registry.
    Raises: UsageError, and RewindError saying which runs are needed where there is nothing to compare.
    """
    wanted.check()
    rows = _rows(source, wanted, known)
    name = source.name if isinstance(source, Files) else f"experiment {source.experiment}"
    if wanted.names():
        name += f" and {known.name}" if known and known.runs else ""
        return replace(_compare_studies(rows, wanted), source=name)
    if not (rows["method"] != "none").any():
        raise nothing_to_compare(source, rows, wanted.model, wanted.dataset)
    cells = summarise(rows, wanted.accuracy)
    sections = _question(rows, wanted)
    if not sections or wanted.figure or (wanted.pair and wanted.report):
        sections.append(general_section(cells, wanted))
    reports = (
        [report for report in make_reports(rows, _report_studies(), wanted) if report.has_runs] if wanted.report else []
    )
    sections += [report.section(wanted.delta) for report in reports]
    return ComparisonReport(wanted, rows, cells, tuple(reports), tuple(sections), name)


def _agree(one: str | None, other: str | None) -> bool:
    return None in (one, other) or one == other


def rows_of(source: Registry | Files, networks: Collection[Network]) -> pd.DataFrame:
    """A row per result of the networks. Raises: UsageError, RewindError."""
    if not isinstance(source, Files):
        return tidy_frame(source, networks)
    rows = source.rows
    pairs = zip(rows["model"], rows["dataset"], strict=True)
    chosen = [any(all(map(_agree, pair, network)) for network in networks) for pair in pairs]
    return rows[chosen].reset_index(drop=True)


def _rows(source: Registry | Files, wanted: Wanted, known: Files | None) -> pd.DataFrame:
    """The rows wanted; those of files have the groups of the studies that they are of. Raises: UsageError, DataError"""
    networks = wanted.networks()
    rows, files = rows_of(source, networks), known or source
    if not isinstance(files, Files) or not files.runs or not wanted.names():
        return rows
    studies = [load_study(name) for name in wanted.names()]
    plan = make_plan(studies, partial(facts_of, data_dir=wanted.data_dir), (0,), wanted.scale)
    return together(rows if known else rows.iloc[:0], rows_of(files, networks), plan)


def _compare_studies(rows: pd.DataFrame, wanted: Wanted) -> ComparisonReport:
    reports = make_reports(rows, wanted.names(), wanted)
    own = wanted.names()
    chosen = () if wanted.table is None or wanted.table in own else (wanted.table,)
    drawn = None if wanted.figure is None or wanted.figure in own else (wanted.figure,)
    sections = tuple(report.section(wanted.delta, chosen, drawn) for report in reports)
    used = rows[rows["run_id"].isin({run_id for report in reports for run_id in report.rows["run_id"]})]
    if question := _question(used, wanted):
        sections = (*question, *(sections if wanted.figure or (wanted.pair and wanted.report) else ()))
    return ComparisonReport(wanted, used, summarise(used, wanted.accuracy), reports, sections)


def make_reports(rows: pd.DataFrame, names: Sequence[str], wanted: Wanted) -> tuple[StudyReport, ...]:
    """The report of each study. Raises: UsageError, DataError."""
    return tuple(
        study_report(
            rows,
            load_study(name),
            scale=wanted.scale,
            trials=wanted.trials,
            selected=wanted.selected,
            against=wanted.against,
            accuracy=wanted.accuracy,
            data_dir=wanted.data_dir,
        )
        for name in names
    )


def _question(rows: pd.DataFrame, wanted: Wanted) -> list[Section]:
    """The claims or the pair asked for, if any."""
    if wanted.pair is not None:
        return [pair_section(rows, wanted.pair, wanted.accuracy)]
    return [claims_section(rows, wanted)] if wanted.claims else []


def pair_section(rows: pd.DataFrame, pair: tuple[str, str], accuracy: str = "final") -> Section:
    """Two ways to retrain against each other, a row per scenario. Raises: RewindError, UsageError."""
    table = pair_table(paired(rows, *pair, accuracy=accuracy), accuracy)
    name = "pair" if accuracy == "final" else "pair-best"
    return Section(f"{pair[0]} against {pair[1]}", {name: table}, {})


def claims_section(rows: pd.DataFrame, wanted: Wanted) -> Section:
    """The verdicts on the claims. Raises: RewindError, UsageError."""
    table = claims_table(verdicts(rows, wanted.margin, wanted.accuracy), wanted.accuracy)
    name = "claims" if wanted.accuracy == "final" else "claims-best"
    return Section("The paper's claims", {name: table}, {})


def general_section(cells: pd.DataFrame, wanted: Wanted) -> Section:
    """One table of whatever runs there are, and the figure if one is asked for."""
    name = wanted.table or "results"
    made: dict[str, Table] = {name if wanted.accuracy == "final" else f"{name}-best": tables[name](cells)}
    title = "All runs"
    figure = wanted.figure or ("curves" if wanted.report else None)
    drawn = {figure: Drawing(title, cells, wanted.delta, figures[figure])} if figure else {}
    return Section(title, made, drawn)


def first_claim(cells: pd.DataFrame) -> str:
    """What the cells say of the paper's first claim: fine-tuning's median minus that of each rewinding, in points."""
    lines = ["The paper's first claim is that fine-tuning is worse than both kinds of rewinding. Here its median is"]
    one_shot = cells[cells["schedule"] == "one_shot"]
    panels = one_shot[[*PANEL_OF_CELL]].astype(object).fillna("")  # a missing value equals no other
    for place in (one_shot["method"] == "finetune").to_numpy().nonzero()[0]:
        tuned = one_shot.iloc[place]
        same = (panels == panels.iloc[place]).all(axis=1)
        gaps = [
            f"{100 * (tuned['median'] - other['median']):+.2f} points against "
            f"{method_name(other['method'], other['label'])}"
            for _, other in one_shot[same & (one_shot["method"] != "finetune")].iterrows()
        ]
        lines.append(f"  at {tuned['compression']:.4g}x: {', '.join(gaps)} (n = {tuned['n']})")
    return "\n".join(lines)


def _report_studies() -> list[str]:
    """The studies that a report of everything looks for: all that are shipped and have runs of their own."""
    return [name for name, study in shipped().items() if study.panels]


def _own_figures() -> list[str]:
    """The paper's figures, each the name of its study."""
    return [name for name, study in shipped().items() if study.part_of_paper and study.figures]


def nothing_to_compare(
    source: Registry | Files, rows: pd.DataFrame, model: str | None, dataset: str | None
) -> RewindError:
    """Which of the three kinds of run is missing, and the command that makes the next one.

    Raises: UsageError for a network or a data set that there is not.
    """
    _require_names(source, model, dataset)
    of = " ".join(filter(None, (model and f"of {model}", dataset and f"on {dataset}")))
    if isinstance(source, Files):
        return RewindError(
            f"nothing to compare {of}{' ' if of else ''}in {source.name}", "there is no row of a retraining"
        )
    prunes = [run for run in source.search(kind="prune") if run.finished and run.dense_run_id in set(rows["run_id"])]
    if len(rows) == 0:
        hint = f"first: rewindctl train-dense --model {model or 'resnet8'} --dataset {dataset or 'digits'} --seeds 0-2"
    elif not prunes:
        hint = f"next: rewindctl prune --parent {rows['run_id'].iloc[0]} --compression 20"
    else:
        hint = f"next: rewindctl retrain --parent {prunes[0].run_id} --method lr_rewind"
    orphans = [run for run in source.search(kind="retrain") if run.finished]  # with a lineage each would be a row
    found = f"{len(rows)} dense, {len(prunes)} prune and 0 retrain runs are finished"
    if orphans and not (model or dataset):
        found += f", and {count_of(len(orphans), 'retrain run')} whose parent or dense run is gone"
        gone = f"see what is gone: rewindctl lineage {orphans[0].run_id}"
        hint = f"{gone}; restore it (mlflow runs restore --run-id), or {hint}"
    return RewindError(f"nothing to compare {of}{' ' if of else ''}in experiment {source.experiment!r}: {found}", hint)


def _require_names(source: Registry | Files, model: str | None, dataset: str | None) -> None:
    """Raises: UsageError for a name that no run has and that is none of ours; a run may have a plug-in's."""
    from rewindctl.models import models

    def in_runs(column: str, name: str) -> bool:
        return name in set(source.rows[column]) if isinstance(source, Files) else bool(source.search(**{column: name}))

    if model is not None and not in_runs("model", model):
        models[model]
    if dataset is not None and not in_runs("dataset", dataset):
        require_dataset(dataset, None)
