"""SQLite stores that are copied and moved in every way, and what is in them and beside them."""

import hashlib
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from rewindctl.registry import Registry
from rewindctl.registry.roots.binding import MARKER, ROOT
from rewindctl.registry.runs.opening import open_report


def at(store: Path) -> tuple[str, str]:
    return "--tracking-uri", f"sqlite:///{store}"


def world(*folders: Path) -> dict[str, str]:
    """Every file by its digest, a database by what is in it; folders, which are made for nothing, count too."""
    found = {}
    for path in (path for folder in folders for path in folder.rglob("*") if not path.name.endswith(".lock")):
        data = path.read_bytes() if path.is_file() else b""
        if path.suffix == ".db":
            with closing(sqlite3.connect(path)) as connection:
                data = "\n".join(connection.iterdump()).encode()
        found[str(path)] = hashlib.sha256(data).hexdigest()
    return found


def edit(store: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute(sql, values)


def unbind(store: Path) -> None:
    """The store as an earlier version left it."""
    edit(store, "DELETE FROM experiment_tags WHERE key = ?", ROOT)
    for marker in store.parent.rglob(MARKER):
        marker.unlink()


def begin(store: Path) -> str:
    """Make a run, and leave it; its ID."""
    registry = Registry(f"sqlite:///{store}")
    writer = open_report(registry.client, registry.experiment_id, "begun", "")
    writer.fail(KeyboardInterrupt())
    return writer.run_id


def cp(orig: Path, target: Path) -> Path:
    shutil.copytree(orig.parent, target)
    return target / orig.name


def mv(orig: Path, target: Path) -> Path:
    shutil.move(orig.parent, target)
    return target / orig.name


def cp_database(orig: Path, target: Path) -> Path:
    target.mkdir()
    return Path(shutil.copy(orig, target))


def cp_beside(orig: Path, target: Path) -> Path:
    return Path(shutil.copy(orig, orig.with_name("copy.db")))


def mv_database(orig: Path, target: Path) -> Path:
    target.mkdir()
    return Path(shutil.move(orig, target))


def mv_beside(orig: Path, target: Path) -> Path:
    return orig.rename(orig.with_name("renamed.db"))


def cp_with_linked_files(orig: Path, target: Path) -> Path:
    target.mkdir()
    (target / "mlruns").symlink_to(orig.parent / "mlruns")
    return Path(shutil.copy(orig, target))


AWAY: dict[str, Callable[[Path, Path], Path]] = {
    "cp -r": cp,
    "mv": mv,
    "the database alone": cp_database,
    "the database alone, beside": cp_beside,
    "the database moved away from its files": mv_database,
    "the database renamed": mv_beside,
    "the files behind a link": cp_with_linked_files,
}
