"""The figures of a soak on the page about reliability, between its two marks."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rewindctl.system.files import replacing
from soak.sections import Done

BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"
VERSIONS = ("rewindctl", "mlflow", "sqlalchemy", "optuna", "torch", "safetensors")


def write_figures(page: Path, done: Sequence[Done], seed: int, seconds: float) -> None:
    """Put the figures in the place of those of the last soak. Raises: ValueError for a page without marks."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    with replacing(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{figures_text(done, seed, seconds)}\n{END}{after}", encoding="utf-8")


def figures_text(done: Sequence[Done], seed: int, seconds: float) -> str:
    """Markdown: the machine, and each section's counts."""
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    lines = [
        f"Last full run: {datetime.now(UTC):%Y-%m-%d}, {seconds:.0f} s, seed {seed}; {_machine()}.",
        f"Python {platform.python_version()}, {versions}.",
    ]
    for one in done:
        lines += ["", f"**{one.title}** ({one.seconds:.0f} s): {len(one.failures)} broken laws.", ""]
        lines += [f"- {name}: {value}" for name, value in one.figures.items() if name != "table"]
        lines += ["", *_table(one.figures["table"])] if one.figures.get("table") else []
    return "\n".join(lines)


def _table(rows: dict[str, dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    body = [[name, *(str(row.get(column, "")) for column in columns)] for name, row in rows.items()]
    head = [["", *columns], ["---"] * (len(columns) + 1)]
    return [f"| {' | '.join(cells)} |" for cells in [*head, *body]]


def _machine() -> str:
    lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = lines[0].split(":")[1].strip() if lines else platform.processor()
    return f"{os.cpu_count()} cores, {model}"
