"""What identifies an experiment: frozen specs of the three stages, of searches and their trials; fingerprints.

A fingerprint is the SHA-256 of the canonical JSON of *every* field (defaults too), the parent's fingerprint among
them, so lineage is a Merkle chain: equal fingerprint, same experiment. What cannot change the result (device index,
progress bar) is not a field.
"""

import hashlib
import json
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rewindctl.errors import IntegrityError, UsageError

SCHEMA_VERSION: Final = 1

Kind = Literal["dense", "prune", "retrain"]
LrClock = Literal["rewound", "restarted"]
OptimizerState = Literal["zero", "restored"]
Structure = Literal["unstructured", "structured"]
Scope = Literal["global", "layerwise"]
ChannelNorm = Literal["keep", "remove"]
Pruner = Literal["halving", "wilcoxon", "none"]

MOST_ITERATIONS: Final = 10**12  # more than anyone trains; numbers without end overflow what is computed of them
Positive = Annotated[int, Field(gt=0, le=MOST_ITERATIONS)]
Iteration = Annotated[int, Field(ge=0, le=MOST_ITERATIONS)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
T = TypeVar("T")


class Spec(BaseModel):
    """Base of the specs: frozen, no unknown fields, no NaN or infinity (JSON has none)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    LATER: ClassVar[tuple[str, ...]] = ()  # fields that older specs of the same schema lack: absent when None

    def fields(self) -> dict[str, Any]:
        """Every field as JSON values; one that older specs lack only where it is set, so that theirs stay theirs."""
        return {k: v for k, v in self.model_dump(mode="json").items() if v is not None or k not in self.LATER}

    def canonical(self) -> str:
        """JSON with sorted keys and no spaces: equal specs, equal text."""
        return canonical_json(self.fields())

    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def group(self, parent_group: str | None) -> str:
        """The fingerprint without the seed, the parent's group in the place of its fingerprint: medians' key."""
        fields = self.fields()
        fields.pop("seed", None)
        if "parent_fingerprint" in fields:
            fields["parent_fingerprint"] = parent_group
        return hashlib.sha256(canonical_json(fields).encode()).hexdigest()


class DenseSpec(Spec):
    """A dense baseline: network, data, seed and the whole training recipe."""

    kind: Literal["dense"] = "dense"
    schema_version: Literal[1] = SCHEMA_VERSION
    model: str
    dataset: str
    data_digest: str
    recipe: str
    seed: Seed
    iterations: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    lr_boundaries: tuple[Positive, ...]
    lr_factor: Annotated[float, Field(gt=0)]
    momentum: Momentum
    nesterov: bool
    weight_decay: Annotated[float, Field(ge=0)]
    weight_decay_scope: Literal["all"]
    norm_momentum: Annotated[float, Field(gt=0, le=1)]
    norm_epsilon: Annotated[float, Field(gt=0)]
    crop_padding: Annotated[int, Field(ge=0)]
    padding_mode: Literal["reflect"]
    horizontal_flip: bool
    evaluate_every: Positive
    rewind_points: tuple[Iteration, ...]


class PruneSpec(Spec):
    """A mask over a parent's kernels. `sparsity` is the fraction asked for; the run records the one achieved.

    `iteration` is the iteration of the dense parent whose weights are pruned; None: the last.
    """

    LATER = ("iteration",)
    kind: Literal["prune"] = "prune"
    schema_version: Literal[1] = SCHEMA_VERSION
    parent_fingerprint: str
    sparsity: Annotated[float, Field(gt=0, lt=1)]
    criterion: str = "magnitude"
    structure: Structure = "unstructured"
    scope: Scope = "global"
    channel_norm: ChannelNorm = "keep"
    iteration: Iteration | None = None


class RetrainSpec(Spec):
    """A retraining of a pruned network: the method as asked for, and the plan it resolved to.

    `momentum` is the optimiser's; None: that of the dense run.
    """

    LATER = ("momentum",)
    kind: Literal["retrain"] = "retrain"
    schema_version: Literal[1] = SCHEMA_VERSION
    parent_fingerprint: str
    method: str
    k: Iteration | None = None
    weights_k: Iteration | None = None
    lr_k: Iteration | None = None
    lr_clock: LrClock = "rewound"
    optimizer_state: OptimizerState = "zero"
    weights_iteration: Iteration
    clock_start: Iteration
    iterations: Positive
    schedule_iterations: Positive
    constant_lr: Annotated[float, Field(gt=0)] | None
    evaluate_every: Positive
    momentum: Momentum | None = None


class TuneSpec(Spec):
    """A search over settings of a retraining, judged on a part of the training set that is held out of it.

    `space` is JSON: what is searched, and where. What it does not name is fixed by the other fields. How many trials
    are made is not a field: a search of 40 begins with the 20 of a shorter one.
    """

    LATER = ("weights_k", "lr_k")
    kind: Literal["tune"] = "tune"
    schema_version: Literal[1] = SCHEMA_VERSION
    parent_fingerprint: str
    study: Annotated[str, Field(min_length=1, max_length=200)]
    method: str
    k: Iteration | None = None
    weights_k: Iteration | None = None
    lr_k: Iteration | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    iterations: Positive | None = None
    lr_clock: LrClock = "rewound"
    optimizer_state: OptimizerState = "zero"
    space: str
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    holdout_fraction: Annotated[float, Field(gt=0, lt=1)]
    holdout_seed: Seed
    evaluate_every: Positive
    sampler: Literal["tpe"] = "tpe"
    sampler_seed: Seed
    startup_trials: Positive
    pruner: Pruner


class TrialSpec(Spec):
    """One point of a search: a retraining of each of `seeds` without the held-out part, and judged on that part."""

    kind: Literal["trial"] = "trial"
    schema_version: Literal[1] = SCHEMA_VERSION
    parent_fingerprint: str
    method: str
    k: Iteration | None = None
    lr_clock: LrClock
    optimizer_state: OptimizerState
    weights_iteration: Iteration
    clock_start: Iteration
    iterations: Positive
    schedule_iterations: Positive
    constant_lr: Annotated[float, Field(gt=0)] | None
    momentum: Momentum | None
    evaluate_every: Positive
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    holdout_fraction: Annotated[float, Field(gt=0, lt=1)]
    holdout_seed: Seed


StageSpec = Annotated[DenseSpec | PruneSpec | RetrainSpec, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[DenseSpec | PruneSpec | RetrainSpec] = TypeAdapter(StageSpec)
TuningSpec = Annotated[TuneSpec | TrialSpec, Field(discriminator="kind")]
_TUNING: TypeAdapter[TuneSpec | TrialSpec] = TypeAdapter(TuningSpec)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, no NaN. Raises: ValueError for NaN or infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_spec(text: str, where: str) -> DenseSpec | PruneSpec | RetrainSpec:
    """The spec in `text`. Raises: IntegrityError naming `where` and the first wrong field."""
    return _parsed(_ADAPTER, text, where)


def parse_tuning_spec(text: str, where: str) -> TuneSpec | TrialSpec:
    """The spec of a search or of one of its trials, which are no stages. Raises: IntegrityError."""
    return _parsed(_TUNING, text, where)


def _parsed(adapter: TypeAdapter[T], text: str, where: str) -> T:
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        raise IntegrityError(f"{where} is not a spec of schema {SCHEMA_VERSION}: {first_problem(error)}") from None


def make_spec(kind: type[Spec], **fields: Any) -> Any:
    """A validated spec. Raises: UsageError naming the first wrong field and its value."""
    try:
        return kind(**fields)
    except ValidationError as error:
        raise UsageError(first_problem(error), "give a value that the option's help allows") from None


def first_problem(error: ValidationError) -> str:
    """One line for the first thing wrong: field, the start of its value, reason."""
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"]) or "document"
    value = "" if problem["type"] == "missing" else f" = {problem['input']!r:.120}"
    return f"{field}{value}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
