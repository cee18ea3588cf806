"""A store that was copied or moved gets its own files: found or copied, verified, and then named by it in one step.

All is verified before anything is written, and what is written before the one transaction is beside it: whole copies of
files, and markers. A process that is killed at any moment leaves the store as it was, to be relocated again, or mended.
"""

import shutil
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rewindctl.errors import IntegrityError, UsageError
from rewindctl.registry import records as tag
from rewindctl.registry.bundle.export import ReportCount
from rewindctl.registry.claiming.ownership import OwnerWatch
from rewindctl.registry.deleting.removal import refuse_if_owned
from rewindctl.registry.records import RunRecord
from rewindctl.registry.roots.binding import ROOT, Binding, Home, alone_in, read_marker
from rewindctl.registry.runs.manifest import CHECKPOINTS, MANIFEST_FILE, MOST_JSON_BYTES, parse_manifest
from rewindctl.registry.runs.reading import ANY, BOTH, search
from rewindctl.registry.store import mlflow_internals as internals
from rewindctl.registry.store.address import absolute_uri, local_path, require_store, sqlite_path
from rewindctl.registry.store.client import Client
from rewindctl.registry.store.connect import connect, lock_file
from rewindctl.system.files import locked, replacing, sha256, writing
from rewindctl.system.safe_text import redacted

WHY = "its store was copied: the original goes on with it"


@dataclass(frozen=True)
class Move:
    """The files of an experiment on their way; `original` is the living store that they are also the files of."""

    home: Home
    root: Path
    mark: str
    original: Path | None

    def source(self, path: Path) -> Path:
        """Where a file of the experiment is now: brought here with the store, else where the store says."""
        return self.root / path if (self.root / path).is_file() else self.home.root / path


@dataclass
class Relocated:
    """What was done, or would be: the folder of each experiment, and counts. No folders: nothing had to be done."""

    store: str
    folders: dict[str, str] = field(default_factory=dict)
    original: str | None = None  # the store that this one is a copy of
    verified: int = 0  # finished runs
    copied: int = 0  # files
    size: int = 0  # bytes of them
    damaged: list[str] = field(default_factory=list)


def relocate(
    tracking_uri: str | None,
    *,
    dry_run: bool = False,
    keep_damaged: bool = False,
    progressed: ReportCount = lambda done, total: None,
) -> Relocated:
    """Give a SQLite store that was copied or moved its own files, beside it.

    Of a copy, unfinished runs become FAILED: the original goes on with them. Raises: UsageError for another store;
    IntegrityError naming the first file that is missing or damaged, unless `keep_damaged`; RegistryError where a living
    process is at a run; DiskError. Nothing is changed then.
    """
    uri = absolute_uri(tracking_uri)
    path = sqlite_path(uri)
    if path is None:
        raise UsageError(f"{redacted(uri)} is not a SQLite store", "its administrator decides where its files are")
    require_store(uri)
    client = connect(uri)
    assert client.binding is not None
    with writing(path), locked(lock_file(path)):
        return _Relocation(client, client.binding, keep_damaged, progressed).run(dry_run)


