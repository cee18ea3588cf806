"""Runs read from the store, one or by their tags: as they were finished, and as the experiments that they are today.

What somebody edited since is undone by the run's record. Runs of an older schema are recognised: a fingerprint of
schema 1 also covers which points were recorded and how often it was evaluated. Today's is computed from the spec that
the run recorded and from its parent's, up to the baseline. Nothing of theirs is changed.

MLflow's own search of a database builds five objects for each value of each run, the inputs among them, and takes two
seconds for a thousand runs. Its tables are read here by MLflow's own mapping of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from rewindctl.errors import IntegrityError
from rewindctl.registry import records as tag
from rewindctl.registry.records import RunRecord, Upgrade, number_of, text_of
from rewindctl.registry.runs.artifacts import Artifacts
from rewindctl.registry.runs.manifest import (
    ALTERED,
    MOST_RECORD_BYTES,
    RECORD_FILE,
    SealedRecord,
    digest_of,
    parse_record,
    recorded,
)
from rewindctl.registry.store.client import Client
from rewindctl.registry.store.failures import StoreError
from rewindctl.registry.store.mlflow_internals import mapping
from rewindctl.specs import FIRST_SCHEMA, upgraded

MOST_KEPT = 100  # records in memory
OLDER = str(FIRST_SCHEMA)
MOST_ANCESTORS = 1_000
PAGE = 1_000
FEW = 900  # runs whose values are asked for by ID, so that the store is searched once and not four times
ACTIVE, DELETED, BOTH = 1, 2, 3  # MLflow's ViewType, which takes seconds to import
NAN = float("nan")
ANY = "%"  # a tag that is there, whatever it says
STAGES = {ACTIVE: ("active",), DELETED: ("deleted",), BOTH: ("active", "deleted")}


def recognised(client: Client, runs: Iterable[RunRecord]) -> list[RunRecord]:
    """The runs, each of an older schema with its upgrade; one whose lineage leads nowhere stays as it was recorded."""
    found = list(runs)
    known = {run.run_id: run for run in found}
    return [replace(run, upgrade=_upgrade(client, run, known)) if _is_older(run) else run for run in found]


def _is_older(run: RunRecord) -> bool:
    return run.tags.get(tag.SCHEMA) == OLDER and run.kind in tag.PARENT_KINDS and tag.SPEC in run.tags


def _upgrade(client: Client, run: RunRecord, known: dict[str, RunRecord]) -> Upgrade | None:
    """Along the chain of parents up to the first that is known; what has no whole chain has no upgrade."""
    chain = [run]
    while (parent_id := chain[-1].parent_id) is not None and _key(chain[-1]) not in client.upgrades:
        parent = known.get(parent_id) or _read(client, parent_id)
        if parent is None or len(chain) > MOST_ANCESTORS:
            return None
        known[parent_id] = parent
        chain.append(parent)
    above: Upgrade | None = None
    for link in reversed(chain):
        key = _key(link)
        if key not in client.upgrades:
            try:
                spec = upgraded(link.recorded, above.fingerprint if above else None)
            except IntegrityError:
                return None  # told when the spec is asked for
            client.upgrades[key] = Upgrade(spec, spec.group(above.group if above else None))
        above = client.upgrades[key]
    return above


def _key(run: RunRecord) -> tuple[str, str, str]:
    """What an upgrade is computed from: a run that somebody has edited since is another."""
    return run.run_id, run.recorded_fingerprint, run.tags.get(tag.SPEC, "")


def _read(client: Client, run_id: str) -> RunRecord | None:
    try:
        return RunRecord.from_mlflow(client.get_run(run_id))
    except StoreError:
        return None


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


def record_of(client: Client, run: RunRecord) -> SealedRecord | None:
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
    return cast(SealedRecord | None, client.records[key])


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


def search(
    client: Client, experiment_ids: Sequence[str] | None, tags: Mapping[str, str], prefix: str = "", view: int = ACTIVE
) -> list[RunRecord]:
    """All runs of the experiments (None: of every one) with these tags whose ID starts with `prefix`, oldest first.

    The tags are those that the runs were recorded with: `Registry.search` knows what older ones are called today.
    """
    if experiment_ids is None:
        experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    engine = client.engine
    if engine is None:
        found = _through_api(client, experiment_ids, tags, prefix, view)
    else:
        found = client.patiently(lambda: _from_tables(engine, experiment_ids, tags, prefix, view))
    return [run for run in as_finished(client, found) if not run.edits or _has(run, tags)]


def _has(run: RunRecord, tags: Mapping[str, str]) -> bool:
    """Whether a run that was edited had the tags when it was finished."""
    return all(key in run.tags and value in (ANY, run.tags[key]) for key, value in tags.items())


def _through_api(
    client: Client, experiment_ids: Sequence[str], tags: Mapping[str, str], prefix: str, view: int
) -> list[RunRecord]:
    if any("'" in value for value in tags.values()):  # MLflow has no way to ask for it, and nothing of ours has one
        return []
    conditions = [f"tags.`{key}` {'LIKE' if value == ANY else '='} '{value}'" for key, value in tags.items()]
    if prefix:
        conditions.append(f"attributes.run_id LIKE '{prefix}%'")
    found, token = [], None
    while True:
        page = client.search_runs(
            list(experiment_ids),
            " and ".join(conditions),
            view,
            max_results=PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        found += [RunRecord.from_mlflow(run) for run in page]
        token = page.token
        if not token:
            return found


def _from_tables(
    engine: Any, experiment_ids: Sequence[str], tags: Mapping[str, str], prefix: str, view: int
) -> list[RunRecord]:
    from sqlalchemy import select

    run, tag, param, metric = (getattr(mapping(), name) for name in ("SqlRun", "SqlTag", "SqlParam", "SqlLatestMetric"))
    wanted = [run.experiment_id.in_([int(number) for number in experiment_ids])]
    wanted += [run.lifecycle_stage.in_(STAGES[view]), run.run_uuid.startswith(prefix, autoescape=True)]
    for key, value in tags.items():
        tagged = select(tag.run_uuid).where(tag.key == key)
        tagged = tagged if value == ANY else tagged.where(tag.value == value)
        wanted.append(run.run_uuid.in_(tagged))
    columns = (run.run_uuid, run.name, run.status, run.artifact_uri, run.start_time, run.end_time)
    found: dict[str, RunRecord] = {}
    with engine.connect() as connection:
        ordered = select(*columns, run.lifecycle_stage).where(*wanted).order_by(run.start_time, run.run_uuid)
        for row in connection.execute(ordered):
            found[row[0]] = RunRecord.checked(row, {}, {}, {})
        ids = list(found) if len(found) <= FEW else select(run.run_uuid).where(*wanted)
        # Each query sees the store at its own moment: a run that came after the first one is in none.
        for table, place in ((tag, "tags"), (param, "params")):
            texts = select(table.run_uuid, table.key, table.value).where(table.run_uuid.in_(ids))
            for run_id, key, value in connection.execute(texts):
                if run_id in found:
                    getattr(found[run_id], place)[text_of(key)] = text_of(value)
        last = select(metric.run_uuid, metric.key, metric.value, metric.is_nan)
        for run_id, key, value, is_nan in connection.execute(last.where(metric.run_uuid.in_(ids))):
            if run_id in found:
                found[run_id].metrics[text_of(key)] = NAN if is_nan else number_of(value)
    return list(found.values())
