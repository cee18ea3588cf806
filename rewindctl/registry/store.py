"""Reaching a tracking store: a fresh SQLite file made by one process at a time, a server that answers, plain errors."""

import fcntl
import logging
import os
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from rewindctl.errors import RegistryError
from rewindctl.registry import front, outage

PING_SECONDS = 5
MIGRATION_LOCK = 0x7265_7769  # any number that no other program of the database takes
SHORTEST_SECRET = 4  # characters; what is shorter would be struck out of every other word
T = TypeVar("T")
DEFAULT_STORE = "mlflow.db"
# MLflow's own patience, minutes in which a training stands still, is not wanted: see `Client` and `RunWriter`.
HTTP_DEFAULTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
# Done twice is done once; makers of experiments and registered models are told that there is one.
REPEATABLE = (
    *("get_", "search_", "list_", "download_", "set_", "log_", "update_", "delete_"),
    *("create_experiment", "create_registered_model"),
)


def absolute_uri(uri: str | None) -> str:
    """The URI given, else `$MLFLOW_TRACKING_URI`, else `mlflow.db` here; SQLite paths absolute."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE}"
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).expanduser().absolute()}"
    if uri.startswith("postgresql://"):
        return f"postgresql{_driver()}{uri.removeprefix('postgresql')}"
    if "://" not in uri:
        raise RegistryError(
            f"tracking URI {uri!r} has no scheme",
            f"give sqlite:///{uri}/mlflow.db, or the http:// address of an MLflow server",
        )
    return uri


def _driver() -> str:
    """SQLAlchemy 2.1 looks for psycopg alone where the address names no driver, 2.0 for psycopg2."""
    return "+psycopg2" if find_spec("psycopg2") and not find_spec("psycopg") else ""


def redacted(uri: str) -> str:
    """The URI without user name and password, fit for messages, tags and artifacts."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rsplit("@", 1)[1]))


def _secrets(uri: str) -> list[str]:
    """What of a URI no message may hold, longest first: its credentials, and the password as it is sent."""
    login = urlsplit(uri).netloc.rpartition("@")[0]
    password = login.partition(":")[2]
    found = {login, *(word for word in (password, unquote(password)) if len(word) >= SHORTEST_SECRET)}
    return sorted(filter(None, found), key=len, reverse=True)


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI, else None."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


class Client:
    """An MlflowClient whose failures are RegistryErrors of one line.

    A store that goes away is asked again for `patience` seconds, unless that might do something twice.
    """

    def __init__(self, uri: str, patience: float = 0.0) -> None:
        # MLflow reports usage to its makers at import unless told not to; experiments are nobody's business.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # With a server it prints each run's address, password and all, to stdout, and a bar for each download.
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        for key, value in HTTP_DEFAULTS.items():
            os.environ.setdefault(key, value)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # Interrupted within a query, or cut off from its database, it would print a traceback.
        for name in ("mlflow.store.db.utils", "sqlalchemy.pool"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self.display_uri, self._secrets = redacted(uri), _secrets(uri)
        self._full_uri, self._patience, self._remote = uri, patience, sqlite_path(uri) is None
        with self.plain_errors():
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def impatient(self) -> "Client":
        """The same client, whose calls fail at once when the store is away."""
        other = Client.__new__(Client)
        other.__dict__.update(self.__dict__, _patience=0.0)
        return other

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.patiently(lambda: method(*args, **kwargs), repeatable=name.startswith(REPEATABLE))

        return call

    def patiently(self, call: Callable[[], T], *, repeatable: bool = True) -> T:
        """The call's result; where the store is away and the call may be repeated, asked for again for a while."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                with self.plain_errors():
                    return call()
            except AwayError:
                if time.monotonic() >= deadline or not repeatable:
                    raise
            time.sleep(outage.RETRY_SECONDS)

    def delete_artifacts(self, artifact_uri: str, path: str | None = None) -> None:
        """Delete the artifacts of a run, or those below `path`: what MlflowClient has no method for."""
        with self.plain_errors():
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            get_artifact_repository(artifact_uri, tracking_uri=self._full_uri).delete_artifacts(path)

    @property
    def engine(self) -> Any:
        """The database's own connections, None where the store is a server."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = self._client._tracking_client.store
        return store.engine if isinstance(store, SqlAlchemyStore) else None

    def list_files(self, artifact_uri: str) -> dict[str, int]:
        """Every file below an artifact URI and its bytes, whatever became of its run; empty where there is none."""
        with self.plain_errors():
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            repository = get_artifact_repository(artifact_uri, tracking_uri=self._full_uri)
            files: dict[str, int] = {}
            folders: list[str | None] = [None]
            while folders:
                for entry in repository.list_artifacts(folders.pop()):
                    if entry.is_dir:
                        folders.append(entry.path)
                    else:
                        files[entry.path] = entry.file_size or 0
            return files

    @contextmanager
    def plain_errors(self) -> Iterator[None]:
        """Failures of MLflow and of what it stands on become a StoreError of one line."""
        import requests
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, requests.RequestException, OSError, ImportError) as error:
            said = str(error)
            reason = next((line for line in said.splitlines() if line.strip()), type(error).__name__)
            message = f"the tracking store {self.display_uri} answered: {self._scrubbed(reason)[:300]}"
            away = self._remote and outage.is_outage(error)
            plain = AwayError(message) if away else StoreError(message, code=getattr(error, "error_code", ""))
            # A traceback shows what an error came from: not where MLflow's own words hold the password.
            raise plain from (None if self._secrets else error)

    def _scrubbed(self, text: str) -> str:
        """MLflow's messages hold whole addresses."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class StoreError(RegistryError):
    """What the store answered; `code` is MLflow's error code, empty for other failures."""

    def __init__(self, message: str, hint: str = "check --tracking-uri and the store", code: str = "") -> None:
        super().__init__(message, hint)
        self.code = code


