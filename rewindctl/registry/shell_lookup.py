"""A glance at a SQLite store for what a shell offers: read-only, MLflow not loaded, at once or not at all.

It reads the tables as MLflow 3 makes them. A list of our own beside the store would know nothing of what others import,
delete or make elsewhere; a store that is locked, of another form, or no SQLite file just has nothing to offer.
"""

import re
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from rewindctl.registry.store import mlflow_internals as internals
from rewindctl.registry.store.address import absolute_uri, sqlite_path

MOST = 100  # runs: those that started last
LOCKED_SECONDS = 0.2
LONGEST_SECONDS = 0.5


def runs(uri: str | None, prefix: str, kinds: Sequence[str] = ()) -> dict[str, str]:
    """Run IDs that begin with `prefix`, newest first, each with kind and name; of `kinds` only those finished."""
    if not re.fullmatch(r"[0-9a-f]{0,32}", prefix):
        return {}
    chosen = f"AND runs.status = 'FINISHED' AND kinds.value IN ({','.join('?' * len(kinds))})" if kinds else ""
    rows = _ask(uri, internals.GLANCE_RUNS.format(kinds=chosen), f"{prefix}*", *kinds, MOST)
    return {
        run_id: f"{kind}, {status.lower()}: {name}" if status != "FINISHED" else f"{kind}: {name}"
        for run_id, status, kind, name in rows
    }


def baselines(uri: str | None) -> list[str]:
    """`models:/NAME@alias` of every dense run that has one."""
    return [name for (name,) in _ask(uri, internals.GLANCE_ALIASES, MOST)]


def experiments(uri: str | None) -> list[str]:
    """Names of experiments."""
    return [name for (name,) in _ask(uri, internals.GLANCE_EXPERIMENTS, MOST)]


def _ask(uri: str | None, query: str, *values: object) -> list[Any]:
    path = sqlite_path(absolute_uri(uri))
    if path is None or not path.is_file():
        return []
    deadline = time.monotonic() + LONGEST_SECONDS
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=LOCKED_SECONDS)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
        return connection.execute(query, values).fetchall()
