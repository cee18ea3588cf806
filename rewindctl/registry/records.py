"""What is known of a run, read once; the names of our tags."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rewindctl import arithmetic
from rewindctl.errors import IntegrityError, RegistryError
from rewindctl.specs import AnyStage, parse_spec

PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
DATA_CONTEXT = "mlflow.data.context"
KIND = "rewindctl.kind"
REPORT = "report"  # the kind of a run that has no stage
FINGERPRINT = "rewindctl.fingerprint"
GROUP = "rewindctl.group"
DENSE_RUN = "rewindctl.dense_run_id"
WEIGHTS_FROM = "rewindctl.weights_from"
SCHEMA = "rewindctl.schema"
SPEC = "rewindctl.spec"
MANIFEST = "rewindctl.manifest"
RECORD = "rewindctl.record"  # digest of what results rest on: see `manifest`
OWNER = "rewindctl.owner"
HEARTBEAT = "rewindctl.heartbeat"
TICKET = "rewindctl.ticket"
ERROR = "rewindctl.error"
RESUME_POINT = "rewindctl.resume_point"  # where the artifact store has one
SPARED = "rewindctl.spared_layers"
MODEL = "rewindctl.model"
DATASET = "rewindctl.dataset"
SEED = "rewindctl.seed"
STRUCTURE = "rewindctl.structure"
SCOPE = "rewindctl.scope"
SPARSITY = "rewindctl.sparsity"
METHOD = "rewindctl.method"
LABEL = "rewindctl.label"  # the name without the seed
DEVICE = "rewindctl.device"
COLLECTED = "rewindctl.collected"  # by which rule the trial was added; absent: a number of trials fixed beforehand
PRECISION = "rewindctl.precision"  # absent in runs of before there was a choice: fp32
DETERMINISTIC = "rewindctl.deterministic"
STEP = "rewindctl.step"  # absent in runs of before there was a choice: pytorch
COMPILED = "rewindctl.compiled"
UPDATES = "rewindctl.updates"
DIVERGED_ITERATION = "rewindctl.diverged_iteration"
STUDY = "rewindctl.study"
STORAGE = "rewindctl.storage"
TRIALS = "rewindctl.trials"
TRIAL = "rewindctl.trial"
TRIAL_STATE = "rewindctl.trial_state"
PRUNED_AT = "rewindctl.pruned_at"
DIVERGED_RATE = "rewindctl.diverged_learning_rate"
USER = "mlflow.user"
IMPORT = "rewindctl.import"  # digest of the bundle that the run came with
IMPORTED_FROM = "rewindctl.imported_from"  # its ID in the registry that it came from
COPIED = "rewindctl.copied"  # the store that it was copied from, with all others, and whose it is on this machine
OMITTED = "rewindctl.omitted"  # the folder that was left out at export

KINDS = ("dense", "prune", "retrain", "replay", "tune", "trial", REPORT)
REMOVED = "removed: its files are gone"  # the error of a run that `rewindctl remove` took
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")  # MLflow's own rule; IDs become file names here
STATUSES = ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED")
LONGEST_TAG = 5_000  # characters; MLflow cuts at 8,000, its servers of before 2.13 at 5,000
MOST_DIGITS = 15  # of a number in a tag, which anyone may have written
LONGEST_TEXT = 100_000  # MLflow takes 8,000 characters
LAST_TIME = 10**14  # milliseconds; the year 5138
PARENT_KINDS = {
    "dense": (),
    "prune": ("dense", "retrain"),
    "retrain": ("prune",),
    "replay": ("dense", "retrain"),
}


def trained_in(run: "RunRecord", precision: str) -> bool:
    """Whether a run was trained in the precision asked for: any is right for `auto`, a mask has none."""
    return run.kind == "prune" or precision in (arithmetic.AUTO, precision_of(run))


def precision_of(run: "RunRecord") -> str:
    """What a training was computed in."""
    return run.tags.get(PRECISION, "fp32")


def arithmetic_of(tags: Mapping[str, str]) -> arithmetic.Arithmetic:
    """What a training with these tags was made in, as to be asked for again. Raises: UsageError for edited tags."""
    return arithmetic.Arithmetic(
        tags.get(PRECISION, "fp32"),
        deterministic=tags.get(DETERMINISTIC, "True") == "True",
        step=tags.get(STEP, "pytorch"),
        compiled=tags.get(COMPILED) == "True",
    )


@dataclass(frozen=True)
class Upgrade:
    """What a run of an older schema is in today's: the same experiment under the identity that it has now."""

    spec: AnyStage
    group: str

    @cached_property
    def fingerprint(self) -> str:
        return self.spec.fingerprint()