@dataclass
class _Relocation:
    client: Client
    binding: Binding
    keep_damaged: bool
    progressed: ReportCount
    digests: dict[Path, str] = field(default_factory=dict)  # of the files in a new root that finished runs have

    def run(self, dry_run: bool) -> Relocated:
        done = Relocated(str(self.binding.path))
        with self.client.plain_errors():
            moves = [self._move(home) for home in self.binding.homes() if self.binding.trouble(home)]
        if not moves:
            return done
        done.folders = {move.home.name: str(move.root) for move in moves}
        done.original = next((str(move.original) for move in moves if move.original is not None), None)
        runs = {move.home.experiment_id: self._runs(move) for move in moves}
        self._refuse_living(moves, runs)
        self._verify(moves, runs, done)
        files = [(move, path) for move in moves for path in self._missing(move)]
        done.copied, done.size = len(files), sum((move.home.root / path).stat().st_size for move, path in files)
        if not dry_run:
            self._bring(files)
            for move in moves:
                with writing(move.root), alone_in(move.root):
                    self.binding.write_marker(move.root, move.mark)
            self._rename(moves)
        return done

    def _move(self, home: Home) -> Move:
        root, mark = self.binding.new_root(home.root.name)
        original = self.binding.original(home, root)
        marker = read_marker(root)
        if marker is None or not self.binding.is_here(marker):  # else it is of a relocation that was cut off
            mark = home.mark if home.mark and original is None else uuid.uuid4().hex
        return Move(home, root, mark, original)

    def _runs(self, move: Move) -> list[RunRecord]:
        return search(self.client, [str(move.home.experiment_id)], {tag.SCHEMA: ANY}, view=BOTH)

    def _refuse_living(self, moves: Sequence[Move], runs: dict[int, list[RunRecord]]) -> None:
        """A copy's runs are the original's, and so are the processes at them."""
        watch = OwnerWatch()
        for move in moves:
            for run in runs[move.home.experiment_id] if move.original is None else ():
                refuse_if_owned(run, watch)

    def _verify(self, moves: Sequence[Move], runs: dict[int, list[RunRecord]], done: Relocated) -> None:
        todo = [
            (move, run, folder)
            for move in moves
            for run in runs[move.home.experiment_id]
            if run.finished and not run.deleted and (folder := _below(move.home, run.artifact_uri)) is not None
        ]
        for number, (move, run, folder) in enumerate(todo, start=1):
            try:
                self._verify_run(move, run, folder)
                done.verified += 1
            except IntegrityError:
                if not self.keep_damaged:
                    raise
                done.damaged.append(run.run_id)
            self.progressed(number, len(todo))

    def _verify_run(self, move: Move, run: RunRecord, folder: Path) -> None:
        """Raises: IntegrityError naming the first file whose bytes are not those of the run's manifest."""
        manifest = move.source(folder / MANIFEST_FILE)
        self._check(move, run, folder / MANIFEST_FILE, run.tags.get(tag.MANIFEST, ""))
        if manifest.stat().st_size > MOST_JSON_BYTES:
            raise _unfit(run, manifest, "is too large")
        for name, file in parse_manifest(manifest.read_bytes(), f"run {run.run_id}").artifacts.items():
            left_out = tag.OMITTED in run.tags and name.startswith(CHECKPOINTS)
            if not left_out or move.source(folder / name).is_file():
                self._check(move, run, folder / name, file.sha256)

    def _check(self, move: Move, run: RunRecord, path: Path, digest: str) -> None:
        source = move.source(path)
        if not source.is_file():
            raise _unfit(run, source, "is missing")
        try:
            found = sha256(source)
        except OSError as error:
            raise IntegrityError(f"{source} cannot be read: {error.strerror or error}", "check its disk") from None
        if found != digest:
            raise _unfit(run, source, "is damaged")
        self.digests[move.root / path] = digest

    def _missing(self, move: Move) -> Iterator[Path]:
        """The files of the experiment that the new root does not have, and the old one has."""
        with self.client.plain_errors(), closing(self.binding.connection()) as connection:
            rows = connection.execute(internals.FOLDERS, {"id": move.home.experiment_id}).fetchall()
        for folder in sorted({below for (uri,) in rows if (below := _below(move.home, str(uri))) is not None}):
            for source in sorted((move.home.root / folder).rglob("*")):
                path = source.relative_to(move.home.root)
                half = source.name.startswith(".artifact.uploading.")
                if source.is_file() and not source.is_symlink() and not half and not (move.root / path).is_file():
                    yield path

    def _bring(self, files: Iterable[tuple[Move, Path]]) -> None:
        """Copy the files; none of them stays where not all can. Raises: DiskError, IntegrityError."""
        made: list[Path] = []
        try:
            for move, path in files:
                source, target = move.home.root / path, move.root / path
                made.append(target)
                with writing(target), replacing(target) as temporary:
                    shutil.copyfile(source, temporary)
                    wanted = self.digests.get(target)
                    if temporary.stat().st_size != source.stat().st_size or wanted not in (None, sha256(temporary)):
                        raise IntegrityError(f"{source} changed while it was copied", "the same command again")
        except BaseException:
            for target in made:
                target.unlink(missing_ok=True)
                with suppress(OSError):  # the first that is not empty
                    for folder in target.parents:
                        folder.rmdir()
            raise

    def _rename(self, moves: Sequence[Move]) -> None:
        """The one step that counts. Raises: StoreError."""
        with self.client.plain_errors(), closing(self.binding.connection()) as connection:
            connection.isolation_level = None
            connection.execute("BEGIN IMMEDIATE")
            try:
                for move in moves:
                    rename_studies(connection, move.home, self.binding.path)
                    rename(connection, move.home, move.root, move.mark, move.original)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise


def _below(home: Home, uri: str) -> Path | None:
    """The way from an experiment's root to an address, None for one that is elsewhere."""
    path, root = local_path(uri), home.location.rstrip("/")
    if path is None or not uri.startswith(f"{root}/") or ".." in path.parts:
        return None
    return path.relative_to(home.root)


def _unfit(run: RunRecord, source: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{source} of run {run.run_id} {why}: nothing is relocated",
        "restore it; or use --keep-damaged to relocate the run as it is, and remove it afterwards",
    )


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
