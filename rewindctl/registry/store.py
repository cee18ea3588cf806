"""Reaching a tracking store: a fresh SQLite file made by one process at a time, a server that answers, plain errors."""

import errno
import fcntl
import gc
import http.client
import ipaddress
import logging
import os
import re
import socket
import sqlite3
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from rewindctl.errors import RegistryError, RewindError, UsageError
from rewindctl.files import FORBIDDEN, FULL, disk_hint, replacing
from rewindctl.registry import front, outage
from rewindctl.registry.sqlite_guard import Guard, check_schema, guard_engines
from rewindctl.safe_text import redacted, remember, scrubbed, user_info

PING_SECONDS = 5
MIGRATION_LOCK = 0x7265_7769  # any number that no other program of the database takes
T = TypeVar("T")
DEFAULT_STORE = "mlflow.db"
# MLflow's own patience, minutes in which a training stands still, is not wanted: see `Client` and `RunWriter`.
HTTP_DEFAULTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
# Done twice is done once; makers of experiments and registered models are told that there is one.
REPEATABLE = (
    *("get_", "search_", "list_", "download_", "set_", "log_", "update_", "delete_"),
    *("create_experiment", "create_registered_model"),
)
ODD_SIGNS = re.compile(r"[/?#@\[\]\s]")  # in a user name or password: where the host begins is then anyone's guess
LOOPBACK, ANY_ADDRESS = "127.0.0.1", ("0.0.0.0", "::", "[::]")
NAME = r"[A-Za-z0-9*\[:][A-Za-z0-9.:*\[\]-]*"
HOST, HOSTS = re.compile(NAME), re.compile(f"{NAME}(,{NAME})*")
UI_STORE = "MLFLOW_BACKEND_STORE_URI"  # not on the command line, where everyone on the machine could read a password
CHECK = "check --tracking-uri and the store"
# SQLite's, PostgreSQL's, and MLflow's own when it has tried three numbers for a model version.
CONFLICTS = ("UNIQUE constraint failed", "duplicate key value", "Model Version creation error")
# What SQLite says of its disk, and what the system would have said.
SQLITE_WORDS = {
    "database or disk is full": errno.ENOSPC,
    "readonly database": errno.EROFS,
    "unable to open database file": errno.EACCES,
    "disk I/O error": errno.EIO,
}
DISK_WORDS = SQLITE_WORDS | {os.strerror(number): number for number in (*FULL, *FORBIDDEN, errno.EIO)}


def absolute_uri(uri: str | None) -> str:
    """The URI given, else `$MLFLOW_TRACKING_URI`, else `mlflow.db` here; SQLite paths absolute."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE}"
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).expanduser().absolute()}"
    if "://" not in uri:
        raise RegistryError(
            f"tracking URI {uri!r} has no scheme",
            f"give sqlite:///{uri}/mlflow.db, or the http:// address of an MLflow server",
        )
    remember(uri)
    if odd := ODD_SIGNS.search(user_info(uri)):
        raise RegistryError(
            f"the user name or password in the tracking URI {redacted(uri)} has a sign that must be written as a code",
            f"write {quote(odd[0], safe='')} for {odd[0]!r}; "
            "or leave both out and set $MLFLOW_TRACKING_USERNAME and $MLFLOW_TRACKING_PASSWORD",
        )
    if uri.startswith("postgresql://"):
        return f"postgresql{_driver()}{uri.removeprefix('postgresql')}"
    return uri


def _driver() -> str:
    """SQLAlchemy 2.1 looks for psycopg alone where the address names no driver, 2.0 for psycopg2."""
    return "+psycopg2" if find_spec("psycopg2") and not find_spec("psycopg") else ""


def is_server(uri: str) -> bool:
    """Whether it is the address of a tracking server, and no database."""
    return uri.partition("://")[0].lower() in ("http", "https")


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
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is told once, by us
        # Interrupted within a query, or cut off from its database, it would print a traceback.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
        remember(uri)
        self.uri, self.display_uri = uri, redacted(uri)
        self._patience, self._remote = patience, sqlite_path(uri) is None
        if not self._remote:
            guard_engines()
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

            get_artifact_repository(artifact_uri, tracking_uri=self.uri).delete_artifacts(path)

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

            repository = get_artifact_repository(artifact_uri, tracking_uri=self.uri)
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
        try:
            yield
        except RewindError:
            raise
        except (KeyboardInterrupt, SystemExit) as error:
            _let_go(error)
            raise
        except Exception as error:  # MLflow's, SQLAlchemy's, drivers', and those of an answer that is none
            reason = scrubbed(_reason(error)[:3_000])  # MLflow's messages hold whole addresses
            message = f"the tracking store {self.display_uri} answered: {reason[:300]}"
            if self._remote and outage.is_outage(error):
                raise AwayError(message) from error
            raise StoreError(message, _disk_hint(reason), str(getattr(error, "error_code", ""))) from error


class StoreError(RegistryError):
    """What the store answered; `code` is MLflow's error code, empty for other failures."""

    def __init__(self, message: str, hint: str = CHECK, code: str = "") -> None:
        super().__init__(message, hint)
        self.code = code

    @property
    def conflict(self) -> bool:
        """Whether another run was writing the same row at that moment: asked again, the store finds it there."""
        return any(words in self.message for words in CONFLICTS)


