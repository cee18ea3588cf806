"""Temporary folders that name their process: what a killed one left can be told from what a living one needs."""

import re
import tempfile
from pathlib import Path

from rewindctl.registry.ownership import is_gone, this_process

PREFIX = "rewindctl-"
NAME = re.compile(r"rewindctl-(.+_\d+_\d*_[0-9a-f]*_\d*)-[a-z0-9_]{8}")


def scratch_prefix() -> str:
    """What the temporary folders of this process begin with."""
    return f"{PREFIX}{this_process().replace(':', '_')}-"


def scratch_folder() -> Path:
    """A new temporary folder of this process."""
    return Path(tempfile.mkdtemp(prefix=scratch_prefix()))


def is_abandoned(folder: Path, changed: float) -> bool:
    """Whether a temporary folder is one of a process that is gone. `changed`: its last change, Unix seconds."""
    match = NAME.fullmatch(folder.name)
    if match is None:
        return False
    host, *rest = match[1].rsplit("_", 4)
    return is_gone(":".join((host, *rest)), changed) is True
