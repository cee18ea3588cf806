"""Tables of a study in the paper's forms: ours, published, difference and n in each."""

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from rewindctl.catalog import Catalog
from rewindctl.datasets.inventory import facts_of
from rewindctl.errors import DataError
from rewindctl.models import kernels, models
from rewindctl.models.network import NetworkConfig
from rewindctl.paper.reference import DEVICE_OF_PAPER, paper_tables
from rewindctl.report.cells import PRECISIONS
from rewindctl.report.formats import Column, Table, percent, signed, spread
from rewindctl.report.tables import DATA, NETWORK, PRUNING, RETRAINING, own_spread, precision_columns

if TYPE_CHECKING:
    from rewindctl.report.study import StudyReport

study_tables: Catalog[Callable[["StudyReport"], Table]] = Catalog("table of a study")


@study_tables.register("cells")
def cells(report: "StudyReport") -> Table:
    """Every cell of a study: medians, spreads and differences, ours and published."""
    return _table(
        report,
        report.cells,
        NETWORK,
        DATA,
        PRUNING,
        RETRAINING,
        Column("compression", lambda row: f"{row['compression_asked']:.4g}x"),
        N,
        *_accuracies(report),
        *_deltas(report),
    )


@study_tables.register("verdicts")
def verdicts(report: "StudyReport") -> Table:
    """The comparisons of a study, each with its effect, interval and verdict in every scenario."""
    from rewindctl.report.study_verdicts import verdict_table

    return verdict_table(report, _caption(report))


@study_tables.register("table5")
def table5(report: "StudyReport") -> Table:
    """The form of the paper's table 5: a row per retraining and sparsity."""
    sparsity = Column("sparsity %", lambda row: f"{100 * row['sparsity_asked']:.1f}")
    return _table(report, report.cells, NETWORK, RETRAINING, sparsity, N, *_accuracies(report), *_deltas(report))


@study_tables.register("table1")
@study_tables.register("table2")
def networks(report: "StudyReport") -> Table:
    """The form of the paper's tables 1 and 2: parameters, counted in the network, and the dense accuracy."""
    published = {row["key"]: row for number in (1, 2) for row in paper_tables()[f"table_{number}"]["rows"]}
    rows = _dense(report)
    for ours, theirs in (("parameters", "trainable_parameters"), ("kernel_parameters", "kernel_parameters")):
        index = 0 if ours == "parameters" else 1
        rows[ours] = [_parameters(report, row)[index] for _, row in rows.iterrows()]
        rows[f"published_{ours}"] = [  # the published counts are those of heads with 10 outputs
            published.get(row["model"], {}).get(theirs, math.nan) if row["dataset"] == "cifar10" else math.nan
            for _, row in rows.iterrows()
        ]
    counts = [
        Column(heading, lambda row, key=key: _count(row[key]))  # type: ignore[misc]
        for heading, key in (
            ("parameters", "parameters"),
            ("published parameters", "published_parameters"),
            ("kernel parameters", "kernel_parameters"),
            ("published kernel parameters", "published_kernel_parameters"),
        )
        if report.against == "report" or not key.startswith("published")
    ]
    return _table(report, rows, NETWORK, DATA, *counts, N, *_accuracies(report))


@study_tables.register("table3")
def data_sets(report: "StudyReport") -> Table:
    """The form of the paper's table 3: sizes of the data sets, ours from the data where it is here."""
    from rewindctl.datasets.files import load_dataset

    rows = []
    for row in paper_tables()["table_3"]["rows"]:
        try:
            data = load_dataset(row["key"], report.data_dir)
        except DataError:
            data = None
        theirs = (
            row["training_examples"],
            row["validation_examples"],
            row["classes"],
            "x".join(map(str, row["resolution"])),
        )
        ours = (
            (data.train_size, len(data.test_images), data.classes, "x".join(map(str, data.image_size)))
            if data
            else None
        )
        for name, own, published in zip(
            ("training images", "test images", "classes", "resolution"), ours or (None,) * 4, theirs, strict=True
        ):
            rows.append(
                {"dataset": row["key"], "fact": name, "ours": own, "published": published, "n": int(data is not None)}
            )
    frame = pd.DataFrame(rows)
    columns = (
        DATA,
        Column("", lambda row: row["fact"]),
        Column("ours", lambda row: "data not here" if row["ours"] is None else _fact(row["ours"])),
        Column("published", lambda row: _fact(row["published"])),
        Column(
            "difference",
            lambda row: "" if row["ours"] is None else "none" if row["ours"] == row["published"] else "DIFFERS",
        ),
        Column("n", lambda row: str(row["n"])),
    )
    return Table(frame, columns, _caption(report), ("n: copies of the data set counted here.",))


