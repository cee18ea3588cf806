"""What is left behind and takes space: unfinished runs, orphans, files of deleted runs, files without a run.

Found by looking, never by guessing: runs by our tags, files by the place where only we write.
"""

import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rewindctl.counting import count_of
from rewindctl.errors import RegistryError
from rewindctl.registry.claiming.ownership import OwnerWatch
from rewindctl.registry.deleting.disk import (
    Disk,
    find_run,
    resume_points,
    size_of,
    temporary_files,
    unreferenced_folders,
)
from rewindctl.registry.deleting.removal import Before, descendants, leaf_first, remove
from rewindctl.registry.delivery.outbox import is_kept, kept_folder
from rewindctl.registry.models import refuse_foreign_versions
from rewindctl.registry.records import COPIED, KINDS, REPORT, RESUME_POINT, SCHEMA, TRIAL_STATE, RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.runs.reading import ANY, DELETED, search
from rewindctl.registry.runs.stored_point import POINT, drop
from rewindctl.registry.runs.writer import resume_file
from rewindctl.registry.store.address import sqlite_path

SORTS = {
    "superseded": "unfinished runs of stages that another run finished",
    "deleted": "files of runs deleted through MLflow",
    "unreferenced": "folders of runs that the store does not have",
    "resume": "resume points of runs that are finished, failed or deleted",
    "temporary": "temporary files and locks of processes that are gone",
    "unfinished": "other unfinished runs whose process is gone, and what they would go on from",
    "orphans": "runs whose parent or dense run is gone",
}
OPTIONAL = ("unreferenced", "unfinished", "orphans")  # only where asked for: results, or work that can go on


@dataclass(frozen=True)
class Item:
    """A run or a path of one sort, and its bytes."""

    sort: str
    what: str
    name: str
    size: int
    run: RunRecord | None = None
    path: Path | None = None
    stored: str | None = None  # the run whose resume point in the store it is


