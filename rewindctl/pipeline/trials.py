"""One of several things that a command is asked for: stages, each the child of the one before."""

from dataclasses import dataclass

from rewindctl.pipeline.labels import dense_name, retrain_label
from rewindctl.pipeline.requests import (
    PruneOptions,
    prune_spec,
    require_kind,
    retrain_child,
    retrain_plan,
    retrain_spec,
)
from rewindctl.pipeline.stages import Outcome, Pipeline
from rewindctl.registry import RunRecord
from rewindctl.rewinding.methods import RetrainOptions
from rewindctl.specs import AnyStage, DenseSpec, PruneSpec, ReplaySpec, RetrainSpec


@dataclass(frozen=True)
class Trial:
    """The specs in their order, and the run that the first is a child of; the run of the last is the answer."""

    specs: tuple[DenseSpec | PruneSpec | RetrainSpec, ...]
    parent: RunRecord | None = None

    @property
    def label(self) -> str:
        """The trial in words, with what tells it from its neighbours."""
        last = self.specs[-1]
        if isinstance(last, DenseSpec):
            return dense_name(last)
        what = retrain_label(last) if isinstance(last, RetrainSpec) else "prune"
        return f"{what} of {self.parent.short}" if self.parent else what


def retrain_trial(
    pipeline: Pipeline, parent: RunRecord, sparsity: float | None, pruning: PruneOptions, retraining: RetrainOptions
) -> Trial:
    """Retrain a prune run; with a sparsity, `parent` is a dense or retrained run that is pruned first.

    Raises: UsageError, before anything is run.
    """
    if sparsity is None:
        pruning.refuse()
        require_kind(parent, "prune")
        return Trial((retrain_spec(parent, pipeline.dense_run(parent), retraining),), parent)
    mask = prune_spec(parent, sparsity, pruning)
    require_weights(pipeline, parent, mask, retraining)
    return Trial((mask, retrain_child(mask, pipeline.dense_of(parent), retraining)), parent)


def require_weights(pipeline: Pipeline, parent: RunRecord, mask: PruneSpec, retraining: RetrainOptions) -> None:
    """Refuse before a mask is made whose retraining could not start.

    Raises: UsageError when the weights that the method starts from are neither recorded nor can be made again.
    """
    dense = pipeline.dense_run(parent)
    plan = retrain_plan(dense, retraining)
    if pipeline.registry.find(mask.fingerprint(), parent) is None:
        pipeline.require_state(dense, plan.weights_iteration)


def run_trial(pipeline: Pipeline, trial: Trial) -> Outcome:
    """Find or run its stages; the last one's outcome."""
    parent = trial.parent
    for spec in trial.specs:
        outcome = run_stage(pipeline, spec, parent)
        parent = outcome.run
    return outcome


def run_stage(pipeline: Pipeline, spec: AnyStage, parent: RunRecord | None) -> Outcome:
    """Find or run a stage of any kind."""
    if isinstance(spec, DenseSpec):
        return pipeline.run_dense(spec)
    assert parent is not None
    if isinstance(spec, PruneSpec):
        return pipeline.run_prune(spec, parent)
    if isinstance(spec, ReplaySpec):
        return pipeline.run_replay(parent, spec.iteration)
    return pipeline.run_retrain(spec, parent)
