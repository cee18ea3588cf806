"""The files of runs where the store keeps them: how many bytes, and deleting them for good.

MLflow's own delete keeps them until `mlflow gc`, which also purges every other run, model and experiment that was
deleted, and needs the server's database. So the artifact repository is asked, which a tracking server offers too.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rewindctl.errors import RegistryError
from rewindctl.registry.records import COPIED, RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.runs.paths import local_path
from rewindctl.registry.runs.searching import BOTH
from rewindctl.registry.runs.writer import resume_file
from rewindctl.registry.store.client import DeniedError


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
                "nothing is deleted there; look whose they are",
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
        f"they are at {run.artifact_uri}: ask who runs the store; "
        f"the run alone, its files left: mlflow runs delete --run-id {run.run_id}",
    )
