"""A SQLite file may be anyone's: no statement on it is without end, no value without bound.

A database is a program too: a view in a table's place, a trigger or a computed column runs when it is read or written.
"""

import sqlite3
from pathlib import Path
from typing import Any

from rewindctl.errors import RegistryError
from rewindctl.registry.store.mlflow_internals import OF_A_STORE, PLAIN

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
    if names and not names & OF_A_STORE:
        raise RegistryError(
            f"{path} is the database of another program: it has no table of runs",
            "choose another place with --tracking-uri sqlite:///PATH",
        )
    odd = [str(name) for name, kind, sql in kinds if kind != "table" or not str(sql).upper().startswith("CREATE TABLE")]
    odd += [str(name) for (name,) in connection.execute(COMPUTED)]
    if found := [name for name in odd if name.lower() in PLAIN]:
        raise RegistryError(
            f"{path} is not an MLflow store: {found[0]!r:.80} is more than a table",
            "it is a view, or has a trigger or computed columns, which MLflow has not there: use another store",
        )
