"""The files of runs: their bytes, deleting them for good, and files of ours that no run needs.

MLflow's own delete keeps them until `mlflow gc`, which also purges every other run, model and experiment that was
deleted, and needs the server's database. So the artifact repository is asked, which a tracking server offers too.
"""

import json
import re
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rewindctl.errors import RegistryError, UsageError
from rewindctl.registry.records import COPIED, RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.runs.manifest import MANIFEST_FILE
from rewindctl.registry.runs.reading import BOTH
from rewindctl.registry.runs.writer import resume_file
from rewindctl.registry.store.address import local_path, sqlite_path
from rewindctl.registry.store.failures import DeniedError
from rewindctl.registry.store.sqlite_files import files_in, runs_of
from rewindctl.system.files import state_folder
from rewindctl.system.temporary import abandoned

RUN_ID = re.compile(r"[0-9a-f]{32}")
LOCK_SECONDS = 3_600.0  # Optuna holds its lock for milliseconds, and takes one of 30 seconds for a dead worker's


@dataclass
class Disk:
    """The files of runs, of deleted ones too; nothing outside the artifact roots of the store is touched."""

    registry: Registry

    @cached_property
    def _roots(self) -> set[str]:
        experiments = self.registry.client.search_experiments(view_type=BOTH)
        return {experiment.artifact_location.rstrip("/") for experiment in experiments}

    def files(self, run: RunRecord) -> dict[str, int]:
        """Every artifact of the run and its bytes. Raises: RegistryError."""
        return self.registry.client.list_files(run.artifact_uri)

    def size(self, run: RunRecord) -> int:
        """Bytes of the run's artifacts, and of its resume point on this machine. Raises: RegistryError."""
        return sum(self.files(run).values()) + (0 if COPIED in run.tags else size_of(resume_file(run.run_id)))

    def require_inside(self, run: RunRecord) -> None:
        """Raises: RegistryError when the files of a run are not where the store would have put them."""
        own = f"/{run.run_id}/artifacts"
        if not run.artifact_uri.endswith(own) or run.artifact_uri.removesuffix(own) not in self._roots:
            raise RegistryError(
                f"the files of run {run.run_id} are at {run.artifact_uri}, outside the store's artifact root",
                "nothing is deleted there; check who owns them",
            )

    def delete(self, run: RunRecord) -> None:
        """Delete every artifact of the run; none may be there. Raises: RegistryError when the store cannot."""
        self.require_inside(run)
        if self.files(run):
            try:
                self.registry.client.delete_artifacts(run.artifact_uri)
            except DeniedError:
                raise
            except RegistryError as error:
                raise _cannot(run, error.message) from None
            if left := self.files(run):
                raise _cannot(run, f"{len(left)} files are still there")
        if (folder := local_path(run.artifact_uri)) is not None:
            for empty in (folder, folder.parent):
                with suppress(OSError):  # not there, or something of others in it
                    empty.rmdir()


def size_of(path: Path) -> int:
    """Bytes of a file or of all files below a folder, 0 where there is none; links are not followed."""
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(size_of(child) for child in path.iterdir())
        return path.lstat().st_size
    except OSError:  # gone meanwhile, or not ours to read
        return 0


def _cannot(run: RunRecord, reason: str) -> RegistryError:
    return RegistryError(
        f"the store did not delete the files of run {run.run_id}: {reason}",
        f"they are at {run.artifact_uri}: ask the store's administrator; "
        f"to delete the run without its files: mlflow runs delete --run-id {run.run_id}",
    )


def find_run(registry: Registry, run_id: str) -> RunRecord | None:
    """A run of any experiment, deleted or not; None where the store has none."""
    try:
        return registry.get(run_id, deleted=True)
    except UsageError:
        return None


def resume_points(registry: Registry) -> tuple[list[Path], list[Path]]:
    """The resume points that no run needs, and those of runs that this store does not have.

    The latter may be another store's: the folder is one for all, and those of runs that were copied are the original's.
    Only an unfinished run that was not deleted needs its point.
    """
    idle, unknown = [], []
    for path in files_in(resume_file("").parent):
        if not (RUN_ID.fullmatch(path.stem) and path.suffix == ".safetensors"):
            continue
        run = find_run(registry, path.stem)
        if run is None or COPIED in run.tags:
            unknown.append(path)
        elif run.deleted or run.status not in ("RUNNING", "KILLED"):
            idle.append(path)
    return idle, unknown


def temporary_files() -> list[Path]:
    """What processes that were killed left in the state folder and the system's temporary folder."""
    found = abandoned(resume_file("").parent) + abandoned(Path(tempfile.gettempdir()))
    for path in files_in(state_folder() / "optuna"):
        with suppress(OSError):  # gone meanwhile
            if ".log.lock" in path.name and time.time() - path.lstat().st_mtime > LOCK_SECONDS:
                found.append(path)
    return sorted(found)


def unreferenced_folders(registry: Registry) -> list[Path]:
    """Folders of runs in the artifact root of the experiment that no store beside it has a run for.

    Only those that hold what rewindctl writes first or last; of a tracking server's root nothing is known.
    """
    store = sqlite_path(registry.uri)
    root = local_path(registry.client.get_experiment(registry.experiment_id).artifact_location)
    binding = registry.client.binding
    if store is None or root is None or binding is None or not binding.may_collect(root):
        return []
    # Listed before the store is asked: a run is made before its folder.
    folders = [path for path in files_in(root) if RUN_ID.fullmatch(path.name) and _is_ours(path)]
    gone = [path for path in folders if find_run(registry, path.name) is None]
    known = set().union(*(runs_of(other) for other in files_in(store.parent) if other != store)) if gone else set()
    return [path for path in gone if path.name not in known]


def _is_ours(folder: Path) -> bool:
    """Whether a run's folder has our spec or our manifest, and nothing beside its artifacts."""
    if folder.is_symlink() or [path.name for path in files_in(folder)] != ["artifacts"]:
        return False
    artifacts = folder / "artifacts"
    if artifacts.is_symlink():
        return False
    spec, manifest = _json(artifacts / "spec.json"), _json(artifacts / MANIFEST_FILE)
    return {"kind", "schema_version"} <= spec.keys() or {"schema", "artifacts"} == manifest.keys()


def _json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
