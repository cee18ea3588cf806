"""What a SQLite store says of an experiment's files, changed within one transaction from their old place to the new."""

import sqlite3
from pathlib import Path

from rewindctl.registry import records as tag
from rewindctl.registry.roots.binding import ROOT, Home
from rewindctl.registry.store import mlflow_internals as internals

WHY = "its store was copied: the original goes on with it"


def rename(connection: sqlite3.Connection, home: Home, root: Path, mark: str, original: Path | None) -> None:
    """Name `root` as the place of the files below `home`. Runs of an `original` are said to be copies."""
    old, new = home.location.rstrip("/"), root.as_uri()
    values = {"id": home.experiment_id, "old": old, "new": new, "below": f"{old}/", "length": len(old)}
    for statement in internals.MOVE:
        connection.execute(statement, values)
    connection.execute(internals.REBIND, (ROOT, mark, home.experiment_id))
    if original is not None:
        about = {"id": home.experiment_id, "key": tag.ERROR, "value": WHY}
        connection.execute(internals.TAG_UNFINISHED, about)
        connection.execute(internals.FAIL_UNFINISHED, about)
        connection.execute(internals.TAG_RUNS, about | {"key": tag.COPIED, "value": str(original)})


def rename_studies(connection: sqlite3.Connection, home: Home, store: Path) -> None:
    """Searches whose trials were kept beside the old root have them beside the store, where they came with it."""
    old = home.root.parent.parent
    about = {"id": home.experiment_id, "key": tag.STORAGE}
    for run_id, value in connection.execute(internals.TAGGED, about).fetchall():
        place = Path(str(value))
        if place.parent == old and (store.parent / place.name).is_file():
            connection.execute(internals.TAG_RUN, (tag.STORAGE, str(store.parent / place.name), run_id))
