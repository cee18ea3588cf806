"""Markdown tables, and what fills their cells."""

import inspect
import sys
from collections.abc import Iterable
from typing import Any

Rows = Iterable[Iterable[str]]


def table(head: Iterable[str], rows: Rows) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def first_line(thing: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def require(kind: str, of_code: set[str], described: Iterable[str]) -> None:
    """Raises: SystemExit naming what of the code has no words, or words that nothing of the code has."""
    described = set(described)
    if of_code != described:
        sys.exit(
            f"docs/making/words.py: no words for {kind} {sorted(of_code - described)}, "
            f"words for no {kind} {sorted(described - of_code)}"
        )
