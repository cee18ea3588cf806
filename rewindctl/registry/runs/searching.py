"""Runs by their tags, oldest first: of a server through its API, of a database in four queries.

MLflow's own search of a database builds five objects for each value of each run, the inputs among them, and takes two
seconds for a thousand runs. Its tables are read here by MLflow's own mapping of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rewindctl.registry.records import RunRecord, number_of, text_of
from rewindctl.registry.runs.reading import as_finished
from rewindctl.registry.store.client import Client
from rewindctl.registry.store.mlflow_internals import mapping

PAGE = 1_000
FEW = 900  # runs whose values are asked for by ID, so that the store is searched once and not four times
ACTIVE, DELETED, BOTH = 1, 2, 3  # MLflow's ViewType, which takes seconds to import
NAN = float("nan")
ANY = "%"  # a tag that is there, whatever it says
STAGES = {ACTIVE: ("active",), DELETED: ("deleted",), BOTH: ("active", "deleted")}


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
        for run_id, name, status, uri, start, end, stage in connection.execute(ordered):
            found[run_id] = RunRecord.checked(run_id, name, status, uri, start, end, stage, {}, {}, {})
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
