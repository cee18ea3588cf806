"""Tables in the report's forms, as text, Markdown, LaTeX, CSV and JSON."""

import json
from collections.abc import Callable
from typing import Any

import pandas as pd

from rewindctl.catalog import Catalog

tables: Catalog[Callable[[pd.DataFrame], pd.DataFrame]] = Catalog("table")
formats: Catalog[Callable[[pd.DataFrame], str]] = Catalog("format")

METHOD_NAMES = {
    "none": "none (dense)",
    "finetune": "fine-tuning",
    "weight_rewind": "weight rewinding",
    "lr_rewind": "LR rewinding",
    "rewind": "rewinding",
}


def method_name(method: str, label: str) -> str:
    """A method in the report's words, with what the label adds to the method's key."""
    return f"{METHOD_NAMES.get(method, method)}{label.removeprefix(method) if method != 'none' else ''}"


@tables.register("table5")
def table5(cells: pd.DataFrame) -> pd.DataFrame:
    """The form of the report's table 5: a row per retraining and sparsity, with n, median, spread and difference.

    Accuracies are in percent, differences in percentage points against the median dense baseline of the same trials.
    """
    rows = []
    for _, cell in cells.iterrows():
        rows.append(
            {
                "network": cell["model"],
                "data": cell["dataset"],
                "iterations": int(cell["iterations"]),
                "pruning": pruning_name(cell),
                "retraining": method_name(cell["method"], cell["label"]),
                "sparsity %": f"{100 * cell['sparsity']:.2f}",
                "compression": f"{cell['compression']:.2f}x",
                "n": int(cell["n"]),
                "accuracy %": f"{100 * cell['median']:.2f}",
                "10th-90th %": f"{100 * cell['p10']:.2f}-{100 * cell['p90']:.2f}",
                "difference (points)": "" if cell["method"] == "none" else f"{cell['delta_points']:+.2f}",
            }
        )
    return pd.DataFrame(rows)


@tables.register("cells")
def cells_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Every number of every cell, unrounded, with the run IDs behind it."""
    return cells


def pruning_name(cell: "pd.Series[Any]") -> str:
    """`one-shot`, or `iterative (0.2)`, with every setting of pruning that is not the usual one."""
    if cell["schedule"] == "dense":
        return "-"
    name = "one-shot" if cell["schedule"] == "one_shot" else f"iterative ({cell['step']:g})"
    extra = [str(cell["structure"])] if cell["structure"] == "structured" else []
    extra += [str(cell["scope"])] if cell["scope"] == "layerwise" else []
    extra += [str(cell["criterion"])] if cell["criterion"] != "magnitude" else []
    extra += ["channel norm removed"] if cell["channel_norm"] == "remove" else []
    extra += [f"of iteration {int(cell['pruned_at']):,}"] if pd.notna(cell["pruned_at"]) else []
    return " ".join([name, *extra])


@formats.register("text")
def text(table: pd.DataFrame) -> str:
    """Aligned columns, numbers to the right."""
    columns = [str(column) for column in table.columns]
    rows = [[str(value) for value in row] for row in table.itertuples(index=False)]
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    right = [pd.api.types.is_numeric_dtype(table[c]) or _numbers(table[c]) for c in table.columns]

    def line(values: list[str]) -> str:
        cells = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([line(columns), line(["-" * width for width in widths]), *map(line, rows)])


@formats.register("markdown")
def markdown(table: pd.DataFrame) -> str:
    """A Markdown table; `|` is escaped."""
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns)]
    lines += [[str(value).replace("|", "\\|") for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@formats.register("latex")
def latex(table: pd.DataFrame) -> str:
    """A tabular that needs no package."""
    lines = [list(map(str, table.columns))] + [[str(v) for v in row] for row in table.itertuples(index=False)]
    body = [" & ".join(_latex_escaped(value) for value in line) + r" \\" for line in lines]
    columns = "".join("r" if _numbers(table[column]) else "l" for column in table.columns)
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\hline", body[0], r"\hline", *body[1:], r"\hline", r"\end{tabular}"]
    )


@formats.register("csv")
def as_csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n").rstrip("\n")


@formats.register("json")
def as_json(table: pd.DataFrame) -> str:
    """A list of objects; missing values are null."""
    rows = table.astype(object).where(table.notna(), None).to_dict(orient="records")
    return json.dumps(rows, allow_nan=False)


def _numbers(column: "pd.Series[Any]") -> bool:
    """Whether every cell starts like a number, so that it reads best aligned to the right."""
    return all(str(value)[:1] in "+-.0123456789" for value in column)


def _latex_escaped(value: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
    return "".join(special.get(character, character) for character in value)
