"""Temporary files and folders whose names say which process made them, so that those of killed ones can be removed."""

import functools
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

from rewindctl.system import processes

PREFIX = "rewindctl-"
OLD_SECONDS = 7 * 86_400.0  # a file of another machine, or of this one before it was started anew
NAME = re.compile(rf"(?:\.|{PREFIX}).*?([0-9a-f]{{8}})-([0-9]+)-([0-9]+)-[0-9a-f]{{16}}")


def temporary_name() -> str:
    """`MACHINE-PID-START-RANDOM`: unique, and of this process. `start` is in clock ticks, for pids are used again."""
    pid = os.getpid()
    return f"{_machine()}-{pid}-{_started(pid) or 0}-{uuid.uuid4().hex[:16]}"


def temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder in TMPDIR that is gone with this process, or with the next one when this one is killed."""
    sweep(Path(tempfile.gettempdir()))
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{temporary_name()}-")


def sweep(folder: Path) -> None:
    """Remove what processes that are gone left in a folder: nothing but names made here."""
    for path in abandoned(folder):
        with suppress(OSError):
            _remove(path)


def abandoned(folder: Path) -> list[Path]:
    """What `sweep` would remove."""
    found = []
    with suppress(OSError):
        for path in folder.iterdir():
            match = NAME.match(path.name)
            if match is not None and _left(path, *match.groups()):
                found.append(path)
    return found


def _left(path: Path, machine: str, pid: str, start: str) -> bool:
    if machine == _machine():
        return _started(int(pid)) != int(start)
    return path.is_file() and time.time() - path.stat().st_mtime > OLD_SECONDS


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@functools.cache
def _machine() -> str:
    """Eight digits for this machine since it was started, and this container of it: where a pid means one process."""
    where = f"{socket.gethostname()} {processes.boot()} {processes.namespace()}"
    return hashlib.sha256(where.encode()).hexdigest()[:8]


def _started(pid: int) -> int | None:
    """When a process began, 0 where the system does not tell, None when it is gone."""
    return int(processes.started(pid) or 0) if processes.is_there(pid) else None