@dataclass(frozen=True)
class RunRecord:
    """A run of ours as the store had it when it was read.

    `upgrade` is there for runs of an older schema (see `reading`): `fingerprint`, `group` and `spec` are then today's,
    and `recorded` is the spec as the run has it. Where a finished run was edited since, tags and metrics are those that
    it was sealed with (see `reading`): `edits` says what the store shows instead, `damage` why it cannot be told.
    """

    run_id: str
    name: str
    status: str
    artifact_uri: str
    started: int
    ended: int
    tags: dict[str, str] = field(repr=False)
    params: dict[str, str] = field(repr=False)
    metrics: dict[str, float] = field(repr=False)
    deleted: bool = False  # through MLflow, which keeps what it knows of the run, and its files
    upgrade: Upgrade | None = field(default=None, repr=False)
    edits: tuple[str, ...] = field(default=(), repr=False)
    damage: str = ""

    @classmethod
    def from_mlflow(cls, run: Any) -> "RunRecord":
        """What the store says of a run. Raises: RegistryError for an ID that no store of MLflow gives."""
        info, data = run.info, run.data
        about = (info.run_id, info.run_name, info.status, info.artifact_uri, info.start_time, info.end_time)
        metrics = {text_of(key): number_of(value) for key, value in data.metrics.items()}
        return cls.checked((*about, info.lifecycle_stage), _texts(data.tags), _texts(data.params), metrics)

    @classmethod
    def checked(
        cls, columns: Sequence[Any], tags: dict[str, str], params: dict[str, str], metrics: dict[str, float]
    ) -> "RunRecord":
        """A run as a store has it, which others may have written. Raises: RegistryError for an odd ID.

        `columns`: ID, name, status, artifact URI, start and end (milliseconds), lifecycle stage.
        """
        run_id, name, status, artifact_uri, started, ended, stage = columns
        if not RUN_ID.fullmatch(str(run_id)):
            raise RegistryError(f"the store has a run with the ID {run_id!r:.80}", "check --tracking-uri")
        known = status if status in STATUSES else "UNKNOWN"
        place, times = text_of(artifact_uri or ""), (_millis(started), _millis(ended))
        return cls(str(run_id), text_of(name or ""), known, place, *times, tags, params, metrics, stage != "active")

    @property
    def kind(self) -> str:
        """`dense`, `prune`, `retrain`, ...; empty for a run that is not ours."""
        return self.tags.get(KIND, "")

    @property
    def fingerprint(self) -> str:
        return self.upgrade.fingerprint if self.upgrade else self.recorded_fingerprint

    @property
    def recorded_fingerprint(self) -> str:
        """The fingerprint in the run's tag; children of the same schema name their parent by it."""
        return self.tags.get(FINGERPRINT, "")

    @property
    def group(self) -> str:
        return self.upgrade.group if self.upgrade else self.recorded_group

    @property
    def recorded_group(self) -> str:
        return self.tags.get(GROUP, "")

    @property
    def parent_id(self) -> str | None:
        """The run that this one was made from; dense runs and reports have none, though `mlflow run` nests them."""
        return None if self.kind in ("dense", REPORT) else self.tags.get(PARENT)

    @property
    def dense_run_id(self) -> str:
        """The baseline at the root of the lineage; a dense run's own ID."""
        return self.tags.get(DENSE_RUN, self.run_id)

    @property
    def age(self) -> tuple[bool, int, int, str]:
        """Orders the runs of one fingerprint, the newest last: by their tickets, which no clock decides (see `claim`).

        Those that were imported come before those that were made here, whose children are theirs. Those of one ticket,
        of earlier versions, go by their start.
        """
        return IMPORT not in self.tags, number(self.tags.get(TICKET, "")), self.started, self.run_id

    @property
    def finished(self) -> bool:
        return self.status == "FINISHED"

    @property
    def spec(self) -> AnyStage:
        """The spec, of today's schema. Raises: IntegrityError."""
        return self.upgrade.spec if self.upgrade else self.recorded

    @cached_property
    def recorded(self) -> AnyStage:
        """The spec as recorded, which must have the fingerprint of the tag. Raises: IntegrityError."""
        self.require_sound()
        spec = parse_spec(spec_text(self.tags), f"the spec of run {self.run_id}")
        if spec.fingerprint() != self.recorded_fingerprint:
            raise IntegrityError(
                f"the spec of run {self.run_id} does not match the run's fingerprint: one of the two was edited",
                "run the stage again with --force",
            )
        if spec.kind != self.kind:
            raise IntegrityError(f"run {self.run_id} has kind {self.kind!r:.80}, but the spec of a {spec.kind} run")
        return spec

    def require_sound(self) -> None:
        """Raises: IntegrityError for a finished run of which it cannot be told what it was finished with."""
        if self.damage:
            raise IntegrityError(f"run {self.run_id} is damaged: {self.damage}", once_more(self.run_id))

    def is_child_of(self, parent: "RunRecord") -> bool:
        """Whether its spec names the experiment of `parent` as what it was made from. Raises: IntegrityError.

        A child names its parent as its own schema calls it.
        """
        named = (getattr(self.spec, "parent_fingerprint", None), getattr(self.recorded, "parent_fingerprint", None))
        return bool({parent.fingerprint, parent.recorded_fingerprint} & set(named))

    def metric(self, key: str) -> float:
        """The last value of a metric. Raises: IntegrityError when there is none, or it is no number."""
        self.require_sound()
        value = self.metrics.get(key, math.nan)
        if not math.isfinite(value):
            problem = f"is {value}" if key in self.metrics else "is missing"
            raise IntegrityError(
                f"metric {key} of run {self.run_id} {problem}: it was edited",
                once_more(self.run_id),
            )
        return value

    @property
    def short(self) -> str:
        """A readable line: name and the first digits of the ID."""
        return f"{self.name} ({self.run_id[:8]})"


