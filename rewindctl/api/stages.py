"""What makes runs: the stages, with the options of their commands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

from rewindctl.api.reading import Method, StoreOptions, registry_of
from rewindctl.api.run import Run
from rewindctl.arithmetic import AUTO, Arithmetic
from rewindctl.console import Console
from rewindctl.pipeline import Outcome, Pipeline, RunPolicy
from rewindctl.pipeline import iterate as walk
from rewindctl.pipeline.requests import PruneOptions, RetrainOptions, dense_spec, prune_spec
from rewindctl.registry import Registry, RunRecord
from rewindctl.sparsity import target_sparsity
from rewindctl.specs import ChannelNorm, DataOrder, LrClock, OptimizerState, Scope, Structure


class RunOptions(StoreOptions, total=False):
    """How a run is made: as the options of the same names say; `progress` shows it."""

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
    return _run(pipeline.run_dense(spec), pipeline)


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
    return _run(pipeline.run_prune(prune_spec(record, target, pruning), record), pipeline)


def replay(parent: Run | str, iteration: int, **options: Unpack[RunOptions]) -> Run:
    """The run that has the state of a training at an iteration: itself, or a replay of it. Raises: RewindError."""
    pipeline = _pipeline(parent, options)
    return _run(pipeline.state(_record(pipeline.registry, parent), iteration), pipeline)


def retrain(
    parent: Run | str,
    method: Method,
    *,
    k: int | None = None,
    weights_k: int | None = None,
    lr_k: int | None = None,
    lr: float | None = None,
    iterations: int | None = None,
    lr_clock: LrClock = "rewound",
    optimizer_state: OptimizerState = "zero",
    momentum: float | None = None,
    data_order: DataOrder = "replayed",
    sparsity: float | None = None,
    compression: float | None = None,
    structure: Structure = "unstructured",
    scope: Scope = "global",
    channel_norm: ChannelNorm = "keep",
    criterion: str = "magnitude",
    exclude: str | Sequence[str] = (),
    **options: Unpack[RunOptions],
) -> Run:
    """Retrain a prune run; a dense or retrained run with a sparsity or compression is pruned first.

    Raises: RewindError.
    """
    retraining = RetrainOptions(
        method, k, weights_k, lr_k, lr, iterations, lr_clock, optimizer_state, momentum, data_order
    )
    pruning = PruneOptions(structure, scope, channel_norm, criterion, exclude=exclude)
    target = None if sparsity is None and compression is None else target_sparsity(sparsity, compression)
    pipeline = _pipeline(parent, options)
    return _run(walk.retrain(pipeline, _record(pipeline.registry, parent), target, pruning, retraining), pipeline)


def iterate(
    parent: Run | str,
    method: Method,
    *,
    step: float = 0.2,
    until: float = 0.893,
    k: int | None = None,
    weights_k: int | None = None,
    lr_k: int | None = None,
    lr: float | None = None,
    iterations: int | None = None,
    lr_clock: LrClock = "rewound",
    optimizer_state: OptimizerState = "zero",
    momentum: float | None = None,
    data_order: DataOrder = "replayed",
    structure: Structure = "unstructured",
    scope: Scope = "global",
    channel_norm: ChannelNorm = "keep",
    criterion: str = "magnitude",
    exclude: str | Sequence[str] = (),
    **options: Unpack[RunOptions],
) -> list[Run]:
    """Prune and retrain in turn from a dense run; the retrain run of each level. Raises: RewindError."""
    levels = walk.sparsity_grid(step, until)
    retraining = RetrainOptions(
        method, k, weights_k, lr_k, lr, iterations, lr_clock, optimizer_state, momentum, data_order
    )
    pruning = PruneOptions(structure, scope, channel_norm, criterion, exclude=exclude)
    pipeline = _pipeline(parent, options)
    walked = walk.iterate(pipeline, _record(pipeline.registry, parent), levels, pruning, retraining)
    return [_run(retrained, pipeline) for _, retrained in walked]


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


def _run(outcome: Outcome, pipeline: Pipeline) -> Run:
    return Run(outcome.run, pipeline.registry)