class AwayError(StoreError):
    """The store did not answer, or cannot just now; what it was asked may have been done all the same."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "start the tracking server again, or give another --tracking-uri")


def _let_go(error: BaseException | None) -> None:
    """Free what an interrupted call held: a cursor within a query keeps SQLite's lock from whoever cleans up now."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    gc.collect()  # a session and its transaction hold each other


def _reason(error: Exception) -> str:
    """The line that says why: of SQLAlchemy's many the driver's, else the first."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "Error) " in line), lines[0] if lines else type(error).__name__)


def _disk_hint(reason: str) -> str:
    """What to do when the disk of a store or of its artifacts is the reason; else to check the store."""
    for words, number in DISK_WORDS.items():
        if words in reason:
            return disk_hint(OSError(number, reason))
    return CHECK


def connect(uri: str) -> Client:
    """A client on a store that is there, whole, and answers. Raises: RegistryError."""
    path = sqlite_path(uri)
    if path is not None:
        _prepare_sqlite(path, uri)
    elif is_server(uri):
        _ping(uri)
    elif urlsplit(uri).scheme.startswith("postgresql"):
        _prepare_postgresql(uri)
    return Client(uri, 0.0 if path is not None else outage.limit_seconds())


def _prepare_sqlite(path: Path, uri: str) -> None:
    """Make the store under a lock: MLflow crashes when several processes first touch one at once.

    It is made beside its place: MLflow cannot go on with one whose making was cut off.
    """
    hint = "choose another place with --tracking-uri sqlite:///PATH"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _initialised(path):
            return
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                with replacing(path) as temporary:
                    Client(f"sqlite:///{temporary}").search_experiments(max_results=1)
            elif not _initialised(path):
                Client(uri).search_experiments(max_results=1)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        hint = hint if (told := _disk_hint(str(error))) == CHECK else told
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
    with closing(sqlite3.connect(path, timeout=20)) as connection:
        Guard(connection)
        check_schema(connection, path)
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables or "runs" not in tables:
            return False
        if not connection.execute("SELECT version_num FROM alembic_version").fetchall():
            return False
        if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
            # A lock that is given back at once: says now what the first write would say.
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
        # MLflow writes its default experiment after the last migration.
        return connection.execute("SELECT 1 FROM experiments LIMIT 1").fetchone() is not None


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
        reason[0] = scrubbed(reason[0])
        raise RegistryError(
            f"the tracking store {redacted(uri)} does not answer: {reason[0][:300]}",
            "start it, or give another --tracking-uri",
        ) from None


def _ping(uri: str) -> None:
    """Raises: RegistryError at once when nothing answers, where MLflow would retry for minutes."""
    try:
        with urllib.request.urlopen(_without_user(uri).rstrip("/") + "/health", timeout=PING_SECONDS):
            return
    except urllib.error.HTTPError:
        return  # something answers; whether it is MLflow, and wants a password, shows at the first call
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise RegistryError(
            f"the tracking server {redacted(uri)} does not answer: {reason}",
            "start it (mlflow server), or give another --tracking-uri",
        ) from None


def _without_user(uri: str) -> str:
    found = user_info(uri)
    return uri.replace(f"{found}@", "", 1) if found else uri


def ui_command(
    uri: str, port: int, start: str = "", host: str = LOOPBACK, allowed_hosts: str | None = None
) -> list[str]:
    """The command that serves the MLflow UI of a store. `start`: the page to begin at; `uri` is for `UI_STORE`.

    Only browsers that ask for this machine by a name of its own are answered: a page from elsewhere cannot reach the
    loopback address under a name that its author points there. MLflow's own list has `10.*`, names too.

    Raises: RegistryError for a tracking server, which has its UI at its own address; UsageError.
    """
    check_hosts(host, allowed_hosts)
    if is_server(uri):
        raise RegistryError(
            f"{redacted(uri)} is a tracking server",
            f"it has the UI: open {redacted(uri).rstrip('/')}/{start} in a browser",
        )
    names = ["localhost", LOOPBACK, *([host] if host not in ANY_ADDRESS else [])]
    allowed = [f"{name}:{port}" for name in dict.fromkeys(names)] + (allowed_hosts.split(",") if allowed_hosts else [])
    return [
        *(sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)),
        *(["--allowed-hosts", ",".join(allowed)] if allowed_hosts or host not in ANY_ADDRESS else []),
        *(["--app-name", front.APP] if front.installed() else []),
        *("--workers", "1"),  # for one person; each one more takes seconds to start and hundreds of MB
    ]


def check_hosts(host: str, allowed_hosts: str | None) -> None:
    """Raises: UsageError for what is no address, or no list of names."""
    if not HOST.fullmatch(host):
        raise UsageError(f"--host {host!r:.100} is no address", "give a name or an IP address, as 127.0.0.1")
    if allowed_hosts is not None and not HOSTS.fullmatch(allowed_hosts):
        raise UsageError(f"--allowed-hosts {allowed_hosts!r:.100} is no list of names", "write lab.example.org:5000")


def require_free(host: str, port: int) -> None:
    """Raises: RegistryError when nothing can listen there: MLflow would end without an exit code that says so."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), port))
    except OSError as error:
        raise RegistryError(
            f"the MLflow UI cannot listen at {host}:{port}: {error.strerror or error}",
            "is the port taken? give another --port",
        ) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
