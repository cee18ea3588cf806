"""Figures of a study's cells: curves, the accuracy over where weights and clock come from, and over the length."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from rewindctl.catalog import Catalog
from rewindctl.report.figures import AXIS, FONT, OTHERS, curves, draw_medians, panel_title, style_of
from rewindctl.report.tables import precision_name, several_precisions
from rewindctl.system.safe_text import drawn

study_figures: Catalog[Callable[[pd.DataFrame, str], Any]] = Catalog("figure of a study")
study_figures.register("curves")(curves)
OVER = {
    "curves": "against compression",
    "heat_map": "by where the weights come from and where the learning-rate clock starts",
    "length": "against the iterations of retraining",
}
SQUARE_INCHES = 0.72
DARK = 0.55  # of the colour scale, below which white letters read better


@study_figures.register("heat_map")
def heat_map(cells: pd.DataFrame, delta: str) -> Any:
    """At each compression of each network: a square for weights of iteration W and a clock that starts at C.

    Colours are median differences from the dense accuracy, numbers median accuracies. Weight rewinding is the
    diagonal, LR rewinding the corner of trained weights and a clock at 0. Only retrainings to the schedule's end.
    """
    whole = cells["iterations"] - cells["clock_start"] == cells["retraining_iterations"]
    grids = _grids(cells[whole & (cells["schedule"] == "one_shot")])
    return _figure(grids, lambda axes, grid: _draw_squares(axes, grid, delta), 1.6)


@study_figures.register("length")
def length(cells: pd.DataFrame, delta: str) -> Any:
    """At each compression of each network: accuracy by how long the retraining is, a line per kind of retraining.

    Medians with 10th and 90th percentiles over trials. The kinds differ in what makes them shorter.
    """
    return _figure(_grids(cells[cells["method"] != "none"]), lambda axes, grid: _draw_lengths(axes, grid, delta), 1.35)


def _grids(cells: pd.DataFrame) -> list[pd.DataFrame]:
    """What is drawn in one panel; cells without runs belong to each precision that there is."""
    found = []
    for _, panel in cells.groupby(["panel", "sparsity_asked"], sort=True):
        names = panel.apply(precision_name, axis=1)
        found += [panel[names.isin({name, ""})] for name in sorted(set(names) - {""}) or [""]]
    return found


def _figure(grids: list[pd.DataFrame], draw: Callable[[Any, pd.DataFrame], None], height: float) -> Any:
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(2, max(1, len(grids)))
    rows = max(1, -(-len(grids) // columns))
    with matplotlib.rc_context({"font.size": FONT, "axes.titlesize": FONT, "legend.fontsize": FONT - 1}):
        figure = Figure(figsize=(4.4 * columns, 3.2 * height * rows), layout="constrained")
        for index, grid in enumerate(grids):
            axes = figure.add_subplot(rows, columns, index + 1)
            draw(axes, grid)
            of = f"{grid['compression'].median():.4g}x"
            of += f", {precision_name(grid[grid['n'] > 0].iloc[0])}" if several_precisions(grid) else ""
            axes.set_title(f"{panel_title(grid)}\n{drawn(of)}")
    return figure


def _draw_squares(axes: Any, grid: pd.DataFrame, delta: str) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    weights, clocks = (sorted({int(v) for v in grid[name]}) for name in ("weights_iteration", "clock_start"))
    last = int(grid["iterations"].iloc[0])
    values = np.full((len(weights), len(clocks)), np.nan)
    for _, cell in grid.iterrows():
        values[weights.index(int(cell["weights_iteration"])), clocks.index(int(cell["clock_start"]))] = cell[
            f"delta_{delta}"
        ]
    image = axes.imshow(np.ma.masked_invalid(values), origin="lower", cmap="viridis", aspect="auto")
    for _, cell in grid.iterrows():
        y, x = weights.index(int(cell["weights_iteration"])), clocks.index(int(cell["clock_start"]))
        dark = bool(cell["n"]) and image.norm(values[y, x]) < DARK
        text = f"{100 * cell['median']:.2f} %\nn = {int(cell['n'])}" if cell["n"] else "no runs"
        axes.text(x, y, text, ha="center", va="center", color="white" if dark else "black", fontsize=FONT - 1)
        marks = {"weight": weights[y] == clocks[x], "lr": (weights[y], clocks[x]) == (last, 0)}
        for style in (style for name, style in {"weight": "-", "lr": (0, (2, 1))}.items() if marks[name]):
            axes.add_patch(
                Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, fill=False, edgecolor="black", linewidth=2, linestyle=style)
            )
    axes.set_xticks(range(len(clocks)), [f"{clock:,}" for clock in clocks])
    axes.set_yticks(range(len(weights)), [f"{w:,}" + (" (trained)" if w == last else "") for w in weights])
    axes.set_xlabel(f"learning-rate clock starts at iteration C\n(retraining takes {last:,} - C iterations)")
    axes.set_ylabel("weights of iteration W of the dense run")
    best = "best-" if (grid["accuracy"] == "best").any() else ""
    if np.isfinite(values).any():
        axes.figure.colorbar(image, ax=axes, label=f"{best}{AXIS[delta]}, median")
    handles = [
        Line2D([], [], color="black", linewidth=2, label="weight rewinding (W = C)"),
        Line2D(
            [], [], color="black", linewidth=2, linestyle=(0, (2, 1)), label="LR rewinding (trained weights, C = 0)"
        ),
    ]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.24))


KINDS = {
    "finetune": "fine-tuning at a constant rate",
    "lr_rewind": "LR rewinding, the whole schedule scaled",
    "clock": "LR rewinding, the schedule from C on",
    "weight_rewind": "weight rewinding, from K on",
}


def _kind(cell: "pd.Series[Any]") -> str:
    """What makes a retraining shorter; a label of its own for what is none of these."""
    if cell["method"] == "rewind" and cell["weights_iteration"] == cell["iterations"]:
        return "clock"
    return str(cell["method"] if cell["label"].split(" ")[0] in KINDS else cell["label"])


def _draw_lengths(axes: Any, grid: pd.DataFrame, delta: str) -> None:
    kinds = grid.apply(_kind, axis=1)
    whole = (grid["method"] == "lr_rewind") & (grid["retraining_iterations"] == grid["iterations"])
    free = list(OTHERS)
    for kind in [*(name for name in KINDS if name in set(kinds)), *sorted(set(kinds) - set(KINDS))]:
        mine = (kinds == kind) | (whole if kind == "clock" else False)  # a clock from 0 is LR rewinding itself
        line = grid[mine].sort_values("retraining_iterations")
        style = style_of("rewind" if kind == "clock" else kind) or free.pop(0)
        draw_medians(axes, line["retraining_iterations"], line, delta, style, KINDS.get(kind, kind))
    axes.axhline(0, color="grey", linewidth=0.8, zorder=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlim(0, None)
    axes.set_xlabel("iterations of retraining")
    best = "best-" if (grid["accuracy"] == "best").any() else ""
    axes.set_ylabel(f"{best}{AXIS[delta]}")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(title="median, 10th-90th percentile of n trials", loc="upper center", bbox_to_anchor=(0.5, -0.16))
