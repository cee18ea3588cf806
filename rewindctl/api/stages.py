"""Functions that make runs: the stages, with the options of their commands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, cast

from rewindctl.api.reading import Method, StoreOptions, registry_of
from rewindctl.api.run import Run
from rewindctl.arithmetic import AUTO, Arithmetic
from rewindctl.console import Console
from rewindctl.engines.in_turn import run_in_turn
from rewindctl.options import DataOrder, LrClock, OptimizerState, target_sparsity
from rewindctl.pipeline import Pipeline, RunPolicy
from rewindctl.pipeline.plan import (
    Plan,
    plan_dense,
    plan_iterate,
    plan_prune,
    plan_replay,
    plan_retrain,
    sparsity_grid,
)
from rewindctl.pipeline.requests import PruneOptions, dense_spec
from rewindctl.registry import Registry, RunRecord
from rewindctl.rewinding.methods import OPTIONS, RetrainOptions
from rewindctl.specs import ChannelNorm, Scope, Structure


class RunOptions(StoreOptions, total=False):
    """How a run is made, as the options of the same names; `progress` shows a progress bar."""

    device: str
    data_dir: Path | str | None
    force: bool
    checkpoint_every: float
    resume_points: Literal["machine", "store"]
    precision: str
    deterministic: bool
    update_step: Literal["auto", "pytorch", "fused"]
    compile: bool
    replay: bool
    progress: bool


class RetrainKeywords(RunOptions, total=False):
    """Settings of the method for `retrain` and `iterate`, as the options of the same names."""

    k: int | None
    weights_k: int | None
    lr_k: int | None
    lr: float | None
    iterations: int | None
    lr_clock: LrClock
    optimizer_state: OptimizerState
    momentum: float | None
    data_order: DataOrder


def train_dense(
    model: str,
    dataset: str,
    seed: int = 0,
    *,
    recipe: str | None = None,
    iterations: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    rewind_points: Sequence[int] | None = None,
    evaluate_every: int | None = None,
    **options: Unpack[RunOptions],
) -> Run:
    """A dense baseline with the checkpoints that networks can be rewound to. Raises: RewindError."""
    pipeline = _pipeline(None, options)
    spec = dense_spec(
        model,
        pipeline.dataset(dataset),
        seed,
        recipe=recipe,
        iterations=iterations,
        batch_size=batch_size,
        learning_rate=lr,
        points=rewind_points,
        evaluate_every=evaluate_every,
    )
    return _run(pipeline, plan_dense([spec]))


def prune(
    parent: Run | str,
    *,
    sparsity: float | None = None,
    compression: float | None = None,
    structure: Structure = "unstructured",
    scope: Scope = "global",
    channel_norm: ChannelNorm = "keep",
    criterion: str = "magnitude",
    exclude: str | Sequence[str] = (),
    iteration: int | None = None,
    **options: Unpack[RunOptions],
) -> Run:
    """A mask over the weights of a dense or a retrained run; give a sparsity or a compression. Raises: RewindError."""
    target = target_sparsity(sparsity, compression)
    pruning = PruneOptions(structure, scope, channel_norm, criterion, iteration, exclude)
    pipeline = _pipeline(parent, options)
    record = _record(pipeline.registry, parent)
    return _run(pipeline, plan_prune(record, target, pruning))


def replay(parent: Run | str, iteration: int, **options: Unpack[RunOptions]) -> Run:
    """The run that has the state of a training at an iteration: itself, or a replay of it. Raises: RewindError."""
    pipeline = _pipeline(parent, options)
    return _run(pipeline, plan_replay(pipeline, _record(pipeline.registry, parent), iteration))


def retrain(
    parent: Run | str,
    method: Method,
    *,
    sparsity: float | None = None,
    compression: float | None = None,
    structure: Structure = "unstructured",
    scope: Scope = "global",
    channel_norm: ChannelNorm = "keep",
    criterion: str = "magnitude",
    exclude: str | Sequence[str] = (),
    **options: Unpack[RetrainKeywords],
) -> Run:
    """Retrain a prune run; a dense or retrained run with a sparsity or compression is pruned first.

    Raises: RewindError.
    """
    retraining, others = _asked(method, options)
    pruning = PruneOptions(structure, scope, channel_norm, criterion, exclude=exclude)
    target = None if sparsity is None and compression is None else target_sparsity(sparsity, compression)
    pipeline = _pipeline(parent, others)
    record = _record(pipeline.registry, parent)
    return _run(pipeline, plan_retrain(pipeline, [record], target, pruning, retraining))


def iterate(
    parent: Run | str,
    method: Method,
    *,
    step: float = 0.2,
    until: float = 0.893,
    structure: Structure = "unstructured",
    scope: Scope = "global",
    channel_norm: ChannelNorm = "keep",
    criterion: str = "magnitude",
    exclude: str | Sequence[str] = (),
    **options: Unpack[RetrainKeywords],
) -> list[Run]:
    """Prune and retrain in turn from a dense run; the retrain run of each level. Raises: RewindError."""
    levels = sparsity_grid(step, until)
    retraining, others = _asked(method, options)
    pruning = PruneOptions(structure, scope, channel_norm, criterion, exclude=exclude)
    pipeline = _pipeline(parent, others)
    plan = plan_iterate(pipeline, _record(pipeline.registry, parent), levels, pruning, retraining)
    return _runs(pipeline, plan)


def _asked(method: str, options: RetrainKeywords) -> tuple[RetrainOptions, RunOptions]:
    """The options of the retraining, and the others. Raises: UsageError."""
    given: dict[str, Any] = {key: value for key, value in options.items() if key in OPTIONS}
    others = {key: value for key, value in options.items() if key not in OPTIONS}
    return RetrainOptions(method=method, **given), cast(RunOptions, others)


def _pipeline(parent: Run | str | None, options: RunOptions) -> Pipeline:
    """A pipeline on the store given, else on the parent's. Raises: TypeError for an option that there is not."""
    if unknown := set(options) - set(RunOptions.__annotations__) - set(StoreOptions.__annotations__):
        raise TypeError(f"unknown option {sorted(unknown)[0]!r}")
    store = StoreOptions(tracking_uri=options.get("tracking_uri"), experiment=options.get("experiment"))
    own = parent.registry if isinstance(parent, Run) and not any(store.values()) else None
    data_dir = options.get("data_dir")
    arithmetic = Arithmetic(
        options.get("precision", AUTO),
        options.get("deterministic", True),
        options.get("update_step", AUTO),
        options.get("compile", False),
    )
    return Pipeline(
        lambda: own or registry_of(store, make=True),
        Console(quiet=not options.get("progress", False)),
        options.get("device", "auto"),
        None if data_dir is None else Path(data_dir),
        RunPolicy(
            options.get("force", False),
            options.get("checkpoint_every", 60.0),
            arithmetic=arithmetic,
            replay=options.get("replay", True),
            resume_points=options.get("resume_points", "machine"),
        ),
    )


def _record(registry: Registry, parent: Run | str) -> RunRecord:
    """The parent as it is now: a run may have been finished, or deleted, since it was read."""
    return registry.resolve(parent) if isinstance(parent, str) else registry.get(parent.run_id)


def _run(pipeline: Pipeline, plan: Plan) -> Run:
    (run,) = _runs(pipeline, plan)
    return run


def _runs(pipeline: Pipeline, plan: Plan) -> list[Run]:
    """The runs that a plan is asked for. Raises: RewindError."""
    return [Run(outcome.run, pipeline.registry) for outcome in run_in_turn(pipeline, plan)]
