"""The files of runs, checked against each run's manifest: where the store keeps them, or as a copy on this machine."""

import json
from pathlib import Path
from typing import Any

from rewindctl.errors import IntegrityError, RegistryError, UsageError
from rewindctl.registry import records as tag
from rewindctl.registry.records import RunRecord
from rewindctl.registry.roots.binding import MEND
from rewindctl.registry.runs.manifest import ALTERED, CHECKPOINTS, MANIFEST_FILE, MOST_JSON_BYTES, parse_manifest
from rewindctl.registry.store.address import local_path
from rewindctl.registry.store.client import Client
from rewindctl.registry.store.failures import StoreError
from rewindctl.system.files import sha256
from rewindctl.system.temporary import temporary_folder

DEEPEST_FOLDER = 16


class Artifacts:
    """The artifacts of the runs of a store; each manifest is read once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._manifests: dict[str, dict[str, Any]] = {}
        self.downloads = temporary_folder()

    def verified(self, run: RunRecord, path: str) -> Path:
        """A local copy whose bytes are those of the manifest. Raises: IntegrityError, RegistryError."""
        entry = self.manifest(run).get(path)
        if entry is None:
            raise RegistryError(f"run {run.run_id} has no {path}", "choose a run of a kind that has this file")
        if path in self.omitted(run):
            raise UsageError(
                f"{path} of run {run.run_id} was left out when the run was exported",
                "import a bundle that has the checkpoints, or run the stage again with --force",
            )
        local = self._fetch(run, path)
        if local.stat().st_size != entry["size"] or sha256(local) != entry["sha256"]:
            raise IntegrityError(f"{path} of run {run.run_id} is damaged: its bytes do not match the manifest", ALTERED)
        return local

    def read_bytes(self, run: RunRecord, path: str, most: int = MOST_JSON_BYTES) -> bytes:
        """An artifact of at most so many bytes, verified. Raises: IntegrityError."""
        local = self.verified(run, path)
        _check_size(local, run, most)
        return local.read_bytes()

    def read_json(self, run: RunRecord, path: str) -> Any:
        """A JSON artifact, verified. Raises: IntegrityError."""
        try:
            return json.loads(self.read_bytes(run, path).decode())
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"{path} of run {run.run_id} is not JSON: {error}", ALTERED) from None

    def manifest(self, run: RunRecord) -> dict[str, Any]:
        """Digest and size of each artifact. Raises: IntegrityError when it is missing or altered."""
        if run.run_id not in self._manifests:
            data = self.manifest_file(run).read_bytes()
            files = parse_manifest(data, f"run {run.run_id}").artifacts
            self._manifests[run.run_id] = {path: file.model_dump() for path, file in files.items()}
        return self._manifests[run.run_id]

    def manifest_file(self, run: RunRecord) -> Path:
        """A local copy of the manifest. Raises: IntegrityError when it is missing or altered."""
        local = self._fetch(run, MANIFEST_FILE)
        _check_size(local, run)
        if sha256(local) != run.tags.get(tag.MANIFEST):
            raise IntegrityError(f"the manifest of run {run.run_id} was altered", "run the stage again with --force")
        return local

    def paths(self, run: RunRecord, folder: str | None = None) -> list[str]:
        """Every file that the store has for a run. Raises: RegistryError for folders without end."""
        paths: list[str] = []
        if (folder or "").count("/") >= DEEPEST_FOLDER:
            raise RegistryError(f"the artifacts of run {run.run_id} are nested deeper than {folder!r:.300}", ALTERED)
        for entry in self._client.list_artifacts(run.run_id, folder):
            paths += self.paths(run, entry.path) if entry.is_dir else [entry.path]
        return paths

    def omitted(self, run: RunRecord) -> set[str]:
        """The files of the manifest that were left out when the run was exported, and are not here."""
        if tag.OMITTED not in run.tags:
            return set()
        here = set(self.paths(run, CHECKPOINTS.rstrip("/")))
        return {path for path in self.manifest(run) if path.startswith(CHECKPOINTS)} - here

    def _fetch(self, run: RunRecord, path: str) -> Path:
        folder = local_path(run.artifact_uri)
        if folder is not None:
            local = folder / path
        else:
            target = Path(self.downloads.name) / run.run_id
            target.mkdir(exist_ok=True)
            try:
                local = Path(self._client.download_artifacts(run.run_id, path, str(target)))
            except StoreError as error:
                if error.code not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INTERNAL_ERROR"):
                    raise
                local = target / path
        if not local.is_file():
            raise IntegrityError(
                f"{path} of run {run.run_id} is missing",
                MEND if self._client.is_misplaced() else "restore it, or run the stage again with --force",
            )
        return local


def _check_size(path: Path, run: RunRecord, most: int = MOST_JSON_BYTES) -> None:
    if (size := path.stat().st_size) > most:
        raise IntegrityError(
            f"{path.name} of run {run.run_id} has {size:,} bytes: no such file of rewindctl is so large", ALTERED
        )
