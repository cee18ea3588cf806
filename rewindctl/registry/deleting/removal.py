"""Removing runs: all that descends from them first, so that a kill leaves no run without its parent.

Each step can be done again: the same command finishes what was begun. A run is marked KILLED before its files go, so
that it counts for nothing from then on, even if somebody restores what MLflow keeps of it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rewindctl.counting import count_of
from rewindctl.errors import RegistryError, RewindError, UsageError
from rewindctl.registry.claiming.ownership import OwnerWatch, shown
from rewindctl.registry.deleting.disk import Disk
from rewindctl.registry.delivery.outbox import forget, kept_folder
from rewindctl.registry.models import drop_versions, refuse_foreign_versions
from rewindctl.registry.records import COPIED, DENSE_RUN, ERROR, KINDS, OWNER, REMOVED, WEIGHTS_FROM, RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.runs.inputs import made_model
from rewindctl.registry.runs.reading import search
from rewindctl.registry.runs.writer import resume_file
from rewindctl.registry.store.address import is_server
from rewindctl.registry.store.failures import DeniedError, none_if_missing

Before = Callable[[RunRecord], None]


@dataclass(frozen=True)
class PlannedRemoval:
    """A run to be removed, and the bytes that come back."""

    run: RunRecord
    size: int


class HasDescendantsError(UsageError):
    """Runs were made from one that is to go; `descendants` are they, children before their parents."""

    def __init__(self, run: RunRecord, descendants: list[RunRecord]) -> None:
        super().__init__(
            f"run {run.run_id} has {count_of(len(descendants), 'live descendant')}",
            "remove them too with --recursive, or first one by one",
        )
        self.descendants = descendants


def plan(registry: Registry, named: Sequence[RunRecord], *, recursive: bool = False) -> list[PlannedRemoval]:
    """What removing the named runs takes away, leaf first; nothing is changed.

    Raises: UsageError when a run is not ours or has descendants that are not named (unless `recursive`), RegistryError
    when a living process is at one, or its files are not the store's.
    """
    chosen = {run.run_id: run for run in named}
    for run in named:
        _require_ours(run)
        below = [one for one in descendants(registry, run) if one.run_id not in chosen]
        if below and not recursive:
            raise HasDescendantsError(run, leaf_first(below))
        chosen |= {one.run_id: one for one in below}
    disk, watch = Disk(registry), OwnerWatch()
    for run in chosen.values():
        _require_ours(run)
        refuse_if_owned(run, watch)
        disk.require_inside(run)
        refuse_foreign_versions(registry.client, run)
    return [PlannedRemoval(run, disk.size(run)) for run in leaf_first(chosen.values())]


def remove(registry: Registry, runs: Iterable[RunRecord], before: Before = lambda run: None) -> Iterator[RunRecord]:
    """Remove the runs of a plan in its order, giving each when it is gone. `before` is told of each at its turn.

    Raises: RegistryError when one has a new child or owner, or the store cannot delete its files.
    """
    disk, watch = Disk(registry), OwnerWatch()
    for planned in runs:
        run = registry.get(planned.run_id, deleted=True)
        refuse_if_owned(run, watch)
        if children := registry.children(run):
            raise RegistryError(f"run {run.run_id} has a new child, {children[0].run_id}", "the same command again")
        _require_right(registry, run)
        _delete_files(registry, disk, run)
        before(run)
        if COPIED not in run.tags:  # else they are the original's
            resume_file(run.run_id).unlink(missing_ok=True)
            forget(kept_folder() / run.run_id)
        if not run.deleted:
            if (network := made_model(registry.client, run.run_id)) is not None:
                # What the UI lists as the run's model; it has no files.
                none_if_missing(partial(registry.client.delete_logged_model, network))
            registry.client.delete_run(run.run_id)
        _drop_versions(registry, run)
        yield run


def descendants(registry: Registry, run: RunRecord) -> list[RunRecord]:
    """Every live run that was made from `run`, also where a run between the two is gone."""
    found = {one.run_id: one for children in registry.descendants(run).values() for one in children}
    for one in search(registry.client, None, {DENSE_RUN: run.dense_run_id}):
        if run.kind == "dense" or one.tags.get(WEIGHTS_FROM, "").startswith(f"{run.run_id}@"):
            found[one.run_id] = one
    found.pop(run.run_id, None)
    return list(found.values())


def leaf_first(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """Children before their parents; of equals the youngest first."""
    known = {run.run_id: run for run in runs}

    def depth(run: RunRecord) -> int:
        seen = {run.run_id}
        while (parent := known.get(run.parent_id or "")) is not None and parent.run_id not in seen:
            seen.add(parent.run_id)
            run = parent
        return len(seen)

    return sorted(known.values(), key=lambda run: (depth(run), run.started, run.run_id), reverse=True)


def refuse_if_owned(run: RunRecord, watch: OwnerWatch) -> None:
    """Raises: RegistryError when a living process is at the run, as far as can be told."""
    if run.status == "RUNNING" and not run.deleted and not watch.is_dead(run):
        owner = shown(run.tags.get(OWNER, "")) or "an unknown process"
        raise RegistryError(
            f"run {run.run_id} is running: its owner is {owner}",
            "end that process first; a process on another machine counts as dead after a day without a heartbeat",
        )


def _require_right(registry: Registry, run: RunRecord) -> None:
    """Raises: DeniedError where a server does not let the user delete the run.

    Restoring one that is there changes nothing and needs the same right; one that another process has just deleted
    would come back, so this is asked of a run that was just read, and never by who only lists.
    """
    if is_server(registry.uri) and not run.deleted:
        registry.client.restore_run(run.run_id)


def _require_ours(run: RunRecord) -> None:
    if run.kind not in KINDS:
        raise UsageError(
            f"run {run.run_id} is not a run of rewindctl: it is not removed",
            f"to delete it in MLflow: mlflow runs delete --run-id {run.run_id}",
        )


def _delete_files(registry: Registry, disk: Disk, run: RunRecord) -> None:
    """The run is marked before; where the store did not delete a single file it is as it was."""
    before = disk.files(run)
    if not run.deleted:
        registry.client.set_tag(run.run_id, ERROR, REMOVED)
        registry.client.update_run(run.run_id, status="KILLED")
    try:
        disk.delete(run)
    except RewindError:
        if not run.deleted and disk.files(run) == before:
            registry.client.update_run(run.run_id, status=run.status)
            if ERROR in run.tags:
                registry.client.set_tag(run.run_id, ERROR, run.tags[ERROR])
            else:
                registry.client.delete_tag(run.run_id, ERROR)
        raise


def _drop_versions(registry: Registry, run: RunRecord) -> None:
    try:
        drop_versions(registry.client, run)
    except DeniedError as error:  # it is no baseline any more, wherever one is read
        raise RegistryError(
            f"run {run.run_id} is removed, but not its version: {error.message}",
            f"{error.hint}; then the same command",
        ) from None
