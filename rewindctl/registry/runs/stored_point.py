"""The resume point of a run in its artifact store, for a process on another machine to go on from.

One file, replaced by each later point: the bytes that the machine has, and a last line about them. A store may be left
with half a file, or with parts of two: the line has the digest, and what it does not fit is no point. A tag of the run
says that there is one, from before the first is uploaded until after it is deleted: no other run is looked at.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from rewindctl.errors import IntegrityError
from rewindctl.registry.records import RESUME_POINT, RunRecord
from rewindctl.registry.runs.manifest import LARGEST_FILE, Digest, Size, Strict, parse_strict
from rewindctl.registry.store.address import local_path
from rewindctl.registry.store.client import Client
from rewindctl.system.files import replacing, sha256, writing
from rewindctl.system.temporary import temporary_folder

FOLDER = "resume"
POINT = f"{FOLDER}/point"
LONGEST_LINE = 4_096

Word = Annotated[str, Field(max_length=200)]


@dataclass(frozen=True)
class Machine:
    """Where a stage is to go on: what decides the bytes of a training there, and how its user is told something."""

    made_on: Mapping[str, str]
    say: Callable[[str], None]


class About(Strict):
    """The last line of a stored point: of the bytes before it."""

    iteration: Annotated[int, Field(ge=0)]
    made_on: Annotated[dict[Word, Word], Field(max_length=20)]
    sha256: Digest
    size: Size


def wrap(point: Path, target: Path, made_on: Mapping[str, str]) -> None:
    """Write to `target` what is stored for `point`, which a later one may replace meanwhile.

    Raises: OSError, IntegrityError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(point, target)
    size = target.stat().st_size
    about = About(iteration=_iteration(target), made_on=dict(made_on), sha256=sha256(target), size=size)
    with target.open("ab") as file:
        file.write(b"\n" + about.model_dump_json().encode())


def drop(client: Client, run_id: str) -> None:
    """Delete the stored point of a run, which has the tag. Raises: StoreError."""
    client.delete_artifacts(client.get_run(run_id).info.artifact_uri, FOLDER)
    client.delete_tag(run_id, RESUME_POINT)


def bring(client: Client, run: RunRecord, file: Path, machine: Machine) -> None:
    """Download the stored point of a run to `file`, its place on this machine, unless what is there is as late.

    One that is not whole, or was made where other bytes are computed, is left: the user is told. Raises: StoreError,
    DiskError.
    """
    with temporary_folder() as folder:
        path = _fetched(client, run, Path(folder))
        if path is None:
            return
        try:
            about = about_of(path)
            with suppress(IntegrityError):  # there is no point here to go on from
                if about.iteration <= _iteration(file):
                    return
            if why := _difference(about.made_on, machine.made_on):
                machine.say(_left(run, file, why))
                return
            _unwrap(path, about, file)
        except IntegrityError:
            machine.say(_left(run, file, "it is not whole"))


def _left(run: RunRecord, file: Path, why: str) -> str:
    text = f"note: the stored resume point of run {run.run_id} cannot be used: {why}"
    return text if file.is_file() else f"{text}; the training starts again from its beginning"


def _fetched(client: Client, run: RunRecord, folder: Path) -> Path | None:
    """A local copy of what is stored; None where it is nothing, or too much."""
    local = local_path(run.artifact_uri)
    if local is None:
        sizes = {entry.path: entry.file_size or 0 for entry in client.list_artifacts(run.run_id, FOLDER)}
        if sizes.get(POINT, LARGEST_FILE) >= LARGEST_FILE:
            return None
        return Path(client.download_artifacts(run.run_id, POINT, str(folder)))
    path = local / POINT
    return path if path.is_file() and path.stat().st_size < LARGEST_FILE else None


def about_of(path: Path) -> About:
    """Raises: IntegrityError unless a file ends with a line about all bytes before it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - LONGEST_LINE))
        line = file.read().rpartition(b"\n")[2]
    about = parse_strict(About, line, path.name, "")
    if about.size + 1 + len(line) != size:
        raise IntegrityError(f"{path.name} has {size:,} bytes, its last line says otherwise")
    return about


def _unwrap(path: Path, about: About, file: Path) -> None:
    with writing(file), replacing(file) as temporary:
        shutil.copyfile(path, temporary)
        os.truncate(temporary, about.size)
        if sha256(temporary) != about.sha256:
            raise IntegrityError(f"{path.name} does not match the digest in its last line")


def _iteration(file: Path) -> int:
    """Raises: IntegrityError."""
    from rewindctl.rewinding.checkpoints import TrainState  # loads torch, for which who only reads need not wait

    return TrainState.iteration_of(file)


def _difference(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    """What keeps this machine from computing the same bytes; empty where nothing does."""
    for key in sorted(here.keys() | there.keys()):
        if there.get(key) != here.get(key):
            return f"{key} was {there.get(key)}, here it is {here.get(key)}"
    return ""
