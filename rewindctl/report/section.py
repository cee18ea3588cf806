"""Tables and figures under one title, printed or written to a folder."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rewindctl.errors import UsageError
from rewindctl.report.formats import SUFFIXES, Table, formats, records, safe_cells
from rewindctl.system.files import disk_error, of_the_disk, replacing
from rewindctl.system.safe_text import one_line

DPI = 220


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn from its cells."""

    title: str
    cells: pd.DataFrame
    delta: str
    draw: Callable[[pd.DataFrame, str], Any]
    over: str = "against compression"

    @property
    def alt(self) -> str:
        """What is drawn, for who cannot see it."""
        axis = "in percent of the dense accuracy" if self.delta == "relative" else "in percentage points"
        return f"{self.title}: difference from the dense accuracy {axis}, {self.over}"

    def save(self, path: Path) -> None:
        """As PNG or SVG by the suffix, the same bytes for the same cells."""
        import matplotlib

        with matplotlib.rc_context({"svg.hashsalt": "rewindctl", "svg.fonttype": "path"}):
            figure = self.draw(self.cells, self.delta)
            metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(path, dpi=DPI, metadata=metadata | {"Title": one_line(self.title)})


@dataclass(frozen=True)
class Section:
    """Tables and drawings by the stem of their files."""

    title: str
    tables: dict[str, Table]
    drawings: dict[str, Drawing]

    def write_drawings(self, folder: Path) -> list[Path]:
        """`STEM.png`, `STEM.svg` and `STEM.csv` (the cells drawn, with scale, devices and run IDs) of each."""
        paths = []
        with _writable(folder):
            for stem, drawing in self.drawings.items():
                for suffix in ("png", "svg"):
                    with replacing(folder / f"{stem}.{suffix}") as temporary:
                        drawing.save(temporary)
                with replacing(folder / f"{stem}.csv") as temporary:
                    safe_cells(drawing.cells).to_csv(temporary, index=False)
                paths += [folder / f"{stem}.{suffix}" for suffix in ("png", "svg", "csv")]
        return paths


def tables_text(tables: dict[str, Table], format_name: str) -> str:
    """The tables in a format, one under the other; as JSON several are one object, by name."""
    if format_name == "json" and len(tables) != 1:
        import json

        return json.dumps({name: records(table) for name, table in tables.items()}, allow_nan=False)
    return "\n\n".join(formats[format_name](table) for table in tables.values())


def write_files(folder: Path, sections: Sequence[Section], format_name: str, rows: pd.DataFrame) -> list[Path]:
    """The files of all sections, figures first, and `rows` as `runs.csv`. Raises: UsageError."""
    paths = [path for section in sections for path in section.write_drawings(folder)]
    tables = {stem: table for section in sections for stem, table in section.tables.items()}
    texts = {f"{stem}.{SUFFIXES[format_name]}": formats[format_name](table) for stem, table in tables.items()}
    return [*paths, *write_texts(folder, texts), write_rows(folder, rows)]


def write_texts(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Files of UTF-8 text by name. Raises: UsageError when the folder cannot be written."""
    with _writable(folder):
        for name, text in texts.items():
            with replacing(folder / name) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
    return [folder / name for name in texts]


def write_rows(folder: Path, rows: pd.DataFrame) -> Path:
    """The tidy rows as `runs.csv`. Raises: UsageError when the folder cannot be written."""
    with _writable(folder), replacing(folder / "runs.csv") as temporary:
        safe_cells(rows).to_csv(temporary, index=False)
    return folder / "runs.csv"


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """A folder that cannot be one is wrong usage; a disk that is full or read-only is not. Both name the folder."""
    try:
        yield
    except OSError as error:
        if of_the_disk(error):
            raise disk_error(error, folder) from None
        raise UsageError(f"{folder} cannot be written: {error.strerror}", "give another --output") from None
