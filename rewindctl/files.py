"""Files that are whole or not there, their digests, and texts of bounded size."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rewindctl.errors import UsageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that takes the place of `path` when the block ends well.

    Synced before it is renamed: after a power loss there is the old file or the new one, never half of either.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_folder() -> Path:
    """What this machine keeps of work under way: `$XDG_STATE_HOME/rewindctl`."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "rewindctl"
