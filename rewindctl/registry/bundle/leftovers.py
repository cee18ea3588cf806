"""Taking back runs that an import wrote and did not finish."""

import time
from contextlib import suppress

from rewindctl.errors import RegistryError
from rewindctl.registry import records as tag
from rewindctl.registry.models import dense_model
from rewindctl.registry.ownership import is_gone, last_sign, shown, this_process
from rewindctl.registry.records import RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.store import StoreError

ABANDONED_SECONDS = 86_400.0  # of another machine's import, whose process cannot be looked at


def discard(registry: Registry, run: RunRecord) -> None:
    """Delete a run that never counted: its model versions, its artifacts, itself. Raises: StoreError."""
    client = registry.client
    for version in client.search_model_versions(f"run_id = '{run.run_id}'"):
        client.delete_model_version(version.name, version.version)
    if run.kind == "dense":
        with suppress(StoreError):  # there is none
            name = dense_model(run.tags.get(tag.MODEL, ""), run.tags.get(tag.DATASET, ""))
            if not client.get_registered_model(name).latest_versions:
                client.delete_registered_model(name)
    with suppress(StoreError):  # files without a run cost space and mislead nobody
        client.delete_artifacts(run.artifact_uri)
    client.delete_run(run.run_id)


def remove_leftovers(registry: Registry) -> None:
    """Remove what a killed import left. Raises: RegistryError when another import is at work."""
    for run in registry.search():
        if tag.IMPORT not in run.tags or run.finished:
            continue
        owner = run.tags.get(tag.OWNER, "")
        if run.status == "RUNNING" and owner != this_process() and not _is_dead(run, owner):
            raise RegistryError(
                f"run {run.run_id} is being imported by {shown(owner)}",
                f"wait for it; if its process is gone: mlflow runs delete --run-id {run.run_id}",
            )
        discard(registry, run)


def _is_dead(run: RunRecord, owner: str) -> bool:
    gone = is_gone(owner, last_sign(run))
    return time.time() - last_sign(run) > ABANDONED_SECONDS if gone is None else gone
