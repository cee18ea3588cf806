"""The runs of rewindctl in one experiment of a tracking store: the interface that the other packages use."""

import time
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rewindctl.arithmetic import AUTO
from rewindctl.errors import IntegrityError, RegistryError, UsageError
from rewindctl.registry import experiments, models
from rewindctl.registry import records as tag
from rewindctl.registry.claiming.ownership import OwnerWatch
from rewindctl.registry.records import RunRecord
from rewindctl.registry.runs import reading, references
from rewindctl.registry.runs.manifest import SealedRecord
from rewindctl.registry.runs.opening import Opening, open_report
from rewindctl.registry.runs.reading import ANY, search
from rewindctl.registry.runs.stored_point import Machine
from rewindctl.registry.runs.writer import RunWriter
from rewindctl.registry.store.address import absolute_uri, is_server, require_store
from rewindctl.registry.store.connect import connect
from rewindctl.registry.store.failures import despite_conflicts
from rewindctl.specs import DenseSpec, Spec

LISTED_SECONDS = 30.0


class GoneError(RegistryError):
    """The parent of a run does not exist any more."""


class Registry:
    """Our runs in an experiment. Opening it makes the store and the experiment where they are missing.

    Without `make` (for readers) no SQLite store is created, and no experiment but the default one; without
    `make_default` not even that. Raises: RegistryError when the store cannot be reached or written; without `make` also
    when it is missing, and UnknownNameError when the experiment is.

    `client` is the store itself, for the other modules of this room; `artifacts` are the files of all its runs.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        *,
        make: bool = True,
        make_default: bool = True,
    ) -> None:
        self.uri = absolute_uri(tracking_uri)
        if not make:
            require_store(self.uri)
        self.client = connect(self.uri, wait=make)
        self.display_uri = self.client.display_uri  # without credentials
        self.experiment, self.experiment_id = experiments.open_experiment(self.client, experiment, make, make_default)
        if self.client.binding is not None:
            self.client.binding.open(self.experiment_id)
        self.artifacts = reading.artifacts_of(self.client)
        self._listed: tuple[float, dict[str, list[str]]] | None = None

    def describe(self) -> None:
        """Add our description and UI views to an experiment that was not made by rewindctl; existing ones are kept."""
        experiments.describe(self.client, self.experiment_id)

    def require_own_files(self) -> None:
        """Before something is changed that is not in the store. Raises: MisplacedError where it was copied or moved."""
        self.client.require_bound()

    def search(self, **tags: str) -> list[RunRecord]:
        """All our runs of the experiment with these tags (without `rewindctl.`), oldest first, every page.

        A fingerprint is today's: runs of an older schema that are the same experiment are among those found.
        """
        named = {f"rewindctl.{key}": value for key, value in tags.items()}
        found = search(self.client, [self.experiment_id], named or {tag.SCHEMA: ANY})
        if tag.FINGERPRINT not in named:
            return found
        ids = {run.run_id for run in found}
        return sorted([*found, *self._older(named, ids)], key=lambda run: (run.started, run.run_id))

    def _older(self, named: Mapping[str, str], but: Collection[str]) -> list[RunRecord]:
        """Runs of an older schema that today have the fingerprint in `named`, and its other tags.

        This version makes no such runs, though it may finish or import one: they are listed once in a while.
        """
        now = time.monotonic()
        if self._listed is None or now - self._listed[0] > LISTED_SECONDS:
            runs = search(self.client, [self.experiment_id], {tag.SCHEMA: reading.OLDER})
            by_identity: dict[str, list[str]] = {}
            for run in runs:
                by_identity.setdefault(run.fingerprint, []).append(run.run_id)
            self._listed = now, by_identity
        ids = [run_id for run_id in self._listed[1].get(named[tag.FINGERPRINT], ()) if run_id not in but]
        others = {key: value for key, value in named.items() if key != tag.FINGERPRINT}
        read = [reading.read(self.client, run_id) for run_id in ids]
        return [run for run in read if not run.deleted and others.items() <= run.tags.items()]

    def find(self, fingerprint: str, parent: RunRecord | None = None, precision: str = AUTO) -> RunRecord | None:
        """The newest finished run of an experiment (forced reruns replace older ones), a child of `parent` if given.

        A forced rerun of the parent has its fingerprint but need not have its bytes (another device): the children
        of one are not those of the other. Raises: IntegrityError when the newest is damaged.
        """
        same = [run for run in self.search(fingerprint=fingerprint) if tag.trained_in(run, precision)]
        finished = [run for run in same if run.finished and (parent is None or run.parent_id == parent.run_id)]
        found = max(finished, key=lambda run: run.age, default=None)
        if found is not None:
            found.require_sound()
        return found

    def same_stage(self, fingerprint: str, parent_id: str | None, precision: str = AUTO) -> list[RunRecord]:
        """All runs of a stage in a precision, of any status, oldest first."""
        same = [run for run in self.search(fingerprint=fingerprint) if run.parent_id == parent_id]
        return [run for run in same if tag.trained_in(run, precision)]

    def get(self, run_id: str, *, deleted: bool = False) -> RunRecord:
        """A run by its full ID. Raises: UsageError when there is none, or it was deleted (unless `deleted`)."""
        return references.get(self.client, run_id, deleted=deleted)

    def resolve(self, reference: str, *, deleted: bool = False) -> RunRecord:
        """A run by full ID, unique prefix of 6 characters or more, or `models:/NAME@alias`; with `deleted` also one
        that was deleted through MLflow. Raises: UsageError.
        """
        return references.resolve(self.client, reference, deleted=deleted)

    def register(self, run: RunRecord) -> None:
        """Make a finished dense run a version of the registered model of its network and data set, if it is none.

        Raises: RegistryError; the run is as it was, and the same again does what is left.
        """
        spec, quick = run.spec, self.client.impatient()
        assert isinstance(spec, DenseSpec)
        self.client.patiently(lambda: despite_conflicts(lambda: models.register_dense(quick, run, spec)))

    def may_not_register(self, spec: DenseSpec) -> RegistryError | None:
        """The error if the user may not register runs of `spec`, as far as known, else None. Raises: RegistryError."""
        return models.refusal(self.client.impatient(), spec) if is_server(self.uri) else None

    def longer_baseline(self, spec: DenseSpec) -> RunRecord | None:
        """The run with the alias `seed-<n>`, if it is longer than `spec`. Raises: RegistryError."""
        return models.longer_baseline(self.client, spec)

    def parent(self, run: RunRecord) -> RunRecord:
        """The run that it was made from, and that its spec names. Raises: RegistryError, UsageError for a report."""
        if run.kind == tag.REPORT:
            raise UsageError(f"run {run.run_id} is a report: it has no parent", "its params name what it is made of")
        if run.parent_id is None:
            raise RegistryError(f"run {run.run_id} has no parent", "its lineage was edited: run the stage again")
        try:
            parent = self.get(run.parent_id)
        except UsageError as error:
            raise GoneError(f"the parent of run {run.run_id} is gone: {error.message}", error.hint) from None
        if run.kind in tag.PARENT_KINDS and not run.is_child_of(parent):
            why = f"its parent {parent.run_id} does not match its fingerprint"
            raise IntegrityError(f"run {run.run_id}: {why}", tag.once_more(run.run_id))
        return parent

    def root(self, run: RunRecord) -> RunRecord:
        """The dense run that a run descends from; the tag that names it is for searches.

        Raises: RegistryError, UsageError when one between is gone.
        """
        try:
            return self.lineage(run)[0]
        except GoneError as error:
            raise UsageError(f"the dense run of run {run.run_id} is gone: {error.message}", error.hint) from None

    def lineage(self, run: RunRecord, known: Mapping[str, RunRecord] | None = None) -> list[RunRecord]:
        """The run and its ancestors, the dense run first; those in `known` are not read again.

        Raises: RegistryError when it leads nowhere.
        """
        chain, known = [run], known or {}
        while chain[0].kind != "dense":
            parent = known.get(chain[0].parent_id or "") or self.parent(chain[0])
            if parent.run_id in {link.run_id for link in chain}:
                why = f"run {parent.run_id} is its own ancestor"
                raise RegistryError(why, "its parent tag was edited: run it again")
            chain.insert(0, parent)
        return chain

    def children(self, run: RunRecord) -> list[RunRecord]:
        """The children of a run, from every experiment, oldest first."""
        return search(self.client, None, {tag.PARENT: run.run_id})

    def descendants(self, run: RunRecord) -> dict[str, list[RunRecord]]:
        """The children of the run and of each run that descends from it, by parent: two queries, however many runs."""
        root = run.dense_run_id  # a tag: it may hold anything, quotes too
        family = search(self.client, None, {tag.DENSE_RUN: root}) if tag.RUN_ID.fullmatch(root) else []
        by_parent: dict[str, list[RunRecord]] = {}
        for other in {one.run_id: one for one in [*family, *self.children(run)]}.values():
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

    def start(
        self,
        spec: Spec,
        name: str,
        parent: RunRecord | None,
        tags: dict[str, str],
        *,
        resume: bool = True,
        watch: OwnerWatch | None = None,
        precision: str = AUTO,
        machine: Machine | None = None,
    ) -> RunWriter:
        """Open a run for `spec`: an unfinished one of the same spec that left a resume point here, else a new one.

        With `machine`, this one, a point in the artifact store will do too, where it was made on one of its kind.

        Of all processes that start a stage at the same moment one gets it. Unfinished runs whose process is gone are
        marked KILLED; `watch` remembers what was seen of the others from one call to the next.
        Raises: BusyError when another process is at it, or (`resume`) has just finished it; KeptError.
        """
        opening = Opening(self.client, self.experiment_id, spec, name, parent, tags, machine)
        look = partial(self.same_stage, spec.fingerprint(), parent.run_id if parent else None, precision)
        everyone = partial(self.search, fingerprint=spec.fingerprint())
        return opening.open(look, everyone, watch or OwnerWatch(), resume)

    def start_report(self, name: str, note: str) -> RunWriter:
        """Open a run of kind `report`: files about other runs, no stage, so without spec and fingerprint.

        Reports whose process is gone are marked KILLED: nobody goes on with them.
        """
        watch = OwnerWatch()
        for run in self.search(kind=tag.REPORT):
            if run.status == "RUNNING" and watch.is_dead(run):
                self.mark_killed(run.run_id)
        return open_report(self.client, self.experiment_id, name, note)

    def mark_killed(self, run_id: str) -> None:
        """Mark a run as KILLED whose process is dead; a closed run is not changed."""
        if self.get(run_id).status == "RUNNING":
            self.client.set_terminated(run_id, "KILLED")

    def artifact(self, run: RunRecord, path: str) -> Path:
        """A local copy of an artifact, checked against the manifest. Raises: IntegrityError, RegistryError."""
        return self.artifacts.verified(run, path)

    def manifest(self, run: RunRecord) -> dict[str, Any]:
        """Digest and size of each artifact. Raises: IntegrityError when it is missing or altered."""
        return self.artifacts.manifest(run)

    def record(self, run: RunRecord) -> SealedRecord | None:
        """The record that a finished run was sealed with; None for other runs and for runs of versions without records.

        Raises: IntegrityError.
        """
        return reading.record_of(self.client, run) if run.finished else None

    def history(self, run: RunRecord, key: str) -> list[tuple[int, int, float]]:
        """Every value of a metric: step, time (milliseconds), value; those that a finished run was sealed with.

        Raises: IntegrityError.
        """
        record = self.record(run)
        return list(record.metrics.get(key, ())) if record else self.shown_history(run, key)

    def shown_history(self, run: RunRecord, key: str) -> list[tuple[int, int, float]]:
        """The history of a metric as MLflow has it now."""
        points = self.client.get_metric_history(run.run_id, key)
        return [(point.step, point.timestamp, point.value) for point in points]

    def curve(self, run: RunRecord, key: str) -> dict[int, float]:
        """Every value of a metric, by step."""
        return {step: value for step, _, value in self.history(run, key)}