def once_more(run_id: str) -> str:
    """What to do about a run that cannot be believed."""
    return f"run the stage again with --force, or delete the run: mlflow runs delete --run-id {run_id}"


def number(text: str) -> int:
    """The whole number in a tag, 0 for anything else."""
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else 0


def spec_tags(text: str) -> dict[str, str]:
    """The tags that hold the text of a spec: one, or several where it is longer than what MLflow keeps of a tag."""
    parts = [text[start : start + LONGEST_TAG] for start in range(0, len(text), LONGEST_TAG)]
    return {SPEC if not number else f"{SPEC}.{number}": part for number, part in enumerate(parts)}


def spec_text(tags: Mapping[str, str]) -> str:
    """The text of the spec in these tags, empty where there is none."""
    parts = [tags.get(SPEC, "")]
    while (more := tags.get(f"{SPEC}.{len(parts)}")) is not None:
        parts.append(more)
    return "".join(parts)


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {text_of(key): text_of(value) for key, value in values.items()}


def number_of(value: object) -> float:
    """What a store has where MLflow writes a number; NaN for anything else."""
    return float(value) if isinstance(value, int | float) else math.nan


def text_of(value: object) -> str:
    """What a store has where MLflow writes a text: SQLite keeps anything, of any length."""
    return str(value[:LONGEST_TEXT] if isinstance(value, str | bytes) else value)[:LONGEST_TEXT]


def _millis(value: Any) -> int:
    """Milliseconds since 1970, 0 for what is no time."""
    return value if isinstance(value, int) and 0 < value <= LAST_TIME else 0
