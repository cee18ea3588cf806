"""From what a user asks for to full specs: defaults filled in, every value checked, nothing run."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rewindctl.commands import asked_for, retrain_command
from rewindctl.counting import count_of
from rewindctl.datasets import Dataset
from rewindctl.datasets.inventory import DataFacts
from rewindctl.errors import UsageError
from rewindctl.models import models
from rewindctl.options import require_length, require_rate
from rewindctl.pruning import criteria
from rewindctl.registry import RunRecord
from rewindctl.rewinding.methods import OPTIONS, RetrainOptions, RetrainPlan, plan_of
from rewindctl.specs import (
    LAYER_PATTERN,
    LONGEST_PATTERNS,
    AnyStage,
    DenseSpec,
    PruneSpec,
    RetrainSpec,
    make_spec,
    usual_name,
)
from rewindctl.training.recipes import (
    default_recipe,
    evaluation_interval,
    norm_momentum,
    recipes,
    rewind_points,
    scale_boundaries,
)


def dense_spec(
    model: str,
    data: Dataset | DataFacts,
    seed: int,
    *,
    recipe: str | None = None,
    iterations: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    points: Sequence[int] | None = None,
    evaluate_every: int | None = None,
) -> DenseSpec:
    """The full spec of a baseline: the recipe, with its schedule scaled to `iterations`.

    Raises: UsageError, UnknownNameError, DataError.
    """
    models[model]
    name = recipe or default_recipe(model, data.name)
    base = recipes[name]
    length = base.iterations if iterations is None else iterations
    require_length(length)
    if evaluate_every is not None and evaluate_every <= 0:
        raise UsageError(f"--evaluate-every {evaluate_every} is not positive", "give a number of iterations")
    if learning_rate is not None:
        require_rate(learning_rate, 0.1)
    batch = base.batch_size if batch_size is None else batch_size
    if batch <= 0:
        raise UsageError(f"--batch-size {batch} is not positive", "give a number of images, such as 128")
    if batch > data.train_size:
        whose = f"--batch-size {batch}" if batch_size is not None else f"the batch of {batch} images of recipe {name}"
        raise UsageError(
            f"{whose} is larger than the {count_of(data.train_size, 'training image')} of {data.name}",
            f"give --batch-size {data.train_size} or less",
        )
    if base.crop_padding >= min(data.image_size):
        raise UsageError(
            f"recipe {name} pads by {base.crop_padding}, too much for images of "
            f"{data.image_size[0]}x{data.image_size[1]}",
            "use --recipe digits",
        )
    spec: DenseSpec = make_spec(
        DenseSpec,
        model=model,
        dataset=data.name,
        data_digest=data.digest,
        recipe=name,
        seed=seed,
        iterations=length,
        batch_size=batch,
        learning_rate=base.learning_rate if learning_rate is None else learning_rate,
        lr_boundaries=scale_boundaries(base.lr_boundaries, base.iterations, length),
        lr_factor=base.lr_factor,
        momentum=base.momentum,
        nesterov=base.nesterov,
        weight_decay=base.weight_decay,
        weight_decay_scope="all",
        norm_momentum=norm_momentum(base, length),
        norm_epsilon=base.norm_epsilon,
        crop_padding=base.crop_padding,
        padding_mode="reflect",
        horizontal_flip=base.horizontal_flip,
        evaluate_every=evaluate_every or evaluation_interval(base, length),
        rewind_points=_points(points, length, base.first_rewind_point),
    )
    return spec


@dataclass(frozen=True)
class PruneOptions:
    """How to prune, without the sparsity; `iteration` of the parent gives the weights to prune, None: the last.

    `exclude` are patterns of the layers that lose nothing, also several in one text, between commas.
    Raises: UnknownNameError, UsageError.
    """

    structure: str = "unstructured"
    scope: str = "global"
    channel_norm: str = "keep"
    criterion: str = "magnitude"
    iteration: int | None = None
    exclude: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        criteria[self.criterion]
        object.__setattr__(self, "exclude", _patterns(self.exclude))
        if self.channel_norm == "remove" and self.structure != "structured":
            raise UsageError(
                "--channel-norm remove has no meaning for unstructured pruning", "add --structure structured"
            )

    def refuse(self) -> None:
        """Raises: UsageError when a pruning option is given but nothing is pruned."""
        for name, usual in asdict(PruneOptions()).items():
            if (value := getattr(self, name)) != usual:
                shown = ",".join(value) if isinstance(value, tuple) else value
                raise UsageError(
                    f"--{name.replace('_', '-')} {shown} has no meaning for a parent that is pruned already",
                    "leave it out, or give a dense run and --sparsity",
                )


def _patterns(given: str | Sequence[str]) -> tuple[str, ...]:
    """Patterns of layers from one text or several, each with commas. Raises: UsageError."""
    texts = [given] if isinstance(given, str) else given
    patterns = sorted({pattern.strip() for text in texts for pattern in text.split(",")} - {""})
    for pattern in patterns:
        if not re.match(LAYER_PATTERN, pattern):
            raise UsageError(f"--exclude {pattern!r:.80} is not a pattern of layers", "write stem or 'blocks.0.*'")
    if len(" ".join(patterns)) > LONGEST_PATTERNS:
        raise UsageError(
            f"--exclude has {len(patterns)} patterns, more than {LONGEST_PATTERNS} characters",
            "a pattern with * matches several layers",
        )
    return tuple(patterns)


def prune_spec(parent: RunRecord, sparsity: float, options: PruneOptions) -> PruneSpec:
    """The spec of a mask over a dense or retrained parent. Raises: UsageError, IntegrityError."""
    require_kind(parent, "dense", "retrain")
    return prune_child(parent.spec, sparsity, options)  # its fingerprint was checked against the tag


def prune_child(parent: AnyStage, sparsity: float, options: PruneOptions) -> PruneSpec:
    """The spec of a mask over the result of `parent`, which may still have to be run. Raises: UsageError."""
    at = options.iteration
    if at is not None:
        assert isinstance(parent, DenseSpec | RetrainSpec)
        if not 0 <= at <= parent.iterations:
            raise UsageError(
                f"--iteration {at} is outside the parent's {parent.iterations} iterations",
                f"give an iteration from 0 to {parent.iterations}",
            )
        at = None if at == parent.iterations else at
    fields = asdict(options) | {"iteration": at}
    spec: PruneSpec = make_spec(PruneSpec, parent_fingerprint=parent.fingerprint(), sparsity=sparsity, **fields)
    return spec


def plan_against(dense: DenseSpec, options: RetrainOptions) -> RetrainPlan:
    """The plan of a method against a baseline that may still have to be trained. Raises: UsageError."""
    plan = plan_of(options, dense)
    if options.data_order != "replayed" and plan.weights_iteration == dense.iterations:
        raise UsageError(
            f"--data-order {options.data_order} has no meaning for {options.method}: trained weights always continue "
            "with new batches",
            "leave it out, or rewind the weights",
        )
    return plan


def retrain_spec(parent: RunRecord, dense_run: RunRecord, options: RetrainOptions) -> RetrainSpec:
    """The spec of a retraining of the prune run `parent`, which descends from `dense_run`. Raises: UsageError,
    IntegrityError.
    """
    require_kind(parent, "prune")
    require_kind(dense_run, "dense")
    assert isinstance(dense_run.spec, DenseSpec)
    return retrain_child(parent.spec, dense_run.spec, options)


def retrain_child(
    parent: AnyStage, dense: DenseSpec, options: RetrainOptions, points: Sequence[int] = ()
) -> RetrainSpec:
    """The spec of a retraining of the mask `parent`, which may still have to be made.

    `points` are its own iterations to record besides the last. Raises: UsageError.
    """
    plan = plan_against(dense, options)
    fields = {
        "parent_fingerprint": parent.fingerprint(),
        "method": options.method,
        **{name: getattr(options, name) for name, one in OPTIONS.items() if one.result is None},
        **asdict(plan),
        "evaluate_every": dense.evaluate_every,
        "rewind_points": tuple(sorted(points)),
    }
    if options.momentum == dense.momentum:
        fields["momentum"] = None
    spec: RetrainSpec = make_spec(RetrainSpec, **usual_name(fields))
    if plan_of(RetrainOptions(method=spec.method, **asked_for(spec)), dense) != plan:
        raise UsageError(
            f"method {options.method} plans a retraining that {retrain_command(spec, 'PARENT')} does not ask for",
            "it must use iterations and lr as given: report this to its author",
        )
    return spec


def require_kind(run: RunRecord, *kinds: str) -> None:
    """Raises: UsageError naming the kind needed, or saying that the run is not finished."""
    if run.kind not in kinds:
        raise UsageError(
            f"run {run.run_id} is a {run.kind or 'foreign'} run, a {' or '.join(kinds)} run is needed",
            _other_run(run, kinds),
        )
    if not run.finished:
        raise UsageError(
            f"run {run.run_id} is {run.status}, not FINISHED", "run its stage again, or choose another run"
        )


def _other_run(run: RunRecord, kinds: tuple[str, ...]) -> str:
    if run.kind == "dense" and kinds == ("prune",):
        return f"prune it first: rewindctl prune --parent {run.run_id} --compression 20"
    if run.kind == "prune" and "dense" in kinds and run.parent_id:
        return f"give its parent, {run.parent_id}"
    return "list the runs: rewindctl list"


def _points(given: Sequence[int] | None, iterations: int, first: int) -> tuple[int, ...]:
    if given is None:
        return rewind_points(iterations, first)
    for point in given:
        if not 0 <= point <= iterations:
            raise UsageError(
                f"rewind point {point} is outside the run's {iterations} iterations",
                f"give iterations from 0 to {iterations}",
            )
    return tuple(sorted({0, *given, iterations}))
