"""Which run is meant: by its ID, the first digits of it, or a model's alias. A deleted one is said to be so."""

import re
from contextlib import suppress
from typing import Any

from rewindctl.catalog import listed
from rewindctl.errors import UsageError
from rewindctl.registry import records as tag
from rewindctl.registry.models import DENSE_MODEL, is_baseline, model_of, seed_of
from rewindctl.registry.records import RunRecord
from rewindctl.registry.runs.reading import BOTH, read, search
from rewindctl.registry.store.address import absolute_uri
from rewindctl.registry.store.client import Client
from rewindctl.registry.store.failures import StoreError, none_if_missing

SHORTEST_PREFIX = 6


def get(client: Client, run_id: str, *, deleted: bool = False) -> RunRecord:
    """A run by its full ID. Raises: UsageError."""
    record = none_if_missing(lambda: read(client, run_id))
    if record is None:
        raise UsageError(f"no run {run_id!r} in {client.display_uri}", "list the runs: rewindctl list")
    if record.deleted and not deleted:
        raise _deleted(client, record)
    return record


def resolve(client: Client, reference: str, *, deleted: bool = False) -> RunRecord:
    """A run by whatever a person may write for it. Raises: UsageError."""
    if reference.startswith("models:/"):
        return _of_alias(client, reference, deleted)
    if re.fullmatch(r"[0-9a-f]{32}", reference):
        return get(client, reference, deleted=deleted)
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},32}}", reference):
        raise UsageError(
            f"{reference!r} is not a run",
            f"give a run ID, at least {SHORTEST_PREFIX} of its first digits, or models:/NAME@alias",
        )
    there = search(client, None, {}, prefix=reference, view=BOTH)
    found = [run for run in there if deleted or not run.deleted] or there
    if not found:
        raise UsageError(f"no run starts with {reference!r} in {client.display_uri}", "list the runs: rewindctl list")
    if len(found) > 1:
        raise UsageError(
            f"{reference!r} is the start of {len(found)} runs: {', '.join(run.run_id for run in found[:3])}",
            "give more digits",
        )
    if found[0].deleted and not deleted:
        raise _deleted(client, found[0])
    return found[0]


def _deleted(client: Client, run: RunRecord) -> UsageError:
    if run.tags.get(tag.ERROR) == tag.REMOVED:
        return UsageError(
            f"run {run.run_id} was deleted, its files too", "run its stage again, or list the runs: rewindctl list"
        )
    where = "" if client.uri == absolute_uri(None) else f" with MLFLOW_TRACKING_URI={client.display_uri}"
    return UsageError(
        f"run {run.run_id} was deleted",
        f"restore it: mlflow runs restore --run-id {run.run_id}{where}; or list the others: rewindctl list",
    )


def _of_alias(client: Client, reference: str, deleted: bool) -> RunRecord:
    """The run of the version that an alias names; `seed-<n>` must name a baseline, unless it may be a `deleted` one.

    Raises: UsageError.
    """
    match = re.fullmatch(r"models:/([^@/]+)@([^@/]+)", reference)
    if match is None:
        raise UsageError(f"{reference!r} is not a model alias", "write models:/resnet20-cifar10-dense@seed-0")
    version = none_if_missing(lambda: client.get_model_version_by_alias(match[1], match[2]))
    if version is None:
        raise _no_alias(client, match[1], reference)
    if not version.run_id:
        raise _no_baseline(reference, version, "which has no run")
    run = get(client, version.run_id, deleted=deleted)
    seed = seed_of(match[2]) if match[1].endswith(DENSE_MODEL) else None
    if seed is not None and not deleted and not is_baseline(run, match[1], seed):
        raise _no_baseline(reference, version, f"whose run {run.run_id} is {_described(run)}")
    return run


def _no_baseline(reference: str, version: Any, what: str) -> UsageError:
    return UsageError(
        f"{reference} names version {version.version}, {what}",
        "give a run ID (rewindctl list --kind dense); the next baseline of that seed gets the alias back",
    )


def _described(run: RunRecord) -> str:
    """What a run is that is no baseline of the alias: unfinished, of another kind, or of something else."""
    if run.kind != "dense":
        return f"of the kind {run.kind}" if run.kind else "none of rewindctl"
    return f"of {model_of(run)}, seed {run.tags.get(tag.SEED, '')}" if run.finished else run.status


def _no_alias(client: Client, model: str, reference: str) -> UsageError:
    known: list[str] = []
    with suppress(StoreError):  # there is no such model either
        known = [f"models:/{model}@{alias}" for alias in sorted(client.get_registered_model(model).aliases)]
    hint = f"known: {listed(known)}" if known else "list the baselines: rewindctl list --kind dense"
    return UsageError(f"no model {reference} in {client.display_uri}", hint)
