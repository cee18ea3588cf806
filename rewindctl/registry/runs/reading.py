"""Runs as they were finished, whatever somebody edited since, and as the experiments that they are today."""

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

from rewindctl.errors import IntegrityError
from rewindctl.registry import records as tag
from rewindctl.registry.records import RunRecord
from rewindctl.registry.runs.artifacts import Artifacts
from rewindctl.registry.runs.manifest import ALTERED
from rewindctl.registry.runs.older import recognised
from rewindctl.registry.runs.record import MOST_RECORD_BYTES, RECORD_FILE, Record, digest_of, parse_record, recorded
from rewindctl.registry.store.client import Client

MOST_KEPT = 100  # records in memory


def read(client: Client, run_id: str) -> RunRecord:
    """A run of the store. Raises: StoreError, RegistryError."""
    return as_finished(client, [RunRecord.from_mlflow(client.get_run(run_id))])[0]


def as_finished(client: Client, runs: Iterable[RunRecord]) -> list[RunRecord]:
    """The runs, each finished one with the tags and metrics that it was sealed with, recognised as what it is today.

    Files are read of those runs alone that show something else than the digest of their record. Raises: StoreError.
    """
    return recognised(client, [_restored(client, run) for run in runs])


def artifacts_of(client: Client) -> Artifacts:
    """Those of the store, with what was read of them."""
    if client.artifacts is None:
        client.artifacts = Artifacts(client)
    return cast(Artifacts, client.artifacts)


def record_of(client: Client, run: RunRecord) -> Record | None:
    """What a finished run was sealed with, None for a foreign one, or of before there were records.

    Raises: IntegrityError.
    """
    if tag.MANIFEST not in run.tags:
        if run.kind not in tag.KINDS:
            return None
        raise IntegrityError(f"run {run.run_id} has no manifest: its tag was removed", ALTERED)
    key = (run.run_id, run.tags[tag.MANIFEST])
    if key not in client.records:
        artifacts, record = artifacts_of(client), None
        if RECORD_FILE in artifacts.manifest(run):
            data = artifacts.read_bytes(run, RECORD_FILE, MOST_RECORD_BYTES)
            record = parse_record(data, f"run {run.run_id}", ALTERED)
        while len(client.records) >= MOST_KEPT:
            client.records.pop(next(iter(client.records)))
        client.records[key] = record
    return cast(Record | None, client.records[key])


def _restored(client: Client, run: RunRecord) -> RunRecord:
    """A run without the digest is taken for one of before there were records: `verify` looks at its files."""
    older = tag.RECORD not in run.tags and (tag.MANIFEST in run.tags or run.kind not in tag.KINDS)
    if not run.finished or older or run.tags.get(tag.RECORD) == digest_of(run.tags, run.metrics):
        return run
    try:
        found = record_of(client, run)
    except IntegrityError as error:
        return replace(run, damage=error.message)
    if found is None:
        return replace(run, damage=f"it has the tag {tag.RECORD}, and no {RECORD_FILE}")
    edits = tuple(found.edits(run.tags, run.metrics)) or (f"tag {tag.RECORD} was edited",)
    client.edited[run.run_id] = edits
    others = {key: value for key, value in run.tags.items() if key not in recorded(run.tags)}
    tags = others | found.tags | {tag.RECORD: found.digest()}
    return replace(run, tags=tags, metrics=run.metrics | found.last(), edits=edits)
