"""Reaching a tracking store: fresh tables made by one process at a time, a server that answers."""

import http.client
import os
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from rewindctl.errors import RegistryError
from rewindctl.registry.store import failures
from rewindctl.registry.store import mlflow_internals as internals
from rewindctl.registry.store.address import absolute_uri, is_server, sqlite_path, without_user
from rewindctl.registry.store.client import Client
from rewindctl.registry.store.failures import CHECK, LOCKED, LOCKED_HINT, AwayError, hint_for, patiently
from rewindctl.registry.store.sqlite_files import BUSY_SECONDS, Guard, check_schema
from rewindctl.system.files import disk_hint, locked, replacing
from rewindctl.system.safe_text import redacted, scrubbed

PING_SECONDS = 5
MIGRATION_LOCK = 0x7265_7769  # any number that no other program of the database takes


def connect(uri: str, *, wait: bool = False) -> Client:
    """A client on a store that is there, whole, and answers; one that is locked is waited for, if asked to `wait`.

    Raises: RegistryError.
    """
    uri = absolute_uri(uri)
    path = sqlite_path(uri)
    if path is not None:
        patiently(partial(_prepare_sqlite, path, uri), failures.limit_seconds() if wait else 0.0)
    elif is_server(uri):
        _ping(uri)
    elif urlsplit(uri).scheme.startswith("postgresql"):
        _prepare_postgresql(uri)
    return Client(uri, failures.limit_seconds())


def lock_file(store: Path) -> Path:
    """Whoever makes or relocates a SQLite store has this file locked."""
    return store.with_name(f".{store.name}.lock")


def _prepare_sqlite(path: Path, uri: str) -> None:
    """Make the store under a lock: MLflow crashes when several processes first touch one at once.

    It is made beside its place: MLflow cannot go on with one whose making was cut off.
    """
    hint = "choose another place with --tracking-uri sqlite:///PATH"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _initialised(path):
            return
        with locked(lock_file(path)):
            if not path.exists():
                with replacing(path) as temporary:
                    Client(f"sqlite:///{temporary}").search_experiments(max_results=1)
            elif not _initialised(path):
                Client(uri).search_experiments(max_results=1)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if failures.is_locked(error):
            raise AwayError(f"the tracking store {redacted(uri)} {LOCKED}", LOCKED_HINT) from None
        hint = hint if (told := hint_for(str(error))) == CHECK else told
        raise RegistryError(f"{path} cannot be used as an MLflow store: {error}", hint) from None
    except OSError as error:
        why = error.strerror or error
        raise RegistryError(f"the store {path} cannot be written: {why}", disk_hint(error, hint)) from None


def _initialised(path: Path) -> bool:
    """Whether MLflow's last migration is through.

    Raises: sqlite3.DatabaseError when unreadable or locked for long; RegistryError for no store of MLflow.

    A store that cannot be written can be read; the first write says what is wrong.
    """
    if not path.exists():
        return False
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        Guard(connection)
        check_schema(connection, path)
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables or "runs" not in tables:
            return False
        if not connection.execute(internals.MIGRATED).fetchall():
            return False
        if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
            _try_to_write(connection)
        return connection.execute(internals.HAS_EXPERIMENT).fetchone() is not None


def _try_to_write(connection: sqlite3.Connection) -> None:
    """A lock that is given back at once: says now what the first write would say, unless it would wait.

    Raises: sqlite3.DatabaseError.
    """
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    except sqlite3.OperationalError as error:
        if not failures.is_locked(error):
            raise


def _prepare_postgresql(uri: str) -> None:
    """Make the tables under a lock, as for SQLite; a server that is not there is said at once. Raises: RegistryError.

    MLflow tries for minutes to reach a database, and its migrations race.
    """
    try:
        from sqlalchemy import create_engine, text
        from sqlalchemy.exc import SQLAlchemyError
        from sqlalchemy.pool import NullPool

        engine = create_engine(uri, poolclass=NullPool, connect_args={"connect_timeout": PING_SECONDS})
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if connection.scalar(text(internals.HAS_TABLES_POSTGRESQL)) and connection.scalar(
                text(internals.HAS_EXPERIMENT)
            ):
                return
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
            Client(uri).search_experiments(max_results=1)  # the lock goes with the connection
    except ImportError:
        raise RegistryError(
            f"the tracking store {redacted(uri)} needs a driver that is not installed", "pip install psycopg2-binary"
        ) from None
    except (SQLAlchemyError, ValueError) as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines() or [type(error).__name__]
        reason[0] = scrubbed(reason[0])
        raise RegistryError(
            f"the tracking store {redacted(uri)} does not answer: {reason[0][:300]}",
            "start it, or give another --tracking-uri",
        ) from None


def _ping(uri: str) -> None:
    """Raises: RegistryError at once when nothing answers, where MLflow would retry for minutes."""
    try:
        with urllib.request.urlopen(without_user(uri).rstrip("/") + "/health", timeout=PING_SECONDS):
            return
    except urllib.error.HTTPError:
        return  # something answers; whether it is MLflow, and wants a password, shows at the first call
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise RegistryError(
            f"the tracking server {redacted(uri)} does not answer: {reason}",
            "start it (mlflow server), or give another --tracking-uri",
        ) from None
