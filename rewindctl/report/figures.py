"""Figures in the paper's form: accuracy difference against compression, a line per method, ours over published."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from rewindctl.catalog import Catalog
from rewindctl.counting import count_of
from rewindctl.paper.plan import pruning_name
from rewindctl.report.cells import SETTINGS
from rewindctl.report.tables import method_name, precision_name, scale_name, several_precisions
from rewindctl.rewinding.methods import methods
from rewindctl.system.safe_text import drawn

figures: Catalog[Callable[[pd.DataFrame, str], Any]] = Catalog("figure")

# Of what is no method with a style of its own. Markers tell lines apart in black and white, where ours is a filled one
# on a solid line, the published one a hollow one on a dashed line.
OTHERS = (("#000000", "v"), ("#56B4E9", "P"), ("#E69F00", "X"), ("#666666", "*"))
RING: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": "black", "markersize": 9, "markeredgewidth": 0.8}
AXIS = {
    "relative": "accuracy difference\n(% of the dense accuracy)",
    "points": "accuracy difference\n(percentage points)",
}
Line = tuple[str, str]  # a label, and the name of a precision
PANEL = ["model", "dataset", "iterations", *SETTINGS, "schedule", "step", "dense_group"]
MARGIN = 1.2
OFFSET = 1.012  # neighbouring methods side by side, or their error bars hide each other
COLUMN_INCHES = 3.6  # a panel is as wide as a column of print, and its letters as large as those of a caption
PANEL_INCHES = 4.2
FONT = 8


@figures.register("curves")
def curves(cells: pd.DataFrame, delta: str) -> Any:
    """A panel per network, data set, structure and schedule (of a study: its panels, published numbers drawn too).

    Medians with 10th and 90th percentiles over trials. The paper's axis is relative, 100 * (median / baseline - 1);
    `points` are plain differences.
    """
    import matplotlib
    from matplotlib.figure import Figure

    results = cells[cells["method"] != "none"]
    keys = ["panel"] if "panel" in cells else PANEL
    panels = [panel for _, panel in results.groupby(keys, dropna=False, sort=True)]
    columns = min(2, max(1, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    with matplotlib.rc_context({"font.size": FONT, "axes.titlesize": FONT, "legend.fontsize": FONT - 1}):
        figure = Figure(figsize=(COLUMN_INCHES * columns, PANEL_INCHES * rows), layout="constrained")
        share = None
        for index, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, index + 1, sharey=share if "panel" in cells else None)
            share = share or axes
            _draw_panel(axes, panel, delta, "panel" in cells)
    return figure


def _draw_panel(axes: Any, panel: pd.DataFrame, delta: str, of_study: bool) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    lines, several = _lines(panel), several_precisions(panel)
    styles = _styles(panel, list(lines))
    published = set()
    for index, (key, line) in enumerate(lines.items()):
        offset = OFFSET ** (index - (len(lines) - 1) / 2)
        if of_study and key[0] not in published:
            published.add(key[0])
            of_label = panel[panel["label"] == key[0]].drop_duplicates("compression_asked")
            _draw_published(axes, of_label.sort_values("compression_asked"), delta, offset, styles[key])
        _draw_ours(axes, line, delta, offset, styles[key], of_study, key[1] if several else "")
    axes.axhline(0, color="grey", linewidth=0.8, zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_xlim(panel["compression"].min() / MARGIN, panel["compression"].max() * MARGIN)
    values = sorted({round(value, 4) for value in panel["compression"]})
    every = -(-len(values) // 7)
    axes.set_xticks(values[::-every][::-1])  # the largest always has its label
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("compression (total / kept kernel weights)")
    best = "best-" if (panel["accuracy"] == "best").any() else ""
    axes.set_ylabel(f"{best}{AXIS[delta]}")
    axes.grid(visible=True, alpha=0.3)
    axes.set_title(panel_title(panel))
    _legend(axes, panel, of_study)


def _lines(panel: pd.DataFrame) -> dict[Line, pd.DataFrame]:
    """What is joined by a line: the cells of a label in one precision, and as gaps those that have no runs."""
    lines: dict[Line, pd.DataFrame] = {}
    for label, cells in panel.groupby("label", sort=True):
        own = cells.sort_values("compression")
        names = own.apply(precision_name, axis=1)
        for name in sorted(set(names) - {""}) or [""]:
            lines[str(label), name] = own[names.isin({name, ""}).to_numpy()]
    return lines


def _styles(panel: pd.DataFrame, lines: list[Line]) -> dict[Line, tuple[str, str]]:
    """Colour and marker of each line: its method's, or others where those are taken."""
    styles: dict[Line, tuple[str, str]] = {}
    free = list(OTHERS)
    for label in lines:
        method = panel.loc[panel["label"] == label[0], "method"].iloc[0]
        style = style_of(method)
        if style is None or style in styles.values():
            style = free.pop(0) if free else OTHERS[-1]
        styles[label] = style
    return styles


def style_of(method: str) -> tuple[str, str] | None:
    """Colour and marker of a method; None where it has none of its own, or is not known here."""
    return methods[method].style if method in methods else None


