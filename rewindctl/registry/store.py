"""Reaching a tracking store: a fresh SQLite file made by one process at a time, a server that answers, plain errors."""

import errno
import fcntl
import logging
import os
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rewindctl.errors import RegistryError
from rewindctl.files import FORBIDDEN, FULL, disk_hint, replacing
from rewindctl.registry import front

PING_SECONDS = 5
DEFAULT_STORE = "mlflow.db"
CHECK = "check --tracking-uri and the store"
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
    return uri


def redacted(uri: str) -> str:
    """The URI without user name and password, fit for messages, tags and artifacts."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rsplit("@", 1)[1]))


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI, else None."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


class Client:
    """An MlflowClient whose failures are RegistryErrors of one line."""

    def __init__(self, uri: str) -> None:
        # MLflow reports usage to its makers at import unless told not to; experiments are nobody's business.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # With a server it prints each run's address, password and all, to stdout, and a bar for each download.
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is told once, by us
        self._uri, self._secret = redacted(uri), urlsplit(uri).netloc.rpartition("@")[0]
        self._full_uri = uri
        with self._plain_errors():
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._plain_errors():
                return method(*args, **kwargs)

        return call

    def delete_artifacts(self, artifact_uri: str, path: str | None = None) -> None:
        """Delete the artifacts of a run, or those below `path`: what MlflowClient has no method for."""
        with self._plain_errors():
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            get_artifact_repository(artifact_uri, tracking_uri=self._full_uri).delete_artifacts(path)

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        import requests
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, requests.RequestException, OSError, ImportError) as error:
            reason = _reason(error)
            if self._secret:
                reason = reason.replace(f"{self._secret}@", "***@")  # MLflow's messages hold whole addresses
            code = getattr(error, "error_code", "")
            hint = _disk_hint(reason)
            raise StoreError(f"the tracking store {self._uri} answered: {reason[:300]}", hint, code) from error


class StoreError(RegistryError):
    """What the store answered; `code` is MLflow's error code, empty for other failures."""

    def __init__(self, message: str, hint: str = CHECK, code: str = "") -> None:
        super().__init__(message, hint)
        self.code = code


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
    elif urlsplit(uri).scheme in ("http", "https"):
        _ping(uri)
    return Client(uri)


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
    except sqlite3.DatabaseError as error:
        hint = hint if (told := _disk_hint(str(error))) == CHECK else told
        raise RegistryError(f"{path} cannot be used as an MLflow store: {error}", hint) from None
    except OSError as error:
        why = error.strerror or error
        raise RegistryError(f"the store {path} cannot be written: {why}", disk_hint(error, hint)) from None


def _initialised(path: Path) -> bool:
    """Whether MLflow's last migration is through. Raises: sqlite3.DatabaseError when unreadable or locked for long.

    A store that cannot be written can be read; the first write says what is wrong.
    """
    if not path.exists():
        return False
    with closing(sqlite3.connect(path, timeout=20)) as connection:
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
        return bool(connection.execute("SELECT COUNT(*) FROM experiments").fetchone()[0])


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
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *(["--app-name", front.APP] if front.installed() else []),
        "--workers",
        "1",  # for one person; each one more takes seconds to start and hundreds of MB
    ]
