"""Figures in the report's form: accuracy difference against compression, a line per method."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from rewindctl.catalog import Catalog
from rewindctl.errors import UsageError
from rewindctl.files import replacing
from rewindctl.report.cells import SETTINGS
from rewindctl.report.tables import method_name, pruning_name

figures: Catalog[Callable[[pd.DataFrame, str], Any]] = Catalog("figure")

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers and dashes tell lines apart in print.
STYLES = {
    "weight_rewind": ("#0072B2", "o", "-"),
    "lr_rewind": ("#E69F00", "s", "--"),
    "finetune": ("#009E73", "^", "-."),
    "rewind": ("#CC79A7", "D", ":"),
}
OTHER = ("#000000", "v", ":")
AXIS = {
    "relative": "accuracy difference (% of the dense accuracy)",
    "points": "accuracy difference (percentage points)",
}
PANEL = ["model", "dataset", "iterations", *SETTINGS, "schedule", "step", "dense_group"]
MARGIN = 1.25
OFFSET = 1.012  # neighbouring methods side by side, or their error bars hide each other


@figures.register("fig1")
def fig1(cells: pd.DataFrame, delta: str) -> Any:
    """A panel per network, data set, structure and schedule; medians with 10th and 90th percentiles over trials.

    The report's axis is relative, 100 * (median / baseline - 1); `points` are plain differences.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    results = cells[cells["method"] != "none"]
    panels = list(results.groupby(PANEL, dropna=False, sort=True))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.6 * columns, 4.0 * rows), layout="constrained")
    for index, (_, panel) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        _draw_panel(axes, panel, delta)
        axes.set_xscale("log", base=2)
        axes.set_xlim(panel["compression"].min() / MARGIN, panel["compression"].max() * MARGIN)
        ticks = sorted({round(value, 4) for value in panel["compression"]})
        axes.set_xticks(ticks if len(ticks) <= 8 else ticks[:: -(-len(ticks) // 8)])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}x"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("compression (total / kept kernel weights)")
        axes.set_ylabel(AXIS[delta])
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=8, title="median, 10th-90th percentile", title_fontsize=8)
    return figure


def _draw_panel(axes: Any, panel: pd.DataFrame, delta: str) -> None:
    first = panel.iloc[0]
    for index, (label, line) in enumerate(panel.groupby("label", sort=True)):
        points = line.sort_values("compression")
        colour, marker, dash = STYLES.get(points.iloc[0]["method"], OTHER)
        middle = points[f"delta_{delta}"]
        spread = [middle - points[f"delta_{delta}_p10"], points[f"delta_{delta}_p90"] - middle]
        counts = sorted(set(points["n"]))
        trials = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]}-{counts[-1]}"
        axes.errorbar(
            points["compression"] * OFFSET ** (index - (panel["label"].nunique() - 1) / 2),
            middle,
            yerr=spread,
            color=colour,
            marker=marker,
            linestyle=dash,
            markersize=5,
            capsize=3,
            label=f"{method_name(points.iloc[0]['method'], str(label))} ({trials})",
        )
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_title(
        f"{first['model']} on {first['dataset']}, {pruning_name(first)}\n"
        f"{int(first['iterations']):,} iterations, dense {100 * panel['baseline'].median():.2f} %",
        fontsize=10,
    )


def save_figure(name: str, cells: pd.DataFrame, delta: str, folder: Path) -> list[Path]:
    """`NAME.png`, `NAME.svg` and `NAME.csv` (the cells drawn, with their run IDs) in `folder`.

    Raises: UsageError when the folder cannot be written.
    """
    figure = figures[name](cells, delta)
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "svg", "csv")]
    try:
        for path in paths[:2]:
            with replacing(path) as temporary:
                figure.savefig(temporary, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
        with replacing(paths[2]) as temporary:
            cells.to_csv(temporary, index=False)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}", "give another --output") from None
    return paths
