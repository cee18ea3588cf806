"""On-disk queue of undelivered writes: the entries of a run in order, on this machine."""

import hashlib
import json
import os
import shutil
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from rewindctl.errors import IntegrityError
from rewindctl.system.files import locked, sha256, state_folder, writing

Entry = dict[str, Any]
JOURNAL, FILES, LOCK, GONE = "journal.jsonl", "files", "lock", ".gone-"
RUN, FILE, END = "run", "file", "end"  # kinds of entries: the first says whose they are, the last that all is said


def kept_folder() -> Path:
    """The folder of results that wait for their store, with a subfolder for each run ID."""
    return state_folder() / "kept"


class Outbox:
    """The entries of one run. Each is on the disk before `append` returns, and bound to those before it by a digest.

    A line that a killed process left half written was never promised to anybody: who locks the outbox drops it. Others,
    who may look at one that is being written, change nothing.
    """

    def __init__(self, folder: Path) -> None:
        """Open the outbox in a folder. Raises: IntegrityError when it was altered."""
        self.folder = folder
        self.entries: list[Entry] = []
        self._chain = ""
        self._lock = ExitStack()
        self._read()

    @classmethod
    def make(cls, run_id: str, header: Entry) -> "Outbox":
        folder = kept_folder() / run_id
        forget(folder)  # of an earlier life of the run, all said or given up
        with writing(folder):
            (folder / FILES).mkdir(parents=True)
            folder.chmod(0o700)
            (folder / JOURNAL).touch()
        box = cls(folder)
        box.append({"do": RUN, "run_id": run_id, **header})
        return box

    @classmethod
    def find(cls, run_id: str) -> "Outbox | None":
        """The outbox of a run; None when the store has all results. Raises: IntegrityError when it was altered."""
        folder = kept_folder() / run_id
        return cls(folder) if is_kept(folder) else None

    @property
    def header(self) -> Entry:
        return self.entries[0]

    @property
    def complete(self) -> bool:
        """Whether the run is done, and only has to be uploaded."""
        return bool(self.entries[-1]["do"] == END)

    def append(self, entry: Entry, local: Path | None = None) -> None:
        """Keep an entry, and the file `local`, which is moved here, with it. Raises: DiskError."""
        with writing(self.folder):
            if local is not None:
                entry = {**entry, "number": len(self.entries)}
                self._take(entry, local)
            line, chain = _line(entry, self._chain)
            with (self.folder / JOURNAL).open("ab") as journal:
                journal.write(line)
                journal.flush()
                os.fsync(journal.fileno())
        self._chain = chain
        self.entries.append(entry)

    def local(self, entry: Entry) -> Path | None:
        """The file of an entry, checked against its digest. Raises: IntegrityError."""
        if entry["do"] != FILE:
            return None
        path = self.folder / FILES / str(entry["number"]) / Path(entry["path"]).name
        if not path.is_file() or path.stat().st_size != entry["size"] or sha256(path) != entry["sha256"]:
            raise IntegrityError(
                f"{entry['path']} kept for run {self.header['run_id']} is missing or was altered",
                f"restore {path}, or delete {self.folder} and run the stage again",
            )
        return path

    def check(self) -> None:
        """Raises: IntegrityError unless every file is the one that was kept."""
        for entry in self.entries:
            self.local(entry)

    def remove(self) -> None:
        forget(self.folder)

    def lock(self) -> bool:
        """Lock this outbox for this process until `unlock` or its end; False when another process has it."""
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / LOCK, wait=False))
                good = self._read()  # what was written since we looked
                os.truncate(self.folder / JOURNAL, good)
            except (BlockingIOError, FileNotFoundError):  # the folder is gone: its owner has just said everything
                return False
            self._lock = stack.pop_all()
        return True

    def unlock(self) -> None:
        self._lock.close()

    def _take(self, entry: Entry, local: Path) -> None:
        target = self.folder / FILES / str(entry["number"]) / local.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(local, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
        local.unlink()

    def _read(self) -> int:
        """The bytes of whole lines. Raises: IntegrityError, FileNotFoundError."""
        self.entries, self._chain = [], ""
        journal, good = self.folder / JOURNAL, 0
        for number, line in enumerate(journal.read_bytes().splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)["entry"]
                expected, chain = _line(entry, self._chain)
            except (ValueError, KeyError, TypeError):
                expected, chain, entry = b"", "", {}
            if line != expected:
                raise IntegrityError(
                    f"line {number} of {journal} was altered",
                    f"restore it, or delete {self.folder} and run the stage again",
                )
            self.entries.append(entry)
            self._chain, good = chain, good + len(line)
        return good


def is_kept(folder: Path) -> bool:
    """Whether an outbox has entries; it has none if its process was killed before the first one."""
    try:
        with (folder / JOURNAL).open("rb") as journal:
            return not folder.name.startswith(GONE) and b"\n" in journal.read(100_000)
    except OSError:
        return False


def forget(folder: Path) -> None:
    """Remove an outbox atomically by a rename; the next removal deletes the rest of an interrupted one."""
    gone = folder.with_name(f"{GONE}{folder.name}-{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        folder.rename(gone)
    for path in folder.parent.glob(f"{GONE}*"):
        shutil.rmtree(path, ignore_errors=True)


def _line(entry: Entry, before: str) -> tuple[bytes, str]:
    """An entry as the journal has it, and the digest of it and all before it."""
    text = json.dumps(entry, sort_keys=True)
    chain = hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()
    return f"{json.dumps({'chain': chain, 'entry': entry}, sort_keys=True)}\n".encode(), chain
