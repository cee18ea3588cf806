"""A bundle into a registry: everything is verified, then planned, then written; all of it stays or nothing does.

A run that the registry has is not written again; its children in the bundle become children of the run that is there.
The registry has a run when it has a finished one of the same fingerprint, under the same parent, with the same
networks and masks byte for byte: one trained on another device has the fingerprint too, but its children are not
those of the bundle's, so the bundle's is then imported beside it. The one that was made here stays the newest.

MLflow knows no transactions. New runs are RUNNING, which never counts, until all are there; a failure removes them,
and what a killed import leaves is removed by the next one. They are then finished parents first, so that a process
killed at that moment leaves whole lineages, and the same import adds the rest. Baselines are made versions of their
models when all runs are there: who may not do that has the runs, and a note.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rewindctl.errors import IntegrityError, RegistryError
from rewindctl.registry import records as tag
from rewindctl.registry.bundle.archive import Bundle, read_bundle
from rewindctl.registry.bundle.export import ReportCount
from rewindctl.registry.bundle.index import RunEntry, spec_of, upgrade_below
from rewindctl.registry.claiming.ownership import OwnerWatch, shown, this_process
from rewindctl.registry.delivery.sender import log_rows
from rewindctl.registry.models import drop_versions, iterations_of, unregistered_text
from rewindctl.registry.records import RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.runs.manifest import CHECKPOINTS, MANIFEST_FILE, parse_manifest
from rewindctl.registry.runs.opening import common_tags, params_of
from rewindctl.registry.store.failures import StoreError
from rewindctl.specs import DenseSpec
from rewindctl.system.files import disk_hint
from rewindctl.system.temporary import temporary_folder


@dataclass(frozen=True)
class Merged:
    """What an import did: for each run of the bundle, the run of this registry.

    `notes` name the baselines that are there, and are no versions of their models.
    """

    digest: str
    runs: dict[str, str]
    imported: tuple[str, ...]
    completed: tuple[str, ...]
    notes: tuple[str, ...]


def import_bundle(
    open_registry: Callable[[], Registry], given: Sequence[Path], progressed: ReportCount = lambda done, total: None
) -> Merged:
    """Merge a bundle, given by its path or its parts. The registry is opened when the bundle is verified.

    Raises: UsageError when there is no such file, IntegrityError when it is damaged or hostile, RegistryError when
    the store fails; the registry is then as it was.
    """
    try:
        with temporary_folder() as folder:
            bundle = read_bundle(given, Path(folder))
            registry = open_registry()
            remove_leftovers(registry)
            return _Merge(registry, bundle, progressed).run()
    except OSError as error:
        raise RegistryError(
            f"{given[0]} cannot be unpacked to {tempfile.gettempdir()}: {error.strerror or error}",
            disk_hint(error, f"check the file, and that {tempfile.gettempdir()} has room for it"),
        ) from None


@dataclass
class _Merge:
    registry: Registry
    bundle: Bundle
    progressed: ReportCount
    same: dict[str, list[RunRecord]] = field(default_factory=dict)  # runs that are there, by the bundle's run ID
    twins: dict[str, str] = field(default_factory=dict)  # a run of the bundle that has another's results
    earlier: dict[tuple[object, ...], str] = field(default_factory=dict)  # the first run of the bundle by its results
    new: list[RunEntry] = field(default_factory=list)
    made: dict[str, str] = field(default_factory=dict)
    completed: list[RunRecord] = field(default_factory=list)

    def run(self) -> Merged:
        for entry in self.bundle.index.runs:
            self._place(entry)
        try:
            self._write()
        except BaseException:
            self._undo()
            raise
        notes = tuple(self._register())
        places = {entry.run_id: self._home(entry.run_id) for entry in self.bundle.index.runs}
        completed = tuple(run.run_id for run in self.completed)
        return Merged(self.bundle.digest, places, tuple(self.made.values()), completed, notes)

    @cached_property
    def _known(self) -> list[RunRecord]:
        """The runs of the experiment when the import was planned."""
        return self.registry.search()

    @cached_property
    def _there(self) -> dict[str, list[RunRecord]]:
        """The finished runs of the experiment by fingerprint, newest first, those with their checkpoints before."""
        found: dict[str, list[RunRecord]] = {}
        for run in sorted(self._known, key=lambda run: run.age, reverse=True):
            if run.finished:
                found.setdefault(run.fingerprint, []).append(run)
        return {key: sorted(runs, key=lambda run: tag.OMITTED in run.tags) for key, runs in found.items()}

    def _place(self, entry: RunEntry) -> None:
        """Decide whether a run is there, is a twin of an earlier one, or is new. Its parent is placed already."""
        parents = {run.run_id for run in self.same.get(entry.parent or "", ())}
        found = [
            run
            for run in self._there.get(self._today[entry.run_id].fingerprint, ())
            if (entry.parent is None or run.parent_id in parents) and self._has_results(run, entry)
        ]
        if found:
            self.same[entry.run_id] = found
        elif (twin := self.earlier.setdefault(self._key(entry), entry.run_id)) != entry.run_id:
            self.twins[entry.run_id] = twin
        else:
            self.new.append(entry)

    def _key(self, entry: RunEntry) -> tuple[object, ...]:
        results = tuple(sorted(self.bundle.manifests[entry.run_id].results().items()))
        return self._today[entry.run_id].fingerprint, self._home(entry.parent), results, entry.omitted

    @cached_property
    def _today(self) -> dict[str, tag.Upgrade]:
        """What each run of the bundle is in today's schema, by its ID there."""
        found: dict[str, tag.Upgrade] = {}
        for entry in self.bundle.index.runs:
            found[entry.run_id] = upgrade_below(entry, found.get(entry.parent or ""))
        return found

    def _home(self, run_id: str | None) -> str:
        """The run of this registry that stands for one of the bundle; the bundle's own ID while it is not made."""
        run_id = self.twins.get(run_id or "", run_id or "")
        return self.same[run_id][0].run_id if run_id in self.same else self.made.get(run_id, run_id)

    def _has_results(self, run: RunRecord, entry: RunEntry) -> bool:
        """Whether `run` has the networks and masks of `entry`, byte for byte."""
        if run.tags.get(tag.MANIFEST) == entry.artifacts[MANIFEST_FILE]:
            return True
        wanted = self.bundle.manifests[entry.run_id].results()
        try:
            path = self.registry.artifacts.manifest_file(run)
            return bool(wanted) and parse_manifest(path.read_bytes(), f"run {run.run_id}").results() == wanted
        except IntegrityError:
            return False  # a damaged run takes no one's place

    def _write(self) -> None:
        for done, entry in enumerate(self.new, start=1):
            self._create(entry)
            self.progressed(done, len(self.new))
        for entry in self.bundle.index.runs:
            self._complete(entry)
        self._refuse_rivals()
        client = self.registry.client
        for run in self.completed:
            client.delete_tag(run.run_id, tag.OMITTED)
        for entry in self.new:
            client.set_terminated(self.made[entry.run_id], "FINISHED", entry.ended)

    def _register(self) -> Iterator[str]:
        """Make the baselines versions of their models; a note where something keeps them from that: they are there."""
        found = [
            self.registry.get(self._home(entry.run_id)) for entry in self.bundle.index.runs if entry.kind == "dense"
        ]
        for run in sorted(found, key=lambda run: -iterations_of(run)):  # a new alias is the longest one's
            spec = run.spec
            assert isinstance(spec, DenseSpec)
            try:
                self.registry.register(run)
            except RegistryError as error:
                yield f"run {run.run_id} {unregistered_text(spec, error)}"

    def _refuse_rivals(self) -> None:
        """Raises: RegistryError when another process brought one of the new runs meanwhile: it would be there twice.

        Of two imports at the same time the later one to look sees the runs of the other, so one at most goes on.
        """
        new = {self._today[entry.run_id].fingerprint for entry in self.new}
        mine = {*self.made.values(), *(run.run_id for run in self._known)}
        for run in self.registry.search():
            under_way = run.status == "RUNNING" and tag.IMPORT in run.tags
            if run.run_id not in mine and run.fingerprint in new and (run.finished or under_way):
                raise RegistryError(f"run {run.run_id} was added by another process during the import", "import again")

    def _create(self, entry: RunEntry) -> None:
        """Write all of a run but its end."""
        client, registry = self.registry.client, self.registry
        run = client.create_run(registry.experiment_id, entry.started, self._tags(entry), entry.name)
        run_id = self.made[entry.run_id] = run.info.run_id
        if entry.kind == "dense":
            client.set_tag(run_id, tag.DENSE_RUN, run_id)
        log_rows(client, run_id, "params", params_of(spec_of(entry)).items())
        points = [(key, value, time, step) for key, rows in entry.metrics.items() for step, time, value in rows]
        log_rows(client, run_id, "metrics", points)
        self._upload(run_id, entry.artifacts)

    def _tags(self, entry: RunEntry) -> dict[str, str]:
        own = {
            **common_tags(entry.kind),
            tag.SCHEMA: str(spec_of(entry).schema_version),
            tag.FINGERPRINT: entry.fingerprint,
            tag.GROUP: entry.group,
            **tag.spec_tags(entry.spec),
            tag.MANIFEST: entry.artifacts[MANIFEST_FILE],
            tag.IMPORT: self.bundle.digest,
            tag.IMPORTED_FROM: entry.run_id,
        }
        if entry.omitted:
            own[tag.OMITTED] = CHECKPOINTS
        if entry.parent is not None:
            own |= {tag.PARENT: self._home(entry.parent), tag.DENSE_RUN: self._home(self._root(entry))}
        if entry.weights_from is not None:
            own[tag.WEIGHTS_FROM] = self._relinked(entry.weights_from)
        return own | {key: self._relinked(value) if key == tag.NOTE else value for key, value in entry.tags.items()}

    def _relinked(self, text: str) -> str:
        """The text with the IDs of this registry in the places of the bundle's."""
        return re.sub(r"\b[0-9a-f]{32}\b", lambda match: self._home(match[0]), text)

    def _root(self, entry: RunEntry) -> str:
        while entry.parent is not None:
            entry = self._by_id[entry.parent]
        return entry.run_id

    @cached_property
    def _by_id(self) -> dict[str, RunEntry]:
        return {entry.run_id: entry for entry in self.bundle.index.runs}

    def _upload(self, run_id: str, artifacts: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory(prefix="run-", dir=self.bundle.folder) as name:
            for path, digest in artifacts.items():
                local = Path(name) / path
                local.parent.mkdir(parents=True, exist_ok=True)
                _link(self.bundle.folder / digest, local)
            self.registry.client.log_artifacts(run_id, name)

    def _complete(self, entry: RunEntry) -> None:
        """Add the checkpoints to a run that was imported without them."""
        run = next(iter(self.same.get(entry.run_id, ())), None)
        if run is None or tag.OMITTED not in run.tags or entry.omitted or run in self.completed:
            return
        self.completed.append(run)
        artifacts = {path: digest for path, digest in entry.artifacts.items() if path.startswith(CHECKPOINTS)}
        self._upload(run.run_id, artifacts)

    def _undo(self) -> None:
        """Remove what was written, as far as the store allows; what it does not, the next import finds."""
        made = [*self.made.values()]
        with suppress(RegistryError):
            made += [run.run_id for run in self.registry.search() if self._is_unnoted(run)]
        for run_id in reversed(made):
            with suppress(RegistryError):
                discard(self.registry, self.registry.get(run_id))
        for run in self.completed:
            with suppress(RegistryError):
                self.registry.client.set_tag(run.run_id, tag.OMITTED, CHECKPOINTS)
                self.registry.client.delete_artifacts(run.artifact_uri, CHECKPOINTS.rstrip("/"))

    def _is_unnoted(self, run: RunRecord) -> bool:
        """Whether an interrupt came between the making of a run and the noting of its ID."""
        ours = run.tags.get(tag.IMPORT) == self.bundle.digest and run.tags.get(tag.OWNER) == this_process()
        return ours and run.status == "RUNNING" and run.run_id not in self.made.values()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def discard(registry: Registry, run: RunRecord) -> None:
    """Delete a run that never counted: its model versions, its artifacts, itself. Raises: StoreError."""
    client = registry.client
    drop_versions(client, run)
    with suppress(StoreError):  # files without a run cost space and mislead nobody
        client.delete_artifacts(run.artifact_uri)
    client.delete_run(run.run_id)


def remove_leftovers(registry: Registry) -> None:
    """Remove what a killed import left. Raises: RegistryError when another import is at work."""
    watch = OwnerWatch()
    for run in registry.search():
        if tag.IMPORT not in run.tags or run.finished:
            continue
        owner = run.tags.get(tag.OWNER, "")
        if run.status == "RUNNING" and owner != this_process() and not watch.is_dead(run):
            raise RegistryError(
                f"run {run.run_id} is being imported by {shown(owner)}",
                f"wait for it; if its process is gone: mlflow runs delete --run-id {run.run_id}",
            )
        discard(registry, run)
