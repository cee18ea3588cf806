"""What goes wrong with a tracking store: it is unreachable, locked or full, refuses its user, or rows collide.

The names of rights are those of MLflow's basic-auth server: READ, EDIT, MANAGE.
"""

import errno
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import unquote

from rewindctl.errors import RegistryError, UsageError
from rewindctl.registry.store.address import is_server
from rewindctl.registry.store.mlflow_internals import saved_user
from rewindctl.system.files import FORBIDDEN, FULL, disk_hint
from rewindctl.system.safe_text import user_info

LIMIT = "REWINDCTL_OUTAGE_SECONDS"
DEFAULT_SECONDS = 300.0  # about as long as MLflow itself tries again
RETRY_SECONDS = 1.0  # between two questions whether a store is back
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})  # HTTP
UNKNOWN, DENIED = "UNAUTHENTICATED", "PERMISSION_DENIED"
STATUS = {401: UNKNOWN, 403: DENIED}  # HTTP; artifacts are sent without MLflow's codes
VERBS = {"READ": "read", "EDIT": "edit", "MANAGE": "delete from"}
IN_EXPERIMENT = re.compile(r"/([0-9]+)/[0-9a-f]{32}/artifacts")
LOCKED = "is held locked by another program"
LOCKED_HINT = "end that program or its transaction, then the same command goes on"
CHECK = "check --tracking-uri and the store"
READING = ("get_", "search_", "list_", "download_")  # all other calls change the store, or the files that it names
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
MOST_CONFLICTS = 20
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
T = TypeVar("T")


class StoreError(RegistryError):
    """What the store answered; `code` is MLflow's error code, empty for other failures."""

    def __init__(self, message: str, hint: str = CHECK, code: str = "") -> None:
        super().__init__(message, hint)
        self.code = code


class DeniedError(StoreError):
    """A server does not know the user, or the user lacks a right: message and hint name both, and whom to ask."""


class AwayError(StoreError):
    """The store did not answer, or cannot just now; what it was asked may have been done all the same."""

    def __init__(
        self, message: str, hint: str = "start the tracking server again, or give another --tracking-uri"
    ) -> None:
        super().__init__(message, hint)


def despite_conflicts(call: Callable[[], T]) -> T:
    """The call's result; repeated where another process wrote the same row at that moment.

    Runs that begin or end together write the same rows (their data set, the next model version). MLflow looks for what
    is there and then makes what is not: all writers but one are refused.
    """
    for _ in range(MOST_CONFLICTS):
        try:
            return call()
        except StoreError as error:
            if not any(words in error.message for words in CONFLICTS):
                raise
    return call()


def none_if_missing(call: Callable[[], T]) -> T | None:
    """The call's result, None where the store does not have what it asks for. Raises: StoreError."""
    try:
        return call()
    except StoreError as error:
        if error.code in NOT_THERE:
            return None
        raise


def patiently(call: Callable[[], T], seconds: float) -> T:
    """The call's result; where the store is unreachable, asked for again for so long. Raises: AwayError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except AwayError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_SECONDS)


def limit_seconds() -> float:
    """Seconds to retry an unreachable store, from `$REWINDCTL_OUTAGE_SECONDS`. Raises: UsageError."""
    text = os.environ.get(LIMIT) or str(DEFAULT_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"${LIMIT} is {text!r}", "give a number of seconds, 0 or more")
    return seconds


def is_locked(error: BaseException) -> bool:
    """Whether another program holds a SQLite store locked: nothing was done, and the same call may succeed later."""
    codes = [link.sqlite_errorcode for link in chain(error) if isinstance(link, sqlite3.OperationalError)]
    return any(code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) for code in codes)


def is_outage(error: BaseException) -> bool:
    """Whether the store did not answer, or said that it cannot just now: the same request may succeed later."""
    import requests
    from sqlalchemy.exc import DBAPIError, OperationalError

    for link in chain(error):
        if isinstance(link, requests.RequestException):
            status = getattr(getattr(link, "response", None), "status_code", None)
            return (status in TRANSIENT) if status is not None else not isinstance(link, ValueError)
        if isinstance(link, OperationalError) or (isinstance(link, DBAPIError) and link.connection_invalidated):
            return True
    return getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE"


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from; requests and urllib3 hold the reason in other places too."""
    open_, seen = [error], set[int]()
    while open_:
        link = open_.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        inner: list[Any] = [link.__cause__, link.__context__, getattr(link, "reason", None), *link.args]
        open_ += [one for one in inner if isinstance(one, BaseException)]


def refused(error: BaseException) -> str:
    """MLflow's code where a server refused a user or what the user asked for, else empty."""
    for link in chain(error):
        code = getattr(link, "error_code", "")
        status = STATUS.get(getattr(getattr(link, "response", None), "status_code", None) or 0, "")
        if found := code if code in STATUS.values() else status:
            return found
    return ""


def user_of(uri: str) -> str:
    """The user whose credentials a server is sent, empty where there are none; never a password."""
    name = unquote(user_info(uri).partition(":")[0])
    if not name and is_server(uri):
        with suppress(Exception):  # a file of credentials that is not readable
            name = saved_user()
    return name


def missing(mlflow: Any, method: str, values: tuple[Any, ...]) -> tuple[str, str]:
    """The right that a call wants, and on what."""
    if "registered_model" in method or "model_version" in method:
        name = next((value for value in values if isinstance(value, str)), "")
        return _right(method), f"registered model {name!r}" if name else "registered models"
    return _right(method), _experiment(mlflow, method, values)


def _right(method: str) -> str:
    if method.startswith(READING):
        return "READ"
    deletes = method.startswith(("delete_", "restore_")) and not method.endswith(("_tag", "_alias"))
    return "MANAGE" if deletes else "EDIT"


def _experiment(mlflow: Any, method: str, values: tuple[Any, ...]) -> str:
    """The experiment that a call is about, by its name where the user may read that."""
    for text in _texts(values):
        if method == "get_experiment_by_name":
            return f"experiment {text!r}"
        with suppress(Exception):  # nothing of this is more than a help
            found = IN_EXPERIMENT.search(text)
            number = found[1] if found else text if text.isdecimal() else mlflow.get_run(text).info.experiment_id
            return f"experiment {mlflow.get_experiment(number).name!r}"
        return f"experiment {text}" if text.isdecimal() else f"the experiment of run {text}"
    return "experiments"


def _texts(values: tuple[Any, ...]) -> Iterator[str]:
    for value in values:
        yield from value if isinstance(value, list) else [value] if isinstance(value, str) else []


def reason_of(error: Exception) -> str:
    """The line that says why: of SQLAlchemy's many the driver's, else the first."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "Error) " in line), lines[0] if lines else type(error).__name__)


def hint_for(reason: str) -> str:
    """What to do when the disk of a store or of its artifacts is the reason; else to check the store."""
    for words, number in DISK_WORDS.items():
        if words in reason:
            return disk_hint(OSError(number, reason))
    return CHECK
