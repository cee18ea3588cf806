"""What a reader may do with a file of others: nothing but read it, soon, and with little memory.

Python's own audit events see what is opened, run and unpickled. A hook cannot be taken away again: it looks only while
a reader is at work.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rewindctl.errors import RewindError

PATIENCE_SECONDS = 20  # of a clock on the wall: the machine may be at other work
LONGEST_MESSAGE = 20_000
RUNS_CODE = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "pty.spawn")
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.symlink", "os.link", "shutil.rmtree")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy")


class Forbidden(BaseException):
    """A reader did what no file may make it do; no `except Exception` swallows it."""


class Hang(BaseException):
    """A reader took too long."""


class _Watch:
    folder: Path | None = None
    thread = 0


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    folder = _Watch.folder
    if folder is None or threading.get_ident() != _Watch.thread:
        return
    if event in RUNS_CODE or (event == "pickle.find_class" and arguments[0] not in ARRAYS):
        raise Forbidden(f"{event} {arguments!r:.200}")
    if event == "open":
        path, mode, flags = arguments
        written = (flags or 0) & WRITES or (isinstance(mode, str) and set(mode) & set("wax+"))
        if written and not _inside(path, folder):
            raise Forbidden(f"writes {path!r:.200}")
    elif event in CHANGES and not all(_inside(path, folder) for path in arguments[:2] if isinstance(path, str | Path)):
        raise Forbidden(f"{event} {arguments!r:.200}")


def _inside(path: Any, folder: Path) -> bool:
    if isinstance(path, int) or str(path) == os.devnull:
        return True
    return Path(os.path.abspath(os.fsdecode(path))).is_relative_to(folder)


sys.addaudithook(_hook)


@contextmanager
def watched(folder: Path, patience: int = PATIENCE_SECONDS) -> Iterator[None]:
    """The block may write below `folder` only. Raises: Forbidden, Hang."""

    def late(number: int, frame: Any) -> None:
        raise Hang(f"more than {patience} s")

    before = signal.signal(signal.SIGALRM, late)
    _Watch.folder, _Watch.thread = Path(os.path.realpath(folder)), threading.get_ident()
    signal.alarm(patience)
    try:
        yield
    finally:
        _Watch.folder = None
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read(reader: Callable[[bytes, Path], None], data: bytes, folder: Path, patience: int = PATIENCE_SECONDS) -> str:
    """`value` or `refused`: the two things that a reader may answer. Raises: anything else that it did."""
    with watched(folder, patience):
        try:
            reader(data, folder)
        except RewindError as error:
            short = 0 < len(error.message) < LONGEST_MESSAGE
            return "refused" if short else f"a message of {len(error.message)} letters"
    return "value"
