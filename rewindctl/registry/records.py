"""What is known of a run, read once; the names of our tags."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rewindctl.errors import IntegrityError
from rewindctl.specs import DenseSpec, PruneSpec, RetrainSpec, parse_spec

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
OWNER = "rewindctl.owner"
HEARTBEAT = "rewindctl.heartbeat"
TICKET = "rewindctl.ticket"
ERROR = "rewindctl.error"
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
OMITTED = "rewindctl.omitted"  # the folder that was left out at export

KINDS = ("dense", "prune", "retrain", "tune", "trial", REPORT)
PARENT_KINDS = {"dense": (), "prune": ("dense", "retrain"), "retrain": ("prune",)}


@dataclass(frozen=True)
class RunRecord:
    """A run of ours as the store had it when it was read."""

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

    @classmethod
    def from_mlflow(cls, run: Any) -> "RunRecord":
        info, data = run.info, run.data
        return cls(
            info.run_id,
            info.run_name or "",
            info.status,
            info.artifact_uri,
            info.start_time or 0,
            info.end_time or 0,
            dict(data.tags),
            dict(data.params),
            dict(data.metrics),
            info.lifecycle_stage != "active",
        )

    @property
    def kind(self) -> str:
        """`dense`, `prune`, `retrain`, ...; empty for a run that is not ours."""
        return self.tags.get(KIND, "")

    @property
    def fingerprint(self) -> str:
        return self.tags.get(FINGERPRINT, "")

    @property
    def group(self) -> str:
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
    def finished(self) -> bool:
        return self.status == "FINISHED"

    @cached_property
    def spec(self) -> DenseSpec | PruneSpec | RetrainSpec:
        """The spec, which must have the fingerprint of the tag. Raises: IntegrityError."""
        spec = parse_spec(self.tags.get(SPEC, ""), f"the spec of run {self.run_id}")
        if spec.fingerprint() != self.fingerprint:
            raise IntegrityError(
                f"the spec of run {self.run_id} does not have the run's fingerprint: one of the two was edited",
                "run the stage again with --force",
            )
        return spec

    @property
    def short(self) -> str:
        """A readable line: name and the first digits of the ID."""
        return f"{self.name} ({self.run_id[:8]})"
