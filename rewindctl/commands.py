"""The command line that asks for a spec: what notes and screens give to make a run again."""

import shlex
from typing import Any

from rewindctl.rewinding.methods import OPTIONS, taken_by
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
    given = "".join(f" {OPTIONS[name].flag} {value}" for name, value in asked_for(spec).items())
    return f"rewindctl retrain --parent {parent} --method {shlex.quote(spec.method)}{given}"


def asked_for(spec: RetrainSpec) -> dict[str, Any]:
    """The options that ask for exactly this spec, by name: a length or rate only where its method takes one."""
    takes = taken_by(spec.method)
    values = {
        name: getattr(spec, one.result or name) for name, one in OPTIONS.items() if one.result is None or name in takes
    }
    return {name: value for name, value in values.items() if value != OPTIONS[name].default}
