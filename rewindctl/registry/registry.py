"""Finding, reading and opening runs in one experiment of one tracking store."""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rewindctl.arithmetic import AUTO
from rewindctl.catalog import listed, unknown
from rewindctl.errors import IntegrityError, RegistryError, UnknownNameError, UsageError
from rewindctl.files import sha256
from rewindctl.registry import records as tag
from rewindctl.registry.manifest import ALTERED, MOST_JSON_BYTES, parse_manifest
from rewindctl.registry.models import NOT_THERE, longer_baseline
from rewindctl.registry.opening import Opening, about_of, common_tags, project_run
from rewindctl.registry.ownership import Watch
from rewindctl.registry.paths import CHECKPOINTS, local_path
from rewindctl.registry.records import RunRecord
from rewindctl.registry.searching import ACTIVE, BOTH, DELETED, search
from rewindctl.registry.store import Client, StoreError, absolute_uri, connect, sqlite_path
from rewindctl.registry.views import experiment_tags
from rewindctl.registry.writer import MANIFEST_FILE, RunWriter
from rewindctl.safe_text import redacted
from rewindctl.specs import SCHEMA_VERSION, DenseSpec, Spec
from rewindctl.temporary import temporary_folder

SHORTEST_PREFIX = 6
DEEPEST_FOLDER = 16
DEFAULT_EXPERIMENT = "rewindctl"


