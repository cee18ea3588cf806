"""Which store the files in an artifact root belong to: the store names the root, and a marker there names the store.

The addresses of files in a SQLite store are absolute. A copy of it names the files of the original, one that was moved
names a place where there is nothing: in neither may anything be written or deleted before `relocation` has mended it.
"""

import re
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from rewindctl.errors import IntegrityError, RegistryError
from rewindctl.registry.runs.manifest import Strict, parse_strict
from rewindctl.registry.store import mlflow_internals as internals
from rewindctl.registry.store.address import local_path
from rewindctl.registry.store.sqlite_files import (
    BUSY_SECONDS,
    Guard,
    are_apart,
    files_in,
    has_twin,
    is_same,
    is_sqlite,
    names_root,
)
from rewindctl.system.files import locked, replacing, writing

MARKER = ".rewindctl.json"
MOST_BYTES = 10_000
ROOT = "rewindctl.root"  # tag of an experiment: the ID in the marker of its artifact root
MEND = "give the store its own files: rewindctl registry relocate"


class MisplacedError(RegistryError):
    """A store was copied or moved: the files that it names are not, or not only, its own."""


class Marker(Strict):
    """Whose the files in an artifact root are: the ID that the experiment has too, and the path of its database."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    database: Annotated[str, Field(max_length=4_096, pattern=r"^/[^\x00]*$")]


@dataclass(frozen=True)
class Home:
    """An experiment whose files are on this machine, as its database has it; `mark` is empty before it is bound.

    `has_runs`: of ours, which have files.
    """

    experiment_id: int
    name: str
    location: str
    made: int
    mark: str
    has_runs: bool

    @property
    def root(self) -> Path:
        path = local_path(self.location)
        assert path is not None
        return path


class Binding:
    """A SQLite store and the artifact roots of its experiments that have runs of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._homes: list[Home] = []  # those that were found in order, to be looked at again before each write
        self._opened: set[int] = set()
        self._shared: dict[int, Marker] = {}  # experiments whose root is another store's, which has none of their runs

    def open(self, experiment_id: str) -> None:
        """Runs are about to be made in this experiment, whoever made it."""
        self._opened.add(int(experiment_id))
        self._homes = []

    def refuse(self) -> None:
        """Raises: MisplacedError where files that the store names are not its own. Changes nothing."""
        if not self.path.exists():
            raise MisplacedError(f"the store {self.path} no longer exists", f"if it was moved, {MEND}")
        for home in self.homes():
            if why := self.trouble(home):
                raise MisplacedError(why, self._hint(home))

    def require(self) -> None:
        """As `refuse`; roots that are nobody's are this store's from now on. Called before every write."""
        if self._homes and all(self._is_bound(home) for home in self._homes):
            return
        self.refuse()
        homes = self.homes()
        for home in homes:
            marker = read_marker(home.root)
            if marker is not None and self._is_shared(home, marker):
                self._shared[home.experiment_id] = marker
            elif not self._is_bound(home):
                self._claim(home)
        self._homes = self.homes() if homes else []

    def homes(self) -> list[Home]:
        """The experiments that are ours and have their files on this machine; those that were deleted too."""
        found = []
        with closing(self.connection()) as connection:
            for number, name, location, made, mark, ours in connection.execute(internals.HOMES, (ROOT,)).fetchall():
                if (mark or ours or number in self._opened) and local_path(str(location)) is not None:
                    found.append(Home(number, str(name), str(location), made, str(mark or ""), bool(ours)))
        return found

    def connection(self) -> sqlite3.Connection:
        """A connection of its own to the database."""
        connection = sqlite3.connect(f"{self.path.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)
        Guard(connection)
        return connection

    def trouble(self, home: Home) -> str:
        """Why nothing may be written to an experiment; empty where its root is this store's, or is nobody's."""
        try:
            marker = read_marker(home.root)
            why = self._unmarked(home) if marker is None else self._marked(home, marker)
        except IntegrityError as error:
            why = f"and their owner cannot be read: {error.message}"
        return why and f"experiment {home.name!r} of {self.path} has its files in {home.root}, {why}"

    def _marked(self, home: Home, marker: Marker) -> str:
        if not self.is_here(marker):
            return "" if self._is_shared(home, marker) else f"which belongs to the store {marker.database}"
        return "which has the ID of another store" if home.mark not in ("", marker.id) else ""

    def _is_shared(self, home: Home, marker: Marker) -> bool:
        """Whether a root is another store's that is gone, or has none of the runs here: no copy, as MLflow itself gives
        experiments the folder `mlruns` of wherever it is started, whatever the store."""
        if home.mark or self.is_here(marker):
            return False
        other = Path(marker.database)
        return not other.is_file() or are_apart(self.path, other)

    def _unmarked(self, home: Home) -> str:
        beside = self._is_beside(home.root)
        if not beside and (home.mark or home.has_runs) and not home.root.is_dir():
            return "where there is nothing"
        if home.mark:
            return "" if beside else "which is not marked as this store's"
        twin = self._twin(home)
        return f"and so has {twin}; this store may be a copy of it" if twin is not None else ""

    def new_root(self, name: str) -> tuple[Path, str]:
        """Where an experiment's files go, beside the database and where no other store has its own; and its mark."""
        root, mark = self.path.parent / "mlruns" / re.sub(r"[^A-Za-z0-9._-]", "_", name), uuid.uuid4().hex
        if not self.may_have(root):
            return root.with_name(f"{root.name}-{mark[:8]}"), mark
        marks = [home.mark for home in self.homes() if home.mark and home.root == root]  # two names may have one folder
        marker = read_marker(root)
        return root, marker.id if marker is not None else next(iter(marks), mark)

    def may_have(self, root: Path) -> bool:
        """Whether the files in a root are nobody's, this store's, or were brought here with it."""
        try:
            marker = read_marker(root)
        except IntegrityError:
            return False
        if marker is not None and self.is_here(marker):
            return True
        others = self._others(self.path.parent)
        if marker is not None:
            others.append(Path(marker.database))
            if marker.id not in {home.mark for home in self.homes()}:
                return False
        return not any(names_root(path, root) for path in others)

    def original(self, home: Home, *roots: Path) -> Path | None:
        """The database that this one is a copy of: it lives, and the files are its own. None for a moved store."""
        found = []
        for root in (home.root, *roots):
            with suppress(IntegrityError):
                marker = read_marker(root)
                found += [Path(marker.database)] if marker is not None and not self.is_here(marker) else []
        if not found and home.root.is_dir():
            found = self._beside(home.root)
        return next((path for path in found if has_twin(path, home.name, home.made)), None)

    def _beside(self, root: Path) -> list[Path]:
        """The databases whose experiments have their files where `root` is, as far as they chose it themselves."""
        return self._others(root.parent.parent, root.resolve().parent.parent)

    def _twin(self, home: Home) -> Path | None:
        """Another database, beside this one or the root, that has the same experiment with its files in one place."""
        beside = self._others(self.path.parent, self.path.resolve().parent) + self._beside(home.root)
        return next((path for path in beside if has_twin(path, home.name, home.made, home.location)), None)

    def _others(self, *folders: Path) -> list[Path]:
        """The other SQLite files of some folders."""
        found = (path for folder in sorted(set(folders)) for path in files_in(folder))
        return [path for path in found if is_sqlite(path) and not is_same(path, self.path)]

    def _hint(self, home: Home) -> str:
        twin = None if home.mark else self._twin(home)
        if twin is None or twin.parent.resolve() != self.path.parent.resolve():
            return MEND
        return f"move {twin.name} to another folder if it is only a backup; else {MEND}"

    def _is_bound(self, home: Home) -> bool:
        try:
            marker = read_marker(home.root)
        except IntegrityError:
            return False
        if marker is not None and marker == self._shared.get(home.experiment_id):
            return True
        return marker is not None and marker.id == home.mark and self.is_here(marker)

    def may_collect(self, root: Path) -> bool:
        """Whether what nobody names in a root can be this store's: no other store has claimed it."""
        marker = read_marker(root)
        return marker is None or self.is_here(marker)

    def is_here(self, marker: Marker) -> bool:
        return is_same(Path(marker.database), self.path)

    def _is_beside(self, root: Path) -> bool:
        """Whether a root is where this store would have put it: no copy of it elsewhere has that place."""
        folders = {(folder / "mlruns").resolve() for folder in (self.path.parent, self.path.resolve().parent)}
        return root.resolve().parent in folders

    def _claim(self, home: Home) -> None:
        """The marker first: a process that is killed in between leaves it to the next one."""
        with writing(home.root), alone_in(home.root):
            marker = read_marker(home.root)
            if marker is not None and not self.is_here(marker):  # another store's, since we looked
                raise MisplacedError(self.trouble(home), MEND)
            mark = home.mark or (marker.id if marker else uuid.uuid4().hex)
            if marker is None:
                self.write_marker(home.root, mark)
        if not home.mark:
            with closing(self.connection()) as connection, connection:
                connection.execute(internals.BIND, (ROOT, mark, home.experiment_id))

    def write_marker(self, root: Path, mark: str) -> None:
        """Make a root this store's. Raises: OSError."""
        with replacing(root / MARKER) as temporary:
            temporary.write_text(Marker(id=mark, database=str(self.path.resolve())).model_dump_json() + "\n")


def read_marker(root: Path) -> Marker | None:
    """The marker of an artifact root, None where it has none. Raises: IntegrityError for one that is none of ours."""
    try:
        with (root / MARKER).open("rb") as file:
            return parse_strict(Marker, file.read(MOST_BYTES), str(root / MARKER), MEND)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise IntegrityError(f"{root / MARKER} cannot be read: {error.strerror or error}", MEND) from None


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """The folder, made where it is missing, with no other process in this block. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, required=False):
        yield
