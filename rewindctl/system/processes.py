"""Processes as the system reports them: alive, since when, where a pid is valid; interrupts; a clock."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_interrupts: list[int] = []  # that were raised
_blocks: list[None] = []  # that no interrupt may break into
_held_back: list[int] = []


def take_interrupts() -> None:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt in this process; a Ctrl-C that the shell has switched off stays so."""
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)


def interrupt(number: int, frame: FrameType | None) -> None:
    """The handler of both signals."""
    if _blocks and not _held_back:  # who asks twice is not kept waiting
        _held_back.append(number)
        return
    _interrupts.append(number)
    raise KeyboardInterrupt


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """One interrupt waits for the end of the block; for code of others that it would leave half done."""
    if threading.current_thread() is not threading.main_thread():  # no handler runs in another thread
        yield
        return
    _blocks.append(None)
    try:
        yield
    finally:
        _blocks.pop()
        if _held_back and not _blocks:
            interrupt(_held_back.pop(), None)


def raise_if_interrupted() -> None:
    """Raise an interrupt that Python dropped, as it does in a destructor or a callback of a weak reference."""
    if _interrupts:
        _interrupts.clear()
        raise KeyboardInterrupt


def forget_interrupts() -> None:
    """What was interrupted has ended: the next thing that this process does is not."""
    _interrupts.clear()


def clock() -> float:
    """Seconds since some moment, those in which the machine was suspended among them where the system tells."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def is_there(pid: int) -> bool:
    """Whether a process is there; one that ended but was not reaped is not.

    The library psutil takes another user's process for gone where /proc is mounted with `hidepid`.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return _stat(pid)[:1] not in (["Z"], ["X"])


def started(pid: int) -> str:
    """When a process began, in clock ticks since boot: a number used again is another process. Empty: not told.

    psutil has only the time of day, which moves when the clock is set.
    """
    return (_stat(pid)[19:20] or [""])[0]  # field 22


def boot() -> str:
    """The ID of this machine since it was started."""
    return read("/proc/sys/kernel/random/boot_id")


def namespace() -> str:
    """`pid:[NUMBER]`: containers of one machine count their processes apart."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def read(path: str) -> str:
    """A file of /proc, empty where there is none."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from field 3, the state, on; empty where there is none. The name before it may hold anything."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()