class Registry:
    """Our runs in an experiment. Opening it makes the store and the experiment where they are missing.

    Without `make`, for who only reads, the default experiment alone is made. Raises: RegistryError when the store
    cannot be reached or written, UnknownNameError without `make` for an experiment that there is not.
    """

    def __init__(self, tracking_uri: str | None = None, experiment: str | None = None, *, make: bool = True) -> None:
        self.uri = absolute_uri(tracking_uri)
        self._client = connect(self.uri)
        self.experiment, self.experiment_id = self._open_experiment(experiment, make)
        self._manifests: dict[str, dict[str, Any]] = {}
        self._downloads = temporary_folder()

    @classmethod
    def of_run(cls, tracking_uri: str, run_id: str) -> "Registry":
        """The registry of the experiment that a run is in. Raises: UsageError when there is no such run."""
        client = connect(tracking_uri)
        try:
            experiment = client.get_experiment(client.get_run(run_id).info.experiment_id)
        except StoreError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UsageError(f"no run {run_id!r} in {redacted(tracking_uri)}", "was its store made anew?") from None
        return cls(tracking_uri, experiment.name)

    @property
    def client(self) -> Client:
        """The store itself, for the other modules of this room."""
        return self._client

    @property
    def display_uri(self) -> str:
        """The tracking URI without credentials."""
        return redacted(self.uri)

    def _open_experiment(self, name: str | None, make: bool) -> tuple[str, str]:
        client = self._client.impatient()  # a wrong address is said at once
        name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        project = os.environ.get("MLFLOW_EXPERIMENT_ID") if os.environ.get("MLFLOW_RUN_ID") else None
        if project is not None:
            self._require_project_run()
        if name is None and project is not None:  # inside `mlflow run`: stay in the experiment of its run
            found = client.get_experiment(project)
            return found.name, found.experiment_id
        name = name or DEFAULT_EXPERIMENT
        found = client.get_experiment_by_name(name)
        if found is None and not make and name != DEFAULT_EXPERIMENT:
            raise self._no_experiment(name)
        if found is None:
            try:
                tags = experiment_tags()
                return name, self._client.create_experiment(name, self._artifact_location(name), tags)
            except StoreError as error:
                if error.code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = client.get_experiment_by_name(name)  # another process was first
                if found is None:
                    raise RegistryError(
                        f"experiment {name!r} can neither be made nor read: {error.message}",
                        "give another --experiment",
                    ) from None
        if found.lifecycle_stage != "active":
            raise RegistryError(
                f"experiment {name!r} was deleted", f"restore it: mlflow experiments restore -x {found.experiment_id}"
            )
        return name, found.experiment_id

    def _no_experiment(self, name: str) -> UnknownNameError:
        names = sorted(one.name for one in self._client.search_experiments())
        others = "see them: rewindctl doctor; make one: rewindctl init --experiment NAME"
        return unknown("no experiment", name, names, others=others)

    def _require_project_run(self) -> None:
        """`mlflow run` of an address works in a folder of its own, where a relative path is another, passing store.

        Raises: RegistryError.
        """
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        path = sqlite_path(uri)
        here = path is not None and not path.is_absolute() and absolute_uri(uri) == self.uri
        if here and project_run(self._client) is None:
            raise RegistryError(
                f"the run of mlflow run is not in {self.display_uri}, which {uri} is here",
                "give mlflow run an absolute MLFLOW_TRACKING_URI, such as sqlite:////home/me/mlflow.db",
            )

    def _artifact_location(self, name: str) -> str | None:
        path = sqlite_path(self.uri)
        if path is None:
            return None  # the server decides
        return (path.parent / "mlruns" / re.sub(r"[^A-Za-z0-9._-]", "_", name)).as_uri()

    def describe(self) -> None:
        """Give an experiment that was made otherwise its description and its views in the UI; what it has is kept."""
        present = self._client.get_experiment(self.experiment_id).tags
        for key, value in experiment_tags().items():
            if key not in present:
                self._client.set_experiment_tag(self.experiment_id, key, value)

    def search(self, **tags: str) -> list[RunRecord]:
        """All our runs of the experiment with these tags (without `rewindctl.`), oldest first, every page."""
        named = {f"rewindctl.{key}": value for key, value in tags.items()}
        return self._search(named or {tag.SCHEMA: str(SCHEMA_VERSION)}, [self.experiment_id])

    def search_everywhere(self, **tags: str) -> list[RunRecord]:
        """As `search`, in every experiment."""
        return self._search({f"rewindctl.{key}": value for key, value in tags.items()})

    def search_deleted(self) -> list[RunRecord]:
        """Our runs of the experiment that were deleted through MLflow, oldest first."""
        return self._search({tag.SCHEMA: str(SCHEMA_VERSION)}, [self.experiment_id], view=DELETED)

    def _search(
        self, tags: dict[str, str], experiment_ids: list[str] | None = None, prefix: str = "", view: int = ACTIVE
    ) -> list[RunRecord]:
        return search(self._client, experiment_ids or self._everywhere(), tags, prefix, view)

    def find(self, fingerprint: str, parent: RunRecord | None = None, precision: str = AUTO) -> RunRecord | None:
        """The newest finished run of an experiment (forced reruns replace older ones), a child of `parent` if given.

        A forced rerun of the parent has its fingerprint but need not have its bytes (another device): the children
        of one are not those of the other.
        """
        same = [run for run in self.search(fingerprint=fingerprint) if tag.trained_in(run, precision)]
        finished = [run for run in same if run.finished and (parent is None or run.parent_id == parent.run_id)]
        return finished[-1] if finished else None

    def get(self, run_id: str, *, deleted: bool = False) -> RunRecord:
        """A run by its full ID. Raises: UsageError when there is none, or it was deleted (unless `deleted`)."""
        try:
            run = self._client.get_run(run_id)
        except StoreError as error:
            if error.code in NOT_THERE:
                raise UsageError(f"no run {run_id!r} in {self.display_uri}", "list the runs: rewindctl list") from None
            raise
        record = RunRecord.from_mlflow(run)
        if record.deleted and not deleted:
            raise self._deleted(record)
        return record

    def _deleted(self, run: RunRecord) -> UsageError:
        if run.tags.get(tag.ERROR) == tag.REMOVED:
            return UsageError(
                f"run {run.run_id} was deleted, its files too", "run its stage again, or list the runs: rewindctl list"
            )
        where = "" if self.uri == absolute_uri(None) else f" with MLFLOW_TRACKING_URI={self.display_uri}"
        return UsageError(
            f"run {run.run_id} was deleted",
            f"restore it: mlflow runs restore --run-id {run.run_id}{where}; or list the others: rewindctl list",
        )

    def resolve(self, reference: str, *, deleted: bool = False) -> RunRecord:
        """A run by full ID, unique prefix of 6 characters or more, or `models:/NAME@alias`; with `deleted` also one
        that was deleted through MLflow. Raises: UsageError.
        """
        if reference.startswith("models:/"):
            return self.get(self._run_of_alias(reference), deleted=deleted)
        if re.fullmatch(r"[0-9a-f]{32}", reference):
            return self.get(reference, deleted=deleted)
        if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},32}}", reference):
            raise UsageError(
                f"{reference!r} is not a run",
                f"give a run ID, at least {SHORTEST_PREFIX} of its first digits, or models:/NAME@alias",
            )
        there = self._search({}, prefix=reference, view=BOTH)
        found = [run for run in there if deleted or not run.deleted] or there
        if not found:
            raise UsageError(f"no run starts with {reference!r} in {self.display_uri}", "list the runs: rewindctl list")
        if len(found) > 1:
            raise UsageError(
                f"{reference!r} is the start of {len(found)} runs: {', '.join(run.run_id for run in found[:3])}",
                "give more digits",
            )
        if found[0].deleted and not deleted:
            raise self._deleted(found[0])
        return found[0]

    def _run_of_alias(self, reference: str) -> str:
        match = re.fullmatch(r"models:/([^@/]+)@([^@/]+)", reference)
        if match is None:
            raise UsageError(f"{reference!r} is not a model alias", "write models:/resnet20-cifar10-dense@seed-0")
        try:
            version = self._client.get_model_version_by_alias(match[1], match[2])
        except StoreError as error:
            if error.code in NOT_THERE:
                raise self._no_alias(match[1], reference) from None
            raise
        return str(version.run_id)

    def _no_alias(self, model: str, reference: str) -> UsageError:
        known: list[str] = []
        with suppress(StoreError):  # there is no such model either
            known = [f"models:/{model}@{alias}" for alias in sorted(self._client.get_registered_model(model).aliases)]
        hint = f"known: {listed(known)}" if known else "list the baselines: rewindctl list --kind dense"
        return UsageError(f"no model {reference} in {self.display_uri}", hint)

    def parent(self, run: RunRecord) -> RunRecord:
        """Raises: RegistryError when the parent is missing, UsageError for a report."""
        if run.kind == tag.REPORT:
            raise UsageError(f"run {run.run_id} is a report: it has no parent", "its params name what it is made of")
        if run.parent_id is None:
            raise RegistryError(f"run {run.run_id} has no parent", "its lineage was edited: run the stage again")
        try:
            return self.get(run.parent_id)
        except UsageError as error:
            raise RegistryError(f"the parent of run {run.run_id} is gone: {error.message}", error.hint) from None

    def root(self, run: RunRecord) -> RunRecord:
        """The dense run that a run's tag names. Raises: UsageError when it is gone."""
        try:
            return self.get(run.dense_run_id)
        except UsageError as error:
            raise UsageError(f"the dense run of run {run.run_id} is gone: {error.message}", error.hint) from None

    def lineage(self, run: RunRecord, known: Mapping[str, RunRecord] | None = None) -> list[RunRecord]:
        """The run and its ancestors, the dense run first; those in `known` are not read again.

        Raises: RegistryError when it leads nowhere.
        """
        chain = [run]
        while chain[0].kind != "dense":
            parent = (known or {}).get(chain[0].parent_id or "") or self.parent(chain[0])
            if parent.run_id in {link.run_id for link in chain}:
                raise RegistryError(
                    f"run {parent.run_id} is its own ancestor", "its parent tag was edited: run it again"
                )
            chain.insert(0, parent)
        return chain

    def children(self, run: RunRecord) -> list[RunRecord]:
        """The runs of every experiment whose parent it is, oldest first."""
        return self._search({tag.PARENT: run.run_id})

    def descendants(self, run: RunRecord) -> dict[str, list[RunRecord]]:
        """The children of the run and of each run that descends from it, by parent: two queries, however many runs."""
        root = run.dense_run_id  # a tag: it may hold anything, quotes too
        family = self._search({tag.DENSE_RUN: root}) if tag.RUN_ID.fullmatch(root) else []
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

    def _everywhere(self) -> list[str]:
        return [experiment.experiment_id for experiment in self._client.search_experiments()]

    def start(
        self,
        spec: Spec,
        name: str,
        parent: RunRecord | None,
        tags: dict[str, str],
        *,
        resume: bool = True,
        watch: Watch | None = None,
        precision: str = AUTO,
    ) -> RunWriter:
        """Open a run for `spec`: an unfinished one of the same spec that left a resume point here, else a new one.

        Of all processes that start a stage at the same moment one gets it. Unfinished runs whose process is gone are
        marked KILLED; `watch` remembers what was seen of the others from one call to the next.
        Raises: BusyError when another process is at it, or (`resume`) has just finished it; KeptError.
        """
        opening = Opening(self._client, self.experiment_id, spec, name, parent, tags)
        look = partial(self.same_stage, spec.fingerprint(), parent.run_id if parent else None, precision)
        return opening.open(look, watch or Watch(), resume)

    def same_stage(self, fingerprint: str, parent_id: str | None, precision: str = AUTO) -> list[RunRecord]:
        """All runs of a stage in a precision, whatever became of them, oldest first."""
        same = [run for run in self.search(fingerprint=fingerprint) if run.parent_id == parent_id]
        return [run for run in same if tag.trained_in(run, precision)]

    def start_report(self, name: str, note: str) -> RunWriter:
        """Open a run of kind `report`: files about other runs, no stage, so without spec and fingerprint.

        Reports whose process is gone are marked KILLED: nobody goes on with them.
        """
        watch = Watch()
        for run in self.search(kind=tag.REPORT):
            if run.status == "RUNNING" and watch.is_dead(run):
                self.mark_killed(run.run_id)
        tags = {**common_tags(tag.REPORT), tag.NOTE: note}
        if (project := project_run(self._client)) is not None:
            tags[tag.PARENT] = project
        run = self._client.create_run(self.experiment_id, tags=tags, run_name=name)
        return RunWriter(self._client, run.info.run_id, about_of("", name, forced=True))

    def longer_baseline(self, spec: DenseSpec) -> RunRecord | None:
        """The run that `seed-<n>` names, where that is a longer one than `spec`. Raises: RegistryError."""
        return longer_baseline(self._client, spec)

    def artifact(self, run: RunRecord, path: str) -> Path:
        """A local copy of an artifact, its bytes those of the manifest. Raises: IntegrityError, RegistryError."""
        entry = self.manifest(run).get(path)
        if entry is None:
            raise RegistryError(f"run {run.run_id} has no {path}", "the run is not of the kind needed")
        if path in self.omitted(run):
            raise UsageError(
                f"{path} of run {run.run_id} was left out when the run was exported",
                "import a bundle that has the checkpoints, or run the stage again with --force",
            )
        local = self._fetch(run, path)
        if local.stat().st_size != entry["size"] or sha256(local) != entry["sha256"]:
            raise IntegrityError(
                f"{path} of run {run.run_id} is damaged: its bytes are not those of the manifest", ALTERED
            )
        return local

    def read_json(self, run: RunRecord, path: str) -> Any:
        """A JSON artifact, verified. Raises: IntegrityError."""
        local = self.artifact(run, path)
        _check_json_size(local, run)
        try:
            return json.loads(local.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"{path} of run {run.run_id} is not JSON: {error}", ALTERED) from None

    def artifact_paths(self, run: RunRecord, folder: str | None = None) -> list[str]:
        """Every artifact file that the store has for a run. Raises: RegistryError for folders without end."""
        paths: list[str] = []
        if (folder or "").count("/") >= DEEPEST_FOLDER:
            raise RegistryError(f"the artifacts of run {run.run_id} go deeper than {folder!r:.300}", ALTERED)
        for entry in self._client.list_artifacts(run.run_id, folder):
            paths += self.artifact_paths(run, entry.path) if entry.is_dir else [entry.path]
        return paths

    def omitted(self, run: RunRecord) -> set[str]:
        """The files of the manifest that were left out when the run was exported, and are not here."""
        if tag.OMITTED not in run.tags:
            return set()
        here = set(self.artifact_paths(run, CHECKPOINTS.rstrip("/")))
        return {path for path in self.manifest(run) if path.startswith(CHECKPOINTS)} - here

    def history(self, run: RunRecord, key: str) -> list[tuple[int, int, float]]:
        """Every value of a metric: step, time (milliseconds), value."""
        points = self._client.get_metric_history(run.run_id, key)
        return [(point.step, point.timestamp, point.value) for point in points]

    def logged_after_end(self, run: RunRecord, key: str) -> bool:
        """Whether a value of the metric is younger than the end of the run."""
        return bool(run.ended and any(time > run.ended for _, time, _ in self.history(run, key)))

    def curve(self, run: RunRecord, key: str) -> dict[int, float]:
        """Every value of a metric, by step."""
        return {metric.step: metric.value for metric in self._client.get_metric_history(run.run_id, key)}

    def mark_killed(self, run_id: str) -> None:
        """Close a run whose process is known to be gone; one that is closed already stays as it is."""
        if self.get(run_id).status == "RUNNING":
            self._client.set_terminated(run_id, "KILLED")

    def manifest(self, run: RunRecord) -> dict[str, Any]:
        """Digest and size of each artifact. Raises: IntegrityError when it is missing or altered."""
        if run.run_id not in self._manifests:
            data = self.manifest_file(run).read_bytes()
            files = parse_manifest(data, f"run {run.run_id}").artifacts
            self._manifests[run.run_id] = {path: file.model_dump() for path, file in files.items()}
        return self._manifests[run.run_id]

    def manifest_file(self, run: RunRecord) -> Path:
        """A local copy of the manifest. Raises: IntegrityError when it is missing or altered."""
        local = self._fetch(run, MANIFEST_FILE)
        _check_json_size(local, run)
        if sha256(local) != run.tags.get(tag.MANIFEST):
            raise IntegrityError(f"the manifest of run {run.run_id} was altered", "run the stage again with --force")
        return local

    def _fetch(self, run: RunRecord, path: str) -> Path:
        folder = local_path(run.artifact_uri)
        if folder is not None:
            local = folder / path
        else:
            target = Path(self._downloads.name) / run.run_id
            target.mkdir(exist_ok=True)
            try:
                local = Path(self._client.download_artifacts(run.run_id, path, str(target)))
            except StoreError as error:
                if error.code not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INTERNAL_ERROR"):
                    raise
                local = target / path
        if not local.is_file():
            raise IntegrityError(
                f"{path} of run {run.run_id} is missing", "restore it, or run the stage again with --force"
            )
        return local


def _check_json_size(path: Path, run: RunRecord) -> None:
    if (size := path.stat().st_size) > MOST_JSON_BYTES:
        raise IntegrityError(f"{path.name} of run {run.run_id} has {size:,} bytes: none of ours is so large", ALTERED)