class Survey:
    """What there is of each sort in an experiment and on this machine; nothing is changed.

    `asked`: the optional sorts that are to go. Runs that a living process is at are in none.
    """

    def __init__(self, registry: Registry, asked: Collection[str] = ()) -> None:
        self.registry, self.asked, self.notes = registry, asked, list[str]()
        self._disk, self._watch = Disk(registry), OwnerWatch()

    @cached_property
    def items(self) -> list[Item]:
        """Every item, in the order of the sorts. Raises: MisplacedError for a store whose files are not its own."""
        self.registry.client.refuse_misplaced()
        runs = [*self._runs(), *self._deleted()]
        going = {item.what for item in runs if self._goes(item.sort)}
        found = [*runs, *self._stored(going), *self._paths({resume_file(run_id) for run_id in going})]
        order = list(SORTS)
        return sorted(found, key=lambda item: order.index(item.sort))

    @property
    def chosen(self) -> list[Item]:
        """What goes: the sorts that are safe, and those asked for."""
        return [item for item in self.items if self._goes(item.sort)]

    def _goes(self, sort: str) -> bool:
        return sort not in OPTIONAL or sort in self.asked

    @cached_property
    def _active(self) -> dict[str, RunRecord]:
        return {run.run_id: run for run in self.registry.search() if run.kind in KINDS}

    @cached_property
    def _gone(self) -> set[str]:
        """The runs that others name as parent or dense run, and that are deleted or nowhere."""
        named = {name for run in self._active.values() for name in _ancestors(run)} - self._active.keys()
        found = {name: find_run(self.registry, name) for name in named}
        return {name for name, run in found.items() if run is None or run.deleted}

    @cached_property
    def _orphans(self) -> dict[str, RunRecord]:
        """Runs without their parent or dense run, and all made from them."""
        found: dict[str, RunRecord] = {}
        while True:
            lost = self._gone | found.keys()
            new = {
                key: run
                for key, run in self._active.items()
                if key not in found
                and (lost.intersection(_ancestors(run)) or (_ancestors(run) and run.parent_id is None))
            }
            if not new:
                return found
            found |= new

    def _at_work(self, run: RunRecord) -> bool:
        return run.status == "RUNNING" and not self._watch.is_dead(run)

    def _sort_of(self, run: RunRecord) -> str | None:
        if self._at_work(run):
            return None
        if COPIED not in run.tags and is_kept(kept_folder() / run.run_id):
            self.notes.append(f"kept: run {run.run_id}, its results are not uploaded yet: rewindctl recover")
            return None
        if run.run_id in self._orphans:
            return "orphans"
        if run.finished or TRIAL_STATE in run.tags:
            return None
        stage = (run.fingerprint, run.parent_id)
        return "superseded" if run.kind not in ("tune", REPORT) and stage in self._finished else "unfinished"

    @cached_property
    def _finished(self) -> set[tuple[str, str | None]]:
        return {(run.fingerprint, run.parent_id) for run in self._active.values() if run.finished and not run.damage}

    def _runs(self) -> Iterator[Item]:
        sorts = {key: sort for key, run in self._active.items() if (sort := self._sort_of(run)) is not None}
        for key, run in self._active.items():  # an unfinished search goes with its trials
            if run.kind == "trial" and sorts.get(run.parent_id or "") == "unfinished" and not self._at_work(run):
                sorts.setdefault(key, "unfinished")
        kept: set[str] = set()
        for run in leaf_first(self._active[key] for key in sorts):
            sort = sorts[run.run_id]
            going = {key for key, other in sorts.items() if other == sort or self._goes(other)} - kept
            if self._may_go(run, sort, going):
                yield self._item(sort, run)
            else:
                kept.add(run.run_id)

    def _deleted(self) -> Iterator[Item]:
        going = self._orphans.keys() if "orphans" in self.asked else set()
        ours, here = {SCHEMA: ANY}, [self.registry.experiment_id]
        for run in search(self.registry.client, here, ours, view=DELETED):
            if run.kind in KINDS and self._disk.files(run) and self._may_go(run, "deleted", going):
                yield self._item("deleted", run)

    def _may_go(self, run: RunRecord, sort: str, going: Collection[str]) -> bool:
        """Whether nothing that stays needs the run, and it is the store's alone; a note says what keeps it."""
        try:
            self._disk.require_inside(run)
            refuse_foreign_versions(self.registry.client, run)
        except RegistryError as error:
            self.notes.append(f"kept ({sort}): {error.message}")
            return False
        needed = [one for one in descendants(self.registry, run) if one.run_id not in going]
        if needed:
            restore = f"; restore it: mlflow runs restore --run-id {run.run_id}" if run.deleted else ""
            made = count_of(len(needed), "living run was", "living runs were")
            self.notes.append(f"kept ({sort}): run {run.run_id}, since {made} made from it{restore}")
        return not needed

    def _item(self, sort: str, run: RunRecord) -> Item:
        status = "" if run.finished or run.deleted else f" ({run.status})"
        return Item(sort, run.run_id, run.name + status, self._disk.size(run), run=run)

    def _stored(self, counted: set[str]) -> Iterator[Item]:
        """Resume points that the store did not delete when their runs ended, but for those of the runs `counted`."""
        for run in self._active.values():
            if RESUME_POINT in run.tags and run.status in ("FINISHED", "FAILED") and run.run_id not in counted:
                size = self._disk.files(run).get(POINT, 0)
                yield Item("resume", f"{run.run_id}/{POINT}", run.name, size, stored=run.run_id)

    def _paths(self, counted: set[Path]) -> Iterator[Item]:
        """Paths of each sort, but for the resume points `counted`, which go with their runs."""
        idle, unknown = resume_points(self.registry)
        found = {
            "resume": [path for path in idle if path not in counted],
            "temporary": temporary_files(),
            "unreferenced": unreferenced_folders(self.registry),
        }
        if unknown:
            self.notes.append(
                f"{count_of(len(unknown), 'resume point')} in {unknown[0].parent} not used by any run of this store: "
                "kept, since another store may need them"
            )
        if sqlite_path(self.registry.uri) is None:
            self.notes.append("unreferenced folders are not searched for: the store is a server")
        for sort, paths in found.items():
            for path in paths:
                yield Item(sort, str(path), path.name, size_of(path), path=path)


def clear(
    registry: Registry,
    items: list[Item],
    before: Before = lambda run: None,
    stepped: Callable[[int], None] = lambda done: None,
) -> None:
    """Remove the items: runs leaf first, then the rest. `stepped` is told how many are done. Raises: RegistryError."""
    registry.client.require_bound()
    runs = leaf_first(item.run for item in items if item.run is not None)
    done = 0
    for done, _ in enumerate(remove(registry, runs, before), start=1):
        stepped(done)
    for item in [item for item in items if item.run is None]:
        if item.stored is not None:
            drop(registry.client, item.stored)
        elif item.path is not None:
            _delete(item.path)
        done += 1
        stepped(done)


def _delete(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise RegistryError(f"{path} cannot be deleted: {reason}", "delete it by hand, or leave it") from None


def _ancestors(run: RunRecord) -> set[str]:
    """The runs that a run cannot do without."""
    return set() if run.kind in ("dense", REPORT) else {run.parent_id or run.dense_run_id, run.dense_run_id}