def _draw_ours(
    axes: Any, line: pd.DataFrame, delta: str, offset: float, style: tuple[str, str], of_study: bool, precision: str
) -> None:
    """`precision`: empty where all are of one."""
    name = method_name(line.iloc[0]["method"], str(line.iloc[0]["label"]))
    name += f", {precision}" if precision else ""
    draw_medians(axes, line["compression"] * offset, line, delta, style, name, zorder=3)
    if of_study:
        few = line[(line["n"] > 0) & (line["n"] < line["planned"])]
        axes.plot(few["compression"] * offset, few[f"delta_{delta}"], "o", **RING, zorder=4)


def draw_medians(
    axes: Any, at: "pd.Series[Any]", line: pd.DataFrame, delta: str, style: tuple[str, str], name: str, **look: Any
) -> None:
    """The cells of a line, joined, with error bars from the 10th to the 90th percentile of their trials.

    A cell without runs is a gap in the line; one trial has no error bar. `at`: where the cells are on the x axis.
    """
    counts = sorted(set(line["n"]))
    trials = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]}-{counts[-1]}"
    middle, several = line[f"delta_{delta}"], line["n"] > 1
    axes.errorbar(
        at,
        middle,
        yerr=[
            (middle - line[f"delta_{delta}_p10"]).where(several),
            (line[f"delta_{delta}_p90"] - middle).where(several),
        ],
        color=style[0],
        marker=style[1],
        linewidth=1.3,
        markersize=4,
        capsize=2,
        label=drawn(f"{name} ({trials})"),
        **look,
    )


def _draw_published(axes: Any, line: pd.DataFrame, delta: str, offset: float, style: tuple[str, str]) -> None:
    drawn = line[line["published_median"].notna()]
    if not len(drawn):
        return
    middle = drawn[f"published_delta_{delta}"]
    spread = [
        middle - drawn[f"published_delta_{delta}_p10"],
        drawn[f"published_delta_{delta}_p90"] - middle,
    ]
    container = axes.errorbar(
        drawn["compression_asked"] / offset,
        middle,
        yerr=spread,
        color=style[0],
        marker=style[1],
        markerfacecolor="white",
        linestyle=(0, (4, 2)),
        linewidth=0.9,
        elinewidth=0.7,
        markersize=4.5,
        capsize=1.5,
        alpha=0.6,
        zorder=2,
        label="_published",  # in the legend once, for all methods
    )
    container.lines[0].set_markeredgewidth(0.9)


def panel_title(panel: pd.DataFrame) -> str:
    """What is drawn, its length (and whether that is scaled), and the baselines that differences are taken from."""
    first = panel.iloc[0]
    length = count_of(int(first["iterations"]), "iteration")
    if pd.notna(first["scale"]) and first["scale"] != 1:
        length += f" (SCALED {scale_name(first['scale'])})"
    lines = [f"{first['model']} on {first['dataset']}, {pruning_name(first)}", length]
    lines[1] += f", {_baselines(panel) or _why_empty(panel)}"
    if "published_baseline" in panel and panel["published_baseline"].notna().any():
        lines.append(f"published: dense {100 * panel['published_baseline'].median():.2f} %")
    return drawn("\n".join(lines))


def _baselines(panel: pd.DataFrame) -> str:
    """The dense accuracy, of each precision by itself; empty where no cell has runs."""
    medians = panel.groupby("dense_precision", dropna=False)["baseline"].median().dropna()
    several = len(medians) > 1
    shown = [
        f"{100 * median:.2f} %" + (f" ({name or 'unknown'})" if several else "") for name, median in medians.items()
    ]
    return f"dense {', '.join(shown)}" if shown else ""


def _why_empty(panel: pd.DataFrame) -> str:
    return "not selected" if "planned" in panel and not panel["planned"].any() else "no runs yet"


def _legend(axes: Any, panel: pd.DataFrame, of_study: bool) -> None:
    from matplotlib.lines import Line2D

    handles = axes.get_legend_handles_labels()[0]
    if of_study and panel["published_median"].notna().any():
        looks: dict[str, Any] = {"color": "grey", "linestyle": (0, (4, 2)), "marker": "o", "markerfacecolor": "white"}
        handles.append(Line2D([], [], markersize=4.5, linewidth=0.9, label=f"published: {_sources(panel)}", **looks))
    if of_study and ((panel["n"] < panel["planned"]) & (panel["n"] > 0)).any():
        few = f"fewer than {int(panel['planned'].max())} trials"
        handles.append(Line2D([], [], linestyle="none", marker="o", label=few, **RING))
    wanted = panel[panel["planned"] > 0] if of_study else panel
    missing = int((wanted["n"] == 0).sum())
    have = "has" if missing == 1 else "have"
    title = "median, 10th-90th percentile of n trials"
    axes.legend(
        handles=handles,
        title=f"{title}\n{missing} of {count_of(len(wanted), 'cell')} {have} no runs" if missing else title,
        title_fontsize=FONT - 1,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.19),
        handlelength=2.6,
    )


def _sources(panel: pd.DataFrame) -> str:
    """Whose numbers are drawn, in a word or two."""
    sources = {
        str(source).split(",")[0].replace("report ", "the paper's ") for source in panel["published_source"] if source
    }
    return drawn(", ".join(sorted(sources)))
