"""What identifies an experiment: frozen specs of the three stages, of searches and their trials; fingerprints.

A fingerprint is the SHA-256 of the canonical JSON of every field (defaults too) that decides a byte of the result, the
parent's fingerprint among them, so lineage is a Merkle chain: equal fingerprint, same experiment. Which iterations are
recorded, and how often a training is evaluated, are fields too, since a run must say so, but decide no byte: they are
not in the fingerprint. What a run need not say (device index, progress bar) is not a field.

Schema 1 had every field in the fingerprint. Its specs are read as they were recorded, and `upgraded` gives the spec of
today that is the same experiment.
"""

import hashlib
import json
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rewindctl.errors import IntegrityError, UsageError
from rewindctl.options import MOST_ITERATIONS, DataOrder, LrClock, OptimizerState

SCHEMA_VERSION: Final = 2
FIRST_SCHEMA: Final = 1

Kind = Literal["dense", "prune", "retrain", "replay"]
Schema = Literal[1, 2]
Structure = Literal["unstructured", "structured"]
Scope = Literal["global", "layerwise"]
ChannelNorm = Literal["keep", "remove"]
Pruner = Literal["halving", "wilcoxon", "none"]

Positive = Annotated[int, Field(gt=0, le=MOST_ITERATIONS)]
Iteration = Annotated[int, Field(ge=0, le=MOST_ITERATIONS)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
LAYER_PATTERN: Final = r"^[A-Za-z0-9_.*?!\[\]-]+$"
LONGEST_PATTERNS: Final = 200  # characters of them all: a column of a CSV file holds no more
T = TypeVar("T")


def _as_a_set(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """In one order and each once, so that equal exclusions are equal specs. Raises: ValueError for too many."""
    if len(" ".join(patterns)) > LONGEST_PATTERNS:
        raise ValueError(f"more than {LONGEST_PATTERNS} characters: a pattern with * matches several layers")
    return tuple(sorted(set(patterns)))


Patterns = Annotated[tuple[Annotated[str, Field(pattern=LAYER_PATTERN)], ...], AfterValidator(_as_a_set)]


class Spec(BaseModel):
    """Base of the specs: frozen, no unknown fields, no NaN or infinity (JSON has none)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    LATER: ClassVar[tuple[str, ...]] = ()  # fields that older specs of the same schema lack: absent when None or empty
    SINCE_2: ClassVar[tuple[str, ...]] = ()  # fields that schema 1 does not have
    RECORDING: ClassVar[tuple[str, ...]] = ()  # fields that decide what is recorded, and no byte of the result
    schema_version: Schema = SCHEMA_VERSION

    def fields(self) -> dict[str, Any]:
        """Every field as JSON values; one of `LATER` only where it is set, so old fingerprints do not change."""
        absent = self.SINCE_2 if self.schema_version == FIRST_SCHEMA else ()
        given = {key: value for key, value in self.model_dump(mode="json").items() if key not in absent}
        return {key: value for key, value in given.items() if value not in (None, []) or key not in self.LATER}

    def canonical(self) -> str:
        """JSON of every field with sorted keys and no spaces: equal specs, equal text."""
        return canonical_json(self.fields())

    def identity(self) -> dict[str, Any]:
        """The fields that decide the bytes of the result; in schema 1, every field."""
        skipped = () if self.schema_version == FIRST_SCHEMA else self.RECORDING
        return {key: value for key, value in self.fields().items() if key not in skipped}

    def fingerprint(self) -> str:
        """SHA-256 of the identity's canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(canonical_json(self.identity()).encode()).hexdigest()

    def group(self, parent_group: str | None) -> str:
        """The fingerprint without the seed, the parent's group in the place of its fingerprint: medians' key."""
        fields = self.identity()
        fields.pop("seed", None)
        if "parent_fingerprint" in fields:
            fields["parent_fingerprint"] = parent_group
        return hashlib.sha256(canonical_json(fields).encode()).hexdigest()


class DenseSpec(Spec):
    """A dense baseline: network, data, seed and the whole training recipe.

    `rewind_points` are the iterations whose states are kept. `recipe` names the length that `scale` is measured by.
    """

    RECORDING = ("evaluate_every", "rewind_points")
    kind: Literal["dense"] = "dense"
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

    `iteration` is the parent's own iteration whose weights are pruned; None: the last. `exclude` are patterns of the
    layers that lose nothing.
    """

    LATER = ("iteration", "exclude")
    kind: Literal["prune"] = "prune"
    parent_fingerprint: str
    sparsity: Annotated[float, Field(gt=0, lt=1)]
    criterion: str = "magnitude"
    structure: Structure = "unstructured"
    scope: Scope = "global"
    channel_norm: ChannelNorm = "keep"
    iteration: Iteration | None = None
    exclude: Patterns = ()


class RetrainSpec(Spec):
    """A retraining of a pruned network: the method as asked for, and the plan it resolved to.

    `momentum` is the optimiser's; None: that of the dense run. `data_order`: `replayed`, the batches that followed the
    weights where they were recorded; `continued`, those after the last batch that the pruned network has seen.
    `rewind_points` are the iterations of this retraining, but for its last, whose states are kept.
    """

    LATER = ("momentum",)
    SINCE_2 = ("data_order", "rewind_points")
    RECORDING = ("evaluate_every", "rewind_points")
    kind: Literal["retrain"] = "retrain"
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
    data_order: DataOrder = "replayed"
    rewind_points: tuple[Iteration, ...] = ()


class ReplaySpec(Spec):
    """The state of the training `parent` at an iteration that it did not record, made again from an earlier one.

    Whence (`from_iteration`) decides no byte: a training gone on with ends with the bytes of an unbroken one.
    """

    RECORDING = ("from_iteration", "evaluate_every")
    kind: Literal["replay"] = "replay"
    parent_fingerprint: str
    iteration: Positive
    from_iteration: Iteration
    evaluate_every: Positive


class TuneSpec(Spec):
    """A search over settings of a retraining, judged on a part of the training set that is held out of it.

    `space` is JSON: what is searched, and where. What it does not name is fixed by the other fields. How many trials
    are made is not a field: a search of 40 begins with the 20 of a shorter one.
    """

    LATER = ("weights_k", "lr_k")
    kind: Literal["tune"] = "tune"
    schema_version: Literal[1] = FIRST_SCHEMA
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
    schema_version: Literal[1] = FIRST_SCHEMA
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


AnyStage = DenseSpec | PruneSpec | RetrainSpec | ReplaySpec
StageSpec = Annotated[AnyStage, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[AnyStage] = TypeAdapter(StageSpec)
TuningSpec = Annotated[TuneSpec | TrialSpec, Field(discriminator="kind")]
_TUNING: TypeAdapter[TuneSpec | TrialSpec] = TypeAdapter(TuningSpec)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, no NaN. Raises: ValueError for NaN or infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_spec(text: str, where: str) -> AnyStage:
    """The spec in `text`, as it was recorded. Raises: IntegrityError naming `where` and the first wrong field."""
    return _parsed(_ADAPTER, text, where)


def upgraded(spec: AnyStage, parent_fingerprint: str | None) -> AnyStage:
    """The spec of this schema that is the same experiment; the parent's fingerprint is that of its own upgrade."""
    if spec.schema_version == SCHEMA_VERSION:
        return spec
    fields = spec.model_dump() | {"schema_version": SCHEMA_VERSION}
    if parent_fingerprint is not None:
        fields["parent_fingerprint"] = parent_fingerprint
    return type(spec).model_validate(usual_name(fields) if isinstance(spec, RetrainSpec) else fields)


def usual_name(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a retraining under the usual name of what it does, so that one experiment has one name.

    `rewind` with weights and clock at K is `weight_rewind` with K; with the trained weights and the clock at 0 it is
    `lr_rewind`; a clock restarted from 0 is one rewound to 0.
    """
    weights, clock = fields["weights_iteration"], fields["clock_start"]
    if fields["method"] == "rewind" and weights == clock:
        fields = fields | {"method": "weight_rewind", "k": weights, "weights_k": None, "lr_k": None}
    elif fields["method"] == "rewind" and weights == fields["schedule_iterations"] and clock == 0:
        fields = fields | {"method": "lr_rewind", "weights_k": None, "lr_k": None}
    return fields | {"lr_clock": "rewound"} if fields["k"] == 0 else fields


def parse_tuning_spec(text: str, where: str) -> TuneSpec | TrialSpec:
    """The spec of a search or of one of its trials, which are no stages. Raises: IntegrityError."""
    return _parsed(_TUNING, text, where)


def _parsed(adapter: TypeAdapter[T], text: str, where: str) -> T:
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        raise IntegrityError(
            f"{where} is not a spec of schema {FIRST_SCHEMA} or {SCHEMA_VERSION}: {first_problem(error)}"
        ) from None


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
