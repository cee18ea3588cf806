"""SQLite files, which may be anyone's: connections with bounds, and looks at the other stores of this machine.

A database is a program too: a view in a table's place, a trigger or a computed column runs when it is read or written.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from rewindctl.errors import RegistryError
from rewindctl.registry.store import mlflow_internals as internals
from rewindctl.registry.store.address import local_path

BUSY_SECONDS = 20.0  # for which MLflow waits too until SQLite says that it is locked
LARGEST_VALUE = 64 << 20  # bytes; MLflow's longest texts are far below a megabyte
STEPS = 1_000_000  # of SQLite's machine between two looks
LEAST_LOOKS = 20  # a second of work, whatever the size
BYTES_A_LOOK = 10_000  # a statement may go over each byte of the file a hundred times
GUARD = "rewindctl.guard"
COMPUTED = """
    SELECT DISTINCT tables.name FROM sqlite_master AS tables, pragma_table_xinfo(tables.name) AS columns
    WHERE tables.type = 'table' AND tables.sql LIKE 'CREATE TABLE%' AND columns.hidden > 1
"""


class Guard:
    """Stops a statement of `connection` that takes more steps than its file is large."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._looks, self._most = 0, 0
        self._path = Path(connection.execute("PRAGMA database_list").fetchone()[2])
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
        connection.set_progress_handler(self._is_late, STEPS)

    def begin(self) -> None:
        """A new statement."""
        self._looks = 0

    def _is_late(self) -> bool:
        self._looks += 1
        if self._looks <= LEAST_LOOKS:
            return False
        if self._looks > self._most:
            size = self._path.stat().st_size if self._path.is_file() else 0
            self._most = LEAST_LOOKS + size // BYTES_A_LOOK
        return self._looks > self._most


def guard_engines() -> None:
    """Guard every SQLite connection that SQLAlchemy opens in this process from now on."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if not event.contains(Engine, "connect", _connected):
        event.listen(Engine, "connect", _connected)
        event.listen(Engine, "before_cursor_execute", _begins)


def _connected(connection: Any, record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        record.info[GUARD] = Guard(connection)


def _begins(connection: Any, *about: Any) -> None:
    if GUARD in connection.info:
        connection.info[GUARD].begin()


def check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Raises: RegistryError for a database of another program, or one whose tables are none."""
    kinds = connection.execute("SELECT tbl_name, type, sql FROM sqlite_master WHERE type != 'index'").fetchall()
    names = {str(name) for name, kind, _ in kinds if kind == "table" and not str(name).startswith("sqlite_")}
    if names and not names & internals.OF_A_STORE:
        raise RegistryError(
            f"{path} is the database of another program: it has no table of runs",
            "choose another place with --tracking-uri sqlite:///PATH",
        )
    odd = [str(name) for name, kind, sql in kinds if kind != "table" or not str(sql).upper().startswith("CREATE TABLE")]
    odd += [str(name) for (name,) in connection.execute(COMPUTED)]
    if found := [name for name in odd if name.lower() in internals.PLAIN]:
        raise RegistryError(
            f"{path} is not an MLflow store: {found[0]!r:.80} is not a plain table",
            "it is a view, or has a trigger or computed columns; MLflow's table has none: use another store",
        )


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
