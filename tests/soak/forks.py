"""Commands in processes that start in milliseconds: forked from one that has imported everything."""

import atexit
import importlib
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_SECONDS = 300.0
LOOK_SECONDS = 0.002
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
Work = Callable[[], int]


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code, or minus the signal; what it wrote, how long it took, its writes so far."""

    code: int
    out: str
    err: str
    seconds: float
    writes: int


@dataclass(frozen=True)
class Place:
    """Where a process runs: its folder, its environment, where its output goes; `user` to become, if not 0."""

    folder: Path
    environment: dict[str, str]
    talk: Path
    user: int = 0


class Child:
    """A process under way."""

    def __init__(self, pid: int, place: Place, writes: mmap.mmap | None) -> None:
        self.pid, self.place, self._writes = pid, place, writes
        self._began = time.monotonic()

    def wait(self, seconds: float = LONGEST_SECONDS, look: Callable[[], None] = lambda: None) -> Ended | None:
        """Its end, None when it did not come within `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return self._ended(os.waitstatus_to_exitcode(status))
            if time.monotonic() >= deadline:
                return None
            look()
            time.sleep(LOOK_SECONDS)

    def end(self, look: Callable[[], None] = lambda: None) -> Ended:
        """Its end, with patience. Raises: TimeoutError, the process killed."""
        ended = self.wait(look=look)
        if ended is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
            raise TimeoutError(f"no end after {LONGEST_SECONDS:g} s")
        return ended

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def _ended(self, code: int) -> Ended:
        writes = int.from_bytes(self._writes[:8], "little") if self._writes else 0
        out, err = (self.place.talk.with_suffix(f".{name}").read_text(errors="replace") for name in ("out", "err"))
        return Ended(code, out, err, time.monotonic() - self._began, writes)


def fork(work: Work, place: Place, fault: tuple[int, signal.Signals] | None = None) -> Child:
    """Run `work` in a process of its own; its writes are counted. `fault`: the signal that it gets before write n."""
    writes = mmap.mmap(-1, 8)
    pid = os.fork()
    if pid:
        return Child(pid, place, writes)
    code = 70
    try:
        _settle(place)
        _count_writes(writes, fault)
        code = work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):  # as at the end of an interpreter
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def fresh(arguments: Sequence[str], place: Place) -> Child:
    """The command in a process that has to import everything itself."""
    with _file(place, "out").open("wb") as out, _file(place, "err").open("wb") as err:
        line = [sys.executable, "-m", "rewindctl", *arguments]
        started = subprocess.Popen(line, cwd=place.folder, env=place.environment, stdout=out, stderr=err)
    started.returncode = 0  # reaped here, not there
    return Child(started.pid, place, None)


def command(arguments: Sequence[str]) -> Work:
    """What `rewindctl ARGUMENTS` does."""

    def work() -> int:
        from rewindctl.cli import main

        sys.argv = ["rewindctl", *arguments]
        main()

    return work


def modules_of(work: Work, into: Path) -> Work:
    """`work`, and the names of all modules loaded in the end in the file `into`."""

    def both() -> int:
        try:
            return work()
        finally:
            into.write_text(json.dumps(sorted(sys.modules)))

    return both


def import_all(names: Sequence[str]) -> None:
    """Import the modules, as far as they are some."""
    for name in names:
        if name not in sys.modules and not name.startswith(("__", "soak")):
            with suppress(BaseException):
                importlib.import_module(name)


def _settle(place: Place) -> None:
    """In the new process: its place, plain signals, no settings from before."""
    assert threading.active_count() == 1
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(place.folder)
    os.environ.clear()
    os.environ.update(place.environment)
    tempfile.tempdir = None
    for number, name in ((1, "out"), (2, "err")):
        target = os.open(_file(place, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(target, number)
        os.close(target)
    if place.user:
        os.setgroups([])
        os.setgid(place.user)
        os.setuid(place.user)


def _file(place: Place, name: str) -> Path:
    return place.talk.with_suffix(f".{name}")


def _count_writes(writes: mmap.mmap, fault: tuple[int, signal.Signals] | None) -> None:
    """Count what changes files or rows, just before it happens."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    count = 0

    def write() -> None:
        nonlocal count
        count += 1
        writes[:8] = count.to_bytes(8, "little")
        if fault and count == fault[0]:
            os.kill(os.getpid(), fault[1])

    def audited(name: str, values: tuple[Any, ...]) -> None:
        if name in CHANGES or (name == "open" and isinstance(values[2], int) and values[2] & WRITING):
            write()

    def executed(*values: Any) -> None:
        if not values[2].lstrip()[:6].upper().startswith(("SELECT", "PRAGMA")):
            write()

    sys.addaudithook(audited)
    event.listen(Engine, "before_cursor_execute", executed)
    event.listen(Engine, "commit", lambda connection: write())
