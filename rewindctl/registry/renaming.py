"""What a SQLite store says of an experiment's files, changed within one transaction from their old place to the new."""

import sqlite3
from pathlib import Path

from rewindctl.registry import records as tag
from rewindctl.registry.binding import ROOT, Home

OF_RUNS = "run_id IN (SELECT run_uuid FROM runs WHERE experiment_id = :id)"
OF_TRACES = (
    "key = 'mlflow.artifactLocation' AND request_id IN (SELECT request_id FROM trace_info WHERE experiment_id = :id)"
)
# Every column in which MLflow keeps an address below an experiment's artifact root.
ADDRESSES = (
    ("runs", "artifact_uri", "experiment_id = :id"),
    ("logged_models", "artifact_location", "experiment_id = :id"),
    ("model_versions", "source", OF_RUNS),
    ("model_versions", "storage_location", OF_RUNS),
    ("trace_tags", "value", OF_TRACES),
)
OURS = f"SELECT run_uuid FROM tags WHERE key = '{tag.KIND}'"
RUNS = f"SELECT run_uuid FROM runs WHERE experiment_id = :id AND run_uuid IN ({OURS})"
UNFINISHED = f"run_uuid IN ({RUNS}) AND status IN ('RUNNING', 'SCHEDULED', 'KILLED')"
NOTE = "INSERT OR REPLACE INTO tags (key, value, run_uuid)"
WHY = "its store was copied: the original goes on with it"


def rename(connection: sqlite3.Connection, home: Home, root: Path, mark: str, original: Path | None) -> None:
    """Name `root` as the place of the files below `home`. Runs of an `original` are said to be copies."""
    old, new = home.location.rstrip("/"), root.as_uri()
    values = {"id": home.experiment_id, "old": old, "new": new, "below": f"{old}/", "length": len(old)}
    for table, column, which in ADDRESSES:
        connection.execute(
            f"UPDATE {table} SET {column} = :new || substr({column}, :length + 1) "
            f"WHERE ({column} = :old OR substr({column}, 1, :length + 1) = :below) AND {which}",
            values,
        )
    connection.execute("UPDATE experiments SET artifact_location = :new WHERE experiment_id = :id", values)
    row = (ROOT, mark, home.experiment_id)
    connection.execute("INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)", row)
    if original is not None:
        about = {"id": home.experiment_id, "from": str(original), "why": WHY}
        connection.execute(f"{NOTE} SELECT '{tag.ERROR}', :why, run_uuid FROM runs WHERE {UNFINISHED}", about)
        connection.execute(f"UPDATE runs SET status = 'FAILED' WHERE {UNFINISHED}", about)
        connection.execute(f"{NOTE} SELECT '{tag.COPIED}', :from, run_uuid FROM ({RUNS})", about)


def rename_studies(connection: sqlite3.Connection, home: Home, store: Path) -> None:
    """Searches whose trials were kept beside the old root have them beside the store, where they came with it."""
    old = home.root.parent.parent
    about = {"id": home.experiment_id, "key": tag.STORAGE}
    found = connection.execute(f"SELECT run_uuid, value FROM tags WHERE key = :key AND run_uuid IN ({RUNS})", about)
    for run_id, value in found.fetchall():
        place = Path(str(value))
        if place.parent == old and (store.parent / place.name).is_file():
            connection.execute(f"{NOTE} VALUES (?, ?, ?)", (tag.STORAGE, str(store.parent / place.name), run_id))