class AwayError(StoreError):
    """The store did not answer, or cannot just now; what it was asked may have been done all the same."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "start the tracking server again, or give another --tracking-uri")


def connect(uri: str) -> Client:
    """A client on a store that is there, whole, and answers. Raises: RegistryError."""
    path = sqlite_path(uri)
    if path is not None:
        _prepare_sqlite(path, uri)
    elif urlsplit(uri).scheme in ("http", "https"):
        _ping(uri)
    elif urlsplit(uri).scheme.startswith("postgresql"):
        _prepare_postgresql(uri)
    return Client(uri, 0.0 if path is not None else outage.limit_seconds())


def _prepare_sqlite(path: Path, uri: str) -> None:
    """Make the store under a lock: MLflow crashes when several processes first touch one at once."""
    hint = "choose another place with --tracking-uri sqlite:///PATH"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _initialised(path):
            return
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _initialised(path):
                Client(uri).search_experiments(max_results=1)
    except sqlite3.DatabaseError as error:
        raise RegistryError(f"{path} cannot be used as an MLflow store: {error}", hint) from None
    except OSError as error:
        raise RegistryError(f"the store {path} cannot be written: {error.strerror or error}", hint) from None


def _initialised(path: Path) -> bool:
    """Whether MLflow's last migration is through. Raises: sqlite3.DatabaseError when unreadable or read-only."""
    if not path.exists():
        return False
    with closing(sqlite3.connect(path, timeout=20)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables or "runs" not in tables:
            return False
        if not connection.execute("SELECT version_num FROM alembic_version").fetchall():
            return False
        # A lock that is given back at once: says now, in plain words, what the first write would say in a hundred.
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
        # MLflow writes its default experiment after the last migration.
        return bool(connection.execute("SELECT COUNT(*) FROM experiments").fetchone()[0])


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
            if connection.scalar(text("SELECT to_regclass('experiments') IS NOT NULL")) and connection.scalar(
                text("SELECT COUNT(*) FROM experiments")  # MLflow writes its default one after the last migration
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
        for secret in _secrets(uri):
            reason[0] = reason[0].replace(secret, "***")
        raise RegistryError(
            f"the tracking store {redacted(uri)} does not answer: {reason[0][:300]}",
            "start it, or give another --tracking-uri",
        ) from None


def _ping(uri: str) -> None:
    """Raises: RegistryError at once when nothing answers, where MLflow would retry for minutes."""
    try:
        with urllib.request.urlopen(
            urlunsplit(urlsplit(uri)._replace(netloc=_host(uri))).rstrip("/") + "/health", timeout=PING_SECONDS
        ):
            return
    except urllib.error.HTTPError:
        return  # something answers; whether it is MLflow, and wants a password, shows at the first call
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise RegistryError(
            f"the tracking server {redacted(uri)} does not answer: {reason}",
            "start it (mlflow server), or give another --tracking-uri",
        ) from None


def _host(uri: str) -> str:
    return urlsplit(uri).netloc.rsplit("@", 1)[-1]


def ui_command(uri: str, port: int, start: str = "") -> list[str]:
    """The command that serves the MLflow UI of a store on the loopback address. `start`: the page to begin at.

    Raises: RegistryError for a tracking server, which has its UI at its own address.
    """
    if urlsplit(uri).scheme in ("http", "https"):
        raise RegistryError(
            f"{redacted(uri)} is a tracking server",
            f"it has the UI: open {redacted(uri).rstrip('/')}/{start} in a browser",
        )
    return [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        # Every user of this machine can read a command line: a database's password goes by `$MLFLOW_BACKEND_STORE_URI`.
        *(["--backend-store-uri", uri] if sqlite_path(uri) else []),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *(["--app-name", front.APP] if front.installed() else []),
        "--workers",
        "1",  # for one person; each one more takes seconds to start and hundreds of MB
    ]
