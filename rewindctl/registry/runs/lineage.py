"""What a run was made from, and what was made from it: along the parent tags, whichever experiment."""

from collections.abc import Mapping

from rewindctl.errors import IntegrityError, RegistryError, UsageError
from rewindctl.registry import records as tag
from rewindctl.registry.records import RunRecord
from rewindctl.registry.runs.reading import search
from rewindctl.registry.runs.references import get
from rewindctl.registry.store.client import Client


class GoneError(RegistryError):
    """The parent of a run is not there."""


def parent_of(client: Client, run: RunRecord) -> RunRecord:
    """The run that it was made from, and that its spec names. Raises: RegistryError, IntegrityError, UsageError."""
    if run.kind == tag.REPORT:
        raise UsageError(f"run {run.run_id} is a report: it has no parent", "its params name what it is made of")
    if run.parent_id is None:
        raise RegistryError(f"run {run.run_id} has no parent", "its lineage was edited: run the stage again")
    try:
        parent = get(client, run.parent_id)
    except UsageError as error:
        raise GoneError(f"the parent of run {run.run_id} is gone: {error.message}", error.hint) from None
    if run.kind in tag.PARENT_KINDS and not run.is_child_of(parent):
        why = f"its parent {parent.run_id} is not the one of its fingerprint"
        raise IntegrityError(f"run {run.run_id}: {why}", tag.once_more(run.run_id))
    return parent


def root_of(client: Client, run: RunRecord) -> RunRecord:
    """The dense run at the end of the parents; the tag that names it is for searches.

    Raises: UsageError when one between is gone, RegistryError.
    """
    try:
        return ancestors(client, run, {})[0]
    except GoneError as error:
        raise UsageError(f"the dense run of run {run.run_id} is gone: {error.message}", error.hint) from None


def ancestors(client: Client, run: RunRecord, known: Mapping[str, RunRecord]) -> list[RunRecord]:
    """The run and its ancestors, the dense run first. Raises: RegistryError."""
    chain = [run]
    while chain[0].kind != "dense":
        parent = known.get(chain[0].parent_id or "") or parent_of(client, chain[0])
        if parent.run_id in {link.run_id for link in chain}:
            raise RegistryError(f"run {parent.run_id} is its own ancestor", "its parent tag was edited: run it again")
        chain.insert(0, parent)
    return chain


def children_of(client: Client, run: RunRecord) -> list[RunRecord]:
    """The runs whose parent it is, oldest first."""
    return search(client, None, {tag.PARENT: run.run_id})


def descendants(client: Client, run: RunRecord) -> dict[str, list[RunRecord]]:
    """The children of the run and of each run below it, by parent: two queries."""
    root = run.dense_run_id  # a tag: it may hold anything, quotes too
    family = search(client, None, {tag.DENSE_RUN: root}) if tag.RUN_ID.fullmatch(root) else []
    by_parent: dict[str, list[RunRecord]] = {}
    for other in {one.run_id: one for one in [*family, *children_of(client, run)]}.values():
        by_parent.setdefault(other.parent_id or "", []).append(other)
    found: dict[str, list[RunRecord]] = {}
    open_ids, seen = [run.run_id], {run.run_id}
    while open_ids:
        parent = open_ids.pop()
        found[parent] = [child for child in by_parent.get(parent, []) if child.run_id not in seen]
        new = [child.run_id for child in found[parent]]
        seen.update(new)
        open_ids += new
    return found
