"""Tables of whatever runs there are; those of a study are in `study_tables`."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from rewindctl.catalog import Catalog
from rewindctl.paper.plan import pruning_name
from rewindctl.report.cells import PRECISIONS
from rewindctl.report.formats import Column, Table, as_table, percent, signed, spread
from rewindctl.rewinding.methods import methods

tables: Catalog[Callable[[pd.DataFrame], Table]] = Catalog("table")


def method_name(method: str, label: str) -> str:
    """A method in the paper's words, with what the label adds to the method's key."""
    if method == "none":
        return "none (dense)"
    return f"{methods[method].label if method in methods else method}{label.removeprefix(method)}"


@tables.register("results")
def results(cells: pd.DataFrame) -> Table:
    """A row per retraining and sparsity, with n, median, spread and difference.

    Accuracies are in percent, differences in percentage points against the median dense baseline of the same trials.
    """
    best = "best " if len(cells) and (cells["accuracy"] == "best").any() else ""
    columns = [NETWORK, DATA, Column("iterations", lambda row: str(int(row["iterations"])))]
    if (cells["scale"].fillna(1) != 1).any():  # whoever reads a scaled result must see that it is one
        columns.append(Column("scale", lambda row: scale_name(row["scale"])))
    columns += [
        PRUNING,
        RETRAINING,
        *precision_columns(cells),
        Column("sparsity %", lambda row: f"{100 * row['sparsity']:.2f}"),
        Column("compression", lambda row: f"{row['compression']:.2f}x"),
        Column("n", lambda row: str(int(row["n"]))),
        Column(f"{best}accuracy %", lambda row: percent(row["median"])),
        Column("10th-90th %", own_spread),
        Column("difference (points)", lambda row: "" if row["method"] == "none" else signed(row["delta_points"])),
    ]
    return Table(cells, tuple(columns))


@tables.register("cells")
def cells_table(cells: pd.DataFrame) -> Table:
    """Every number of every cell, unrounded, with the run IDs behind it."""
    return as_table(cells)


def own_spread(row: "pd.Series[Any]") -> str:
    """The 10th and 90th percentile of our trials; one trial has none."""
    return spread(row["p10"], row["p90"]) if row["n"] > 1 else ""


def scale_name(scale: float) -> str:
    """`full`, or `x0.01` for runs of another length than their recipe's."""
    return "full" if pd.isna(scale) or scale == 1 else f"x{scale:.4g}"


def precision_columns(rows: pd.DataFrame) -> list[Column]:
    """The column that tells results in several precisions apart; none where all are of one."""
    return [PRECISION] if several_precisions(rows) else []


def several_precisions(rows: pd.DataFrame) -> bool:
    """Whether the rows that have trials (`n`, where it is a column) are not all of one precision."""
    with_trials = rows[rows["n"] > 0] if "n" in rows else rows
    return len(with_trials) > 0 and len({precision_name(row) for _, row in with_trials.iterrows()}) > 1


def precision_name(row: "pd.Series[Any]") -> str:
    """What the updates were computed in, and the baseline's where it is another; empty for a cell without runs."""
    if row.get("n") == 0:
        return ""
    own, dense = (str(row[name]) if pd.notna(row[name]) and row[name] else "unknown" for name in PRECISIONS)
    return own if own == dense else f"{own} (dense {dense})"


NETWORK = Column("network", lambda row: str(row["model"]))
DATA = Column("data", lambda row: str(row["dataset"]))
PRUNING = Column("pruning", pruning_name)
PRECISION = Column("precision", precision_name)
RETRAINING = Column("retraining", lambda row: method_name(row["method"], row["label"]))
