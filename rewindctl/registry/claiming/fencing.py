"""Fencing: a database takes what a process writes to a run only while the run is that process's.

A look before a write is not enough: between the two a process may be stopped, for as long as another needs to take its
run over and finish it. Here the look is part of the write: before the first change of a transaction the run is locked
against a takeover, and read.
"""

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rewindctl.registry.records import OWNER
from rewindctl.registry.store.mlflow_internals import mapping

CHANGES = re.compile(r"\s*(INSERT|UPDATE|DELETE)\b", re.IGNORECASE)

_thread = threading.local()


@dataclass
class Fence:
    """This thread writes to a run of `owner`. `taken_by`: the owner found at a write, empty when there was none."""

    run_id: str
    owner: str
    taken_by: str | None = None
    transaction: Any = None  # the last that was let through


class RefusedError(Exception):
    """The run belongs to another process; the transaction is rolled back."""


@contextmanager
def fenced(run_id: str, owner: str) -> Iterator[Fence]:
    """Every database takes what this thread changes within the block only while `owner` has the run, under way."""
    before = getattr(_thread, "fence", None)
    _thread.fence = fence = Fence(run_id, owner)
    try:
        yield fence
    finally:
        _thread.fence = before


def fence_engines() -> None:
    """Let every connection that SQLAlchemy opens in this process heed the fences."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if not event.contains(Engine, "before_cursor_execute", _before_statement):
        event.listen(Engine, "before_cursor_execute", _before_statement)


def _before_statement(connection: Any, cursor: Any, statement: str, *about: Any) -> None:
    fence: Fence | None = getattr(_thread, "fence", None)
    if fence is None or not CHANGES.match(statement):
        return
    transaction = connection.get_transaction()
    if fence.transaction is transaction:  # looked at before its first change, which may have ended the run
        return
    fence.taken_by = _taken_by(connection, fence)
    if fence.taken_by is not None:
        raise RefusedError
    fence.transaction = transaction


def _taken_by(connection: Any, fence: Fence) -> str | None:
    """Whose the run is, where it is not the fence's; it stays as it is until the end of the transaction."""
    from sqlalchemy import select

    run, tag = mapping().SqlRun, mapping().SqlTag
    driver = connection.connection.dbapi_connection
    if isinstance(driver, sqlite3.Connection) and not driver.in_transaction:
        driver.execute("BEGIN IMMEDIATE")  # Python's own BEGIN would lock at the change, after the look
    mine = select(tag.value, run.status, run.lifecycle_stage).join(tag, tag.run_uuid == run.run_uuid)
    mine = mine.where(run.run_uuid == fence.run_id, tag.key == OWNER).with_for_update(read=True)
    owner, *state = connection.execute(mine).first() or ("", "", "")
    if owner != fence.owner:
        return str(owner)
    return None if state == ["RUNNING", "active"] else ""
