"""Runs of an older schema, recognised as the experiments that they are today. Nothing of theirs is changed.

A fingerprint of schema 1 also covers which points were recorded and how often it was evaluated. Today's is computed
from the spec that the run recorded and from its parent's, up to the baseline.
"""

from collections.abc import Iterable
from dataclasses import replace

from rewindctl.errors import IntegrityError
from rewindctl.registry import records as tag
from rewindctl.registry.records import RunRecord, Upgrade
from rewindctl.registry.store.client import Client, StoreError
from rewindctl.specs import FIRST_SCHEMA, upgraded

OLDER = str(FIRST_SCHEMA)
MOST_ANCESTORS = 1_000


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
