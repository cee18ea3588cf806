"""The command line that asks for a spec: what notes and screens give to make a run again."""

import shlex

from rewindctl.specs import AnyStage, DenseSpec, PruneSpec, ReplaySpec, RetrainSpec


def command_of(spec: AnyStage, parent: str | None) -> str:
    """The command that finds or makes the run of `spec`; `parent` is its parent's run ID."""
    if isinstance(spec, DenseSpec):
        return dense_command(spec)
    if isinstance(spec, ReplaySpec):
        return replay_command(spec, parent or "?")
    return prune_command(spec, parent or "?") if isinstance(spec, PruneSpec) else retrain_command(spec, parent or "?")


def dense_command(spec: DenseSpec) -> str:
    points = ",".join(str(point) for point in spec.rewind_points)
    return (
        f"rewindctl train-dense --model {shlex.quote(spec.model)} --dataset {shlex.quote(spec.dataset)} "
        f"--seed {spec.seed} --recipe {shlex.quote(spec.recipe)} --iterations {spec.iterations} "
        f"--batch-size {spec.batch_size} --lr {spec.learning_rate} --evaluate-every {spec.evaluate_every} "
        f"--rewind-points {points}"
    )


def prune_command(spec: PruneSpec, parent: str) -> str:
    return (
        f"rewindctl prune --parent {parent} --sparsity {spec.sparsity} --structure {spec.structure} "
        f"--scope {spec.scope} --channel-norm {spec.channel_norm} --criterion {shlex.quote(spec.criterion)}"
        + ("" if spec.iteration is None else f" --iteration {spec.iteration}")
        + (f" --exclude {shlex.quote(','.join(spec.exclude))}" if spec.exclude else "")
    )


def replay_command(spec: ReplaySpec, parent: str) -> str:
    return f"rewindctl replay --parent {parent} --iteration {spec.iteration}"


def retrain_command(spec: RetrainSpec, parent: str) -> str:
    options = {
        "k": spec.k,
        "weights-k": spec.weights_k,
        "lr-k": spec.lr_k,
        "lr": spec.constant_lr,
        "iterations": spec.iterations if spec.method in ("finetune", "lr_rewind") else None,
        "lr-clock": None if spec.lr_clock == "rewound" else spec.lr_clock,
        "optimizer-state": None if spec.optimizer_state == "zero" else spec.optimizer_state,
        "momentum": spec.momentum,
        "data-order": None if spec.data_order == "replayed" else spec.data_order,
    }
    given = "".join(f" --{name} {value}" for name, value in options.items() if value is not None)
    return f"rewindctl retrain --parent {parent} --method {shlex.quote(spec.method)}{given}"
