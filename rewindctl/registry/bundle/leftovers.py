"""Taking back runs that an import wrote and did not finish."""

from contextlib import suppress

from rewindctl.errors import RegistryError
from rewindctl.registry import records as tag
from rewindctl.registry.records import RunRecord
from rewindctl.registry.registry import Registry, dense_model
from rewindctl.registry.store import StoreError
from rewindctl.registry.writer import is_dead, this_process


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
        if run.status == "RUNNING" and owner != this_process() and not is_dead(owner):
            raise RegistryError(
                f"run {run.run_id} is being imported by {owner}",
                f"wait for it; if its process is gone: mlflow runs delete --run-id {run.run_id}",
            )
        discard(registry, run)
