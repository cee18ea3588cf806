"""Iterative pruning: prune a fraction of what is left, retrain, and again from the retrained network."""

from rewindctl.errors import UsageError
from rewindctl.pipeline.requests import (
    PruneOptions,
    prune_spec,
    require_kind,
    retrain_spec,
)
from rewindctl.pipeline.stages import Outcome, Pipeline
from rewindctl.pipeline.trials import require_weights, retrain_trial, run_trial
from rewindctl.registry import RunRecord
from rewindctl.rewinding.methods import RetrainOptions

GRID_DECIMALS = 3
MOST_LEVELS = 200


def sparsity_grid(step: float, until: float) -> tuple[float, ...]:
    """1 - (1 - step)^n for n = 1, 2, ..., up to and including the level that reaches `until`.

    Rounded to three decimals where neighbours stay apart, as in the report (0.2, 0.36, 0.488, 0.59, ...).
    Raises: UsageError. Source: report section 3 and its published configuration.
    """
    for option, value in (("step", step), ("until", until)):
        if not 0 < value < 1:
            raise UsageError(f"--{option} {value} is outside (0, 1)", "give a fraction, such as 0.2")
    if (1 - step) ** MOST_LEVELS > 1 - until:
        raise UsageError(f"--step {step} needs over {MOST_LEVELS} levels to reach {until}", "give a larger step")
    levels: list[float] = []
    while not levels or levels[-1] < until - 1e-9:
        exact = 1 - (1 - step) ** (len(levels) + 1)
        rounded = round(exact, GRID_DECIMALS)
        apart = step * (1 - exact) > 10**-GRID_DECIMALS  # rounding cannot swap neighbours
        levels.append(rounded if apart and abs(exact - rounded) < (1 - exact) / 4 else exact)
        if abs(levels[-1] - until) < 0.5 * 10**-GRID_DECIMALS:
            break
    return tuple(levels)


def iterate(
    pipeline: Pipeline,
    dense: RunRecord,
    levels: tuple[float, ...],
    pruning: PruneOptions,
    retraining: RetrainOptions,
) -> list[tuple[Outcome, Outcome]]:
    """A prune run and a retrain run per level, each level's parent the network retrained before it.

    Weight rewinding goes back to the original dense run's weights at every level. What is in the registry is found,
    so an interrupted walk goes on where it was. Raises: UsageError.
    """
    require_kind(dense, "dense")
    require_weights(pipeline, dense, prune_spec(dense, levels[0], pruning), retraining)
    outcomes: list[tuple[Outcome, Outcome]] = []
    parent = dense
    for number, sparsity in enumerate(levels, start=1):
        pipeline.console.say(f"level {number} of {len(levels)}: sparsity {sparsity:.6g}")
        pruned, retrained = prune_and_retrain(pipeline, parent, sparsity, pruning, retraining)
        outcomes.append((pruned, retrained))
        parent = retrained.run
    return outcomes


def prune_and_retrain(
    pipeline: Pipeline, parent: RunRecord, sparsity: float, pruning: PruneOptions, retraining: RetrainOptions
) -> tuple[Outcome, Outcome]:
    """One level: the mask, found or made, and its retraining. Refused before the mask is made. Raises: UsageError."""
    dense, mask = pipeline.dense_run(parent), prune_spec(parent, sparsity, pruning)
    require_weights(pipeline, parent, mask, retraining)
    pruned = pipeline.run_prune(mask, parent)
    return pruned, pipeline.run_retrain(retrain_spec(pruned.run, dense, retraining), pruned.run)


def retrain(
    pipeline: Pipeline, parent: RunRecord, sparsity: float | None, pruning: PruneOptions, retraining: RetrainOptions
) -> Outcome:
    """Retrain a prune run; with a sparsity, `parent` is a dense or retrained run that is pruned first.

    Raises: UsageError.
    """
    return run_trial(pipeline, retrain_trial(pipeline, parent, sparsity, pruning, retraining))
