"""Files that are whole or not there, locks between processes, what a disk refuses, digests, texts of bounded size."""

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rewindctl.errors import DiskError, UsageError
from rewindctl.system.temporary import sweep, temporary_name

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
KINDS_OF_FILE = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
SAME_COMMAND = "then the same command goes on"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that takes the place of `path` when the block ends well.

    Synced before it is renamed: after a power loss there is the old file or the new one, never half of either. What
    a killed process left of an earlier attempt is removed. Raises: OSError, also for what is there and no plain file:
    a device, a pipe, a link to somewhere else are not replaced.
    """
    if odd := no_plain_file(path):
        raise FileExistsError(errno.EEXIST, f"{path.name} is {odd}, which is not replaced", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    temporary = path.with_name(f".{path.stem}-{temporary_name()}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, *, wait: bool = True, required: bool = True) -> Iterator[None]:
    """No other process is in such a block of the same `path`: a folder, or a lock file, which is made and stays.

    The lock ends with the process. The library filelock locks no folder, makes the folder of a lock file anew, and
    leaves a file for a lock where the file system has none. Raises: OSError, where the file system has no locks only
    if one is `required`; BlockingIOError where another process has the lock, unless asked to `wait`.
    """
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        with suppress(*() if required else (OSError,)):
            fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(number)


def no_plain_file(path: Path) -> str:
    """What is at a path where it is anything but a file, a link to one too; empty where there is a file or nothing."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return ""
    return "" if stat.S_ISREG(mode) else KINDS_OF_FILE.get(stat.S_IFMT(mode), "a device")


def read_text(path: Path, what: str, most: int, hint: str) -> str:
    """A UTF-8 text of at most `most` bytes from anywhere, a device without end too. Raises: UsageError."""
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise UsageError(f"{what} is too large", f"at most {most:,} bytes are read")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{what} cannot be read: {error.strerror or error}", hint) from None
    except UnicodeDecodeError:
        raise UsageError(f"{what} is not UTF-8 text", hint) from None
    except ValueError as error:  # a path with a zero byte
        raise UsageError(f"{what} cannot be read: {error}", hint) from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises: DiskError naming `path` when the block cannot write."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error


def of_the_disk(error: OSError) -> bool:
    """Whether the disk is the reason, not what was asked of it."""
    return error.errno in FULL | FORBIDDEN | {errno.EIO}


def disk_error(error: OSError, path: Path | None = None) -> DiskError:
    """The error for what could not be written: `path`, or what the system names."""
    where = path or error.filename or "a file"
    return DiskError(f"{where} cannot be written: {error.strerror or error}", disk_hint(error))


def disk_hint(error: OSError, otherwise: str = f"check its disk, {SAME_COMMAND}") -> str:
    """What to do; `otherwise` where the disk is neither full nor forbidden."""
    if error.errno in FULL:
        return f"free some space there, {SAME_COMMAND}"
    return f"make it writable, or choose another place, {SAME_COMMAND}" if error.errno in FORBIDDEN else otherwise


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_state_folder() -> None:
    """Make the state folder, this user's alone whatever the umask. Raises: DiskError where it cannot be made."""
    try:
        for folder in reversed((state_folder(), *state_folder().parents)):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
        state_folder().mkdir(exist_ok=True)  # raises where it is no folder
    except OSError as error:
        told = disk_error(error, state_folder())
        if error.errno in FORBIDDEN:
            told.hint = f"make it writable, or set $XDG_STATE_HOME to a folder that is, {SAME_COMMAND}"
        raise told from error


def keep_text(path: Path, text: str) -> None:
    """Write a file of the state folder that is found anew where it cannot be kept."""
    with suppress(OSError, DiskError):
        require_state_folder()
        with replacing(path) as temporary:
            temporary.write_text(text)


def state_folder() -> Path:
    """What this machine keeps of work under way: `$XDG_STATE_HOME/rewindctl`, on every system."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "rewindctl"


def cache_folder() -> Path:
    """What this machine has of data sets: `$XDG_CACHE_HOME/rewindctl`, on every system."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rewindctl"
