"""Taking back runs that an import wrote and did not finish."""

from contextlib import suppress

from rewindctl.errors import RegistryError
from rewindctl.registry import records as tag
from rewindctl.registry.claiming.ownership import OwnerWatch, shown, this_process
from rewindctl.registry.deleting.versions import drop_versions
from rewindctl.registry.records import RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.store.client import StoreError


def discard(registry: Registry, run: RunRecord) -> None:
    """Delete a run that never counted: its model versions, its artifacts, itself. Raises: StoreError."""
    client = registry.client
    drop_versions(registry, run)
    with suppress(StoreError):  # files without a run cost space and mislead nobody
        client.delete_artifacts(run.artifact_uri)
    client.delete_run(run.run_id)


def remove_leftovers(registry: Registry) -> None:
    """Remove what a killed import left. Raises: RegistryError when another import is at work."""
    watch = OwnerWatch()
    for run in registry.search():
        if tag.IMPORT not in run.tags or run.finished:
            continue
        owner = run.tags.get(tag.OWNER, "")
        if run.status == "RUNNING" and owner != this_process() and not watch.is_dead(run):
            raise RegistryError(
                f"run {run.run_id} is being imported by {shown(owner)}",
                f"wait for it; if its process is gone: mlflow runs delete --run-id {run.run_id}",
            )
        discard(registry, run)
