"""A table as text, Markdown, LaTeX, CSV and JSON: people get formatted columns, programs get the numbers."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rewindctl.catalog import Catalog
from rewindctl.system.safe_text import markdown as escaped_markdown
from rewindctl.system.safe_text import one_line

SUFFIXES = {"text": "txt", "markdown": "md", "latex": "tex", "csv": "csv", "json": "json"}


@dataclass(frozen=True)
class Column:
    """A column as people see it: its heading, and the text of its cell in a row."""

    heading: str
    show: Callable[["pd.Series[Any]"], str]


@dataclass(frozen=True)
class Table:
    """Rows with every number, the columns that people see of them, and what must be read with them."""

    rows: pd.DataFrame
    columns: tuple[Column, ...]
    caption: str = ""
    notes: tuple[str, ...] = ()

    def lines(self) -> list[list[str]]:
        """Headings and rows as people see them; no cell has a line break."""
        shown = [[column.show(row) for column in self.columns] for _, row in self.rows.iterrows()]
        return [
            [" ".join(one_line(str(value)).split()) for value in line]
            for line in ([c.heading for c in self.columns], *shown)
        ]


def as_table(table: Table | pd.DataFrame) -> Table:
    """A frame as a table that shows all its columns as they are."""
    if isinstance(table, Table):
        return table
    return Table(table, tuple(Column(str(name), lambda row, name=name: str(row[name])) for name in table.columns))  # type: ignore[misc]


formats: Catalog[Callable[[Table | pd.DataFrame], str]] = Catalog("format")


@formats.register("text")
def text(table: Table | pd.DataFrame) -> str:
    """Aligned columns, numbers to the right, the caption above and the notes below."""
    table = as_table(table)
    lines = table.lines()
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = right_aligned(lines)

    def line(values: list[str]) -> str:
        cells = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
        return "  ".join(cells).rstrip()

    above = [table.caption, ""] if table.caption else []
    below = ["", *table.notes] if table.notes else []
    rule = line(["-" * width for width in widths])
    return "\n".join([*above, line(lines[0]), rule, *map(line, lines[1:]), *below])


@formats.register("markdown")
def markdown(table: Table | pd.DataFrame) -> str:
    """A Markdown table; `|` and HTML are escaped."""
    table = as_table(table)
    lines = table.lines()
    lines.insert(1, ["---"] * len(table.columns))
    above = [f"**{escaped_markdown(table.caption)}**", ""] if table.caption else []
    below = [part for note in table.notes for part in ("", escaped_markdown(note))]
    return "\n".join([*above, *(f"| {' | '.join(map(escaped_markdown, line))} |" for line in lines), *below])


@formats.register("latex")
def latex(table: Table | pd.DataFrame) -> str:
    """A tabular that needs no package, the caption and the notes as comments."""
    # pandas' own draws its rules with booktabs, and leaves letters as they are that few fonts have.
    table = as_table(table)
    lines = table.lines()
    body = [" & ".join(_latex_escaped(value) for value in line) + r" \\" for line in lines]
    columns = "".join("r" if right else "l" for right in right_aligned(lines))
    return "\n".join(
        [
            *(f"% {' '.join(line.split())}" for line in (table.caption, *table.notes) if line),
            rf"\begin{{tabular}}{{{columns}}}",
            r"\hline",
            body[0],
            r"\hline",
            *body[1:],
            r"\hline",
            r"\end{tabular}",
        ]
    )


@formats.register("csv")
def as_csv(table: Table | pd.DataFrame) -> str:
    """Every number of the rows, unrounded; no text that a spreadsheet would take for a formula."""
    return safe_cells(as_table(table).rows).to_csv(index=False, lineterminator="\n").rstrip("\n")


@formats.register("json")
def as_json(table: Table | pd.DataFrame) -> str:
    """A list of objects with every number of the rows, unrounded; missing values are null."""
    return json.dumps(records(table), allow_nan=False)


def safe_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as a CSV file has them: text that a spreadsheet would run starts with an apostrophe, as it then shows
    none. Source: OWASP, CSV Injection.
    """
    return rows.map(lambda value: f"'{value}" if isinstance(value, str) and starts_formula(value) else value)


def starts_formula(text: str) -> bool:
    """Whether a spreadsheet would take the text for a formula; a number is none."""
    if text[:1] not in ("=", "+", "-", "@", "\t", "\r"):
        return False
    try:
        return math.isnan(float(text))
    except ValueError:
        return True


def records(table: Table | pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON values."""
    rows = as_table(table).rows
    return [
        {str(key): None if pd.isna(value) or value in (math.inf, -math.inf) else value for key, value in row.items()}
        for row in rows.astype(object).to_dict(orient="records")
    ]


def signed(value: float) -> str:
    """A difference to two decimals with its sign; empty where there is none."""
    return "" if math.isnan(value) else f"{round(value, 2) + 0.0:+.2f}"


def percent(fraction: float) -> str:
    """A fraction in percent to two decimals; empty where there is none."""
    return "" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def spread(low: float, high: float) -> str:
    """Two fractions in percent; empty where they are missing."""
    return "" if math.isnan(low) or math.isnan(high) else f"{100 * low:.2f}-{100 * high:.2f}"


def right_aligned(lines: list[list[str]]) -> list[bool]:
    """Which columns read best aligned to the right: those whose cells all start like a number."""
    return [all(value[:1] in "+-.0123456789" for value in column[1:]) for column in zip(*lines, strict=True)]


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _latex_escaped(value: str) -> str:
    """Text for a cell; a star or a bracket after a line end would be its argument, and few fonts have all letters."""
    shown = "".join(_SPECIAL.get(c, c if c.isascii() and c.isprintable() else "?") for c in value)
    return "{}" * (shown[:1] in ("[", "*")) + shown
