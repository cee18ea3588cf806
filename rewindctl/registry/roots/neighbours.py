"""Other stores of this machine: looked at, and never written to."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from rewindctl.registry.runs.paths import local_path
from rewindctl.registry.store import mlflow_internals as internals
from rewindctl.registry.store.sqlite_guard import Guard


def has_twin(database: Path, name: str, made: int, location: str | None = None) -> bool:
    """Whether another database has the same experiment: made in the same millisecond, its files at `location` if given.

    One that is there and cannot be read counts as if it had.
    """
    if not database.is_file():
        return False
    found = _ask(database, internals.TWINS, name, made)
    return found is None or any(location in (None, place) for (place,) in found)


def are_apart(one: Path, other: Path) -> bool:
    """Whether no run is in both databases; not where one of them cannot be read."""
    runs = [_ask(path, internals.RUN_IDS) for path in (one, other)]
    return None not in runs and not set(runs[0] or ()) & set(runs[1] or ())


def files_in(folder: Path) -> Iterator[Path]:
    """What is in a folder, sorted; nothing where it cannot be read."""
    try:
        yield from sorted(folder.iterdir())
    except OSError:
        return


def runs_of(path: Path) -> set[str]:
    """The runs of another MLflow store, none where it is no such."""
    return {str(row[0]) for row in _ask(path, internals.RUN_IDS) or []} if is_sqlite(path) else set()


def names_root(database: Path, root: Path) -> bool:
    """Whether another database has an experiment with its files in `root`; one that does not answer may have."""
    if not database.is_file():
        return False
    found = _ask(database, internals.LOCATIONS)
    places = [local_path(str(row[0])) for row in found or []]
    return found is None or root.resolve() in {place.resolve() for place in places if place is not None}


def _ask(path: Path, query: str, *values: object) -> list[Any] | None:
    """What another database answers; nothing where it has no such table, None where it does not answer."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            Guard(connection)
            return connection.execute(query, values).fetchall()
    except sqlite3.OperationalError as error:
        return [] if "no such" in str(error) else None
    except (OSError, sqlite3.Error):
        return None


def is_sqlite(path: Path) -> bool:
    with suppress(OSError):
        if path.is_file():
            with path.open("rb") as file:
                return file.read(15) == b"SQLite format 3"
    return False


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths are one file, by whatever links they lead there."""
    try:
        return one.samefile(other)
    except OSError:
        return False
