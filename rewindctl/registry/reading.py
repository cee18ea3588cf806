"""Runs as they were finished, whatever somebody edited since, and as the experiments that they are today."""

from collections.abc import Iterable
from dataclasses import replace

from rewindctl.errors import IntegrityError
from rewindctl.registry import records as tag
from rewindctl.registry.artifacts import Artifacts
from rewindctl.registry.client import Client
from rewindctl.registry.manifest import ALTERED
from rewindctl.registry.older import recognised
from rewindctl.registry.record import RECORD_FILE, Record, digest_of, parse_record, recorded
from rewindctl.registry.records import RunRecord


def read(client: Client, run_id: str) -> RunRecord:
    """A run of the store. Raises: StoreError, RegistryError."""
    return as_finished(client, [RunRecord.from_mlflow(client.get_run(run_id))])[0]


def as_finished(client: Client, runs: Iterable[RunRecord]) -> list[RunRecord]:
    """The runs, each finished one with the tags and metrics that it was sealed with, recognised as what it is today.

    Only of a run that does not have the digest of its record are files read. Raises: StoreError.
    """
    return recognised(client, [_restored(client, run) for run in runs])


def record_of(client: Client, run: RunRecord) -> Record | None:
    """What a finished run was sealed with, None for a foreign one, or of before there were records.

    Raises: IntegrityError.
    """
    if tag.MANIFEST not in run.tags:
        if run.kind not in tag.KINDS:
            return None
        raise IntegrityError(f"run {run.run_id} has no manifest: its tag was removed", ALTERED)
    artifacts = Artifacts(client)
    if RECORD_FILE not in artifacts.manifest(run):
        return None
    return parse_record(artifacts.read_bytes(run, RECORD_FILE), f"run {run.run_id}", ALTERED)


def _restored(client: Client, run: RunRecord) -> RunRecord:
    if not run.finished or run.tags.get(tag.RECORD) == digest_of(run.tags, run.metrics):
        return run
    key = (run.run_id, run.tags.get(tag.MANIFEST, ""))
    if key not in client.records:
        try:
            client.records[key] = record_of(client, run)
        except IntegrityError as error:
            client.records[key] = error.message
    found: Record | str | None = client.records[key]
    if found is None:
        return run
    if isinstance(found, str):
        return replace(run, damage=found)
    edits = tuple(found.edits(run.tags, run.metrics)) or (f"tag {tag.RECORD} was edited",)
    client.edited[run.run_id] = edits
    others = {key: value for key, value in run.tags.items() if key not in recorded(run.tags)}
    tags = others | found.tags | {tag.RECORD: found.digest()}
    return replace(run, tags=tags, metrics=run.metrics | found.last(), edits=edits)