@study_tables.register("table4")
def times(report: "StudyReport") -> Table:
    """The form of the paper's table 4: updates a second and minutes of a training cycle, a row per device."""
    published = {row["key"]: row for row in paper_tables()["table_4"]["rows"]}
    rows = []
    for _, cell in _dense(report).iterrows():
        theirs = published.get(cell["model"], {}) if cell["dataset"] == "cifar10" and report.against == "report" else {}
        trials = report.rows[report.rows["run_id"].isin(cell["run_ids"].split())]
        timed = trials[trials["iterations_per_second"].notna()]
        for device, speeds in (
            timed.groupby("device", dropna=False)["iterations_per_second"] if len(timed) else [("", None)]
        ):
            rows.append(_time_row(cell, str(device or ""), speeds, theirs, report))
    frame = pd.DataFrame(rows)
    columns = (
        NETWORK,
        DATA,
        Column("device", lambda row: row["device"] or ("unknown" if row["n"] else _empty(row))),
        N,
        *(
            Column(f"{heading}{unit}", lambda row, key=key: _decimal(row[key]))  # type: ignore[misc]
            for unit, name in ((" it/s", "iterations_per_second"), (" min", "minutes"))
            for heading, key in (
                ("ours", name),
                ("published", f"published_{name}"),
                ("difference", f"difference_{name}"),
            )
        ),
    )
    notes = (
        f"Published: {DEVICE_OF_PAPER}. Minutes are those of a baseline's iterations at the median speed of n runs.",
    )
    return Table(frame, _with_precision(frame, columns), _caption(report), (*notes, *_notes(report, frame)))


def _time_row(cell: Any, device: str, speeds: Any, theirs: dict[str, Any], report: "StudyReport") -> dict[str, Any]:
    speed = float(speeds.median()) if speeds is not None else math.nan
    ours = {"iterations_per_second": speed, "minutes": cell["iterations"] / speed / 60}
    published = {
        "iterations_per_second": theirs.get("iterations_per_second", math.nan),
        "minutes": theirs.get("training_cycle_minutes", math.nan),
    }
    own = ("model", "dataset", "iterations", "scale", *PRECISIONS, "planned", "run_ids")
    row: dict[str, Any] = {key: cell[key] for key in own}
    row |= {"device": device, "n": 0 if speeds is None else len(speeds)}
    for key, value in ours.items():
        difference = value - published[key] if cell["scale"] == 1 else math.nan
        row |= {key: value, f"published_{key}": published[key], f"difference_{key}": difference}
    return row


def _table(report: "StudyReport", rows: pd.DataFrame, *columns: Column) -> Table:
    return Table(rows, _with_precision(rows, columns), _caption(report), _notes(report, rows))


def _with_precision(rows: pd.DataFrame, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """The precision before n, where the rows are of several."""
    at = columns.index(N)
    return (*columns[:at], *precision_columns(rows), *columns[at:])


def _caption(report: "StudyReport") -> str:
    """What is shown beside what, and first of all whether it is scaled."""
    beside = {"report": "beside the paper", "renda": "beside Renda et al.", "none": "alone"}[report.against]
    mark = f"{report.mark.upper()}, not the paper's experiment: " if report.mark else ""
    return f"{mark}{report.study.name}: {report.study.title} ({report.study.source}), ours {beside}"


def _notes(report: "StudyReport", rows: pd.DataFrame) -> tuple[str, ...]:
    notes = []
    if len(rows) and (rows["n"] < rows["planned"]).any():
        notes.append("n = a/b: a of b planned trials are finished; a cell without runs stays empty.")
    if report.mark:
        notes.append(
            f"Our runs are {report.mark}: no difference from the published full-length numbers is given; "
            "scaled runs cannot be compared with them."
        )
    return tuple(notes)


def _number(row: "pd.Series[Any]") -> str:
    n, planned = int(row["n"]), int(row["planned"])
    return f"{n}/{planned}" if n < planned else str(n)


def _empty(row: "pd.Series[Any]") -> str:
    """What is said of a cell without runs."""
    return "no runs" if row["planned"] else "not selected"


def _accuracies(report: "StudyReport") -> tuple[Column, ...]:
    best = "best " if report.accuracy == "best" else ""
    mark = f" ({report.mark})" if report.mark else ""
    own: tuple[Column, ...] = (
        Column(f"ours: {best}accuracy %{mark}", lambda row: percent(row["median"]) if row["n"] else _empty(row)),
        Column("ours: 10th-90th %", own_spread),
    )
    if report.against != "none":
        own += (
            Column("published %", lambda row: percent(row["published_median"])),
            Column("published 10th-90th %", lambda row: spread(row["published_p10"], row["published_p90"])),
        )
    return (
        own
        if report.mark or report.against == "none"
        else (*own, Column("ours - published (points)", lambda row: signed(row["difference"])))
    )


def _deltas(report: "StudyReport") -> tuple[Column, ...]:
    """Against the dense baseline, in percentage points."""

    def of(key: str) -> Callable[["pd.Series[Any]"], str]:
        return lambda row: "" if row["schedule"] == "dense" else signed(row[key])

    columns = [Column("ours - dense (points)", of("delta_points"))]
    if report.against != "none":
        columns.append(Column("published - dense (points)", of("published_delta_points")))
        both = Column("ours - published, each less its dense (points)", of("difference_delta"))
        columns += [] if report.mark else [both]
    return tuple(columns)


def _dense(report: "StudyReport") -> pd.DataFrame:
    return report.cells[report.cells["schedule"] == "dense"].copy() if len(report.cells) else report.cells


def _parameters(report: "StudyReport", row: "pd.Series[Any]") -> tuple[int, int]:
    facts = facts_of(row["dataset"], report.data_dir)
    return _counted(row["model"], facts.channels, facts.classes)


@cache
def _counted(model: str, channels: int, classes: int) -> tuple[int, int]:
    import torch

    with torch.device("meta"):
        network = models[model](NetworkConfig(channels, classes, 0.1, 1e-5))
    return sum(p.numel() for p in network.parameters()), sum(kernel.numel() for kernel in kernels(network).values())


def _count(value: float) -> str:
    return "" if math.isnan(value) else f"{int(value):,}"


def _decimal(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"


def _fact(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


N = Column("n", _number)
