"""Which failures mean that a tracking store is unreachable or locked, and how long to retry."""

import os
import sqlite3
from collections.abc import Iterator
from typing import Any

from rewindctl.errors import UsageError

LIMIT = "REWINDCTL_OUTAGE_SECONDS"
DEFAULT_SECONDS = 300.0  # about as long as MLflow itself tries again
RETRY_SECONDS = 1.0  # between two questions whether a store is back
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})  # HTTP


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
