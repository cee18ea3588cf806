"""The whole chain over a grid: dense baselines, masks, retrainings."""

from rewindctl.pipeline.requests import PruneOptions, dense_spec, plan_against, prune_spec, retrain_spec
from rewindctl.pipeline.stages import Outcome, Pipeline
from rewindctl.rewinding.methods import RetrainOptions


def run_chain(
    pipeline: Pipeline,
    model: str,
    dataset: str,
    seeds: tuple[int, ...],
    compressions: tuple[float, ...],
    retrainings: tuple[RetrainOptions, ...],
    iterations: int | None = None,
) -> list[Outcome]:
    """One-shot pruning of a baseline per seed to every compression, retrained in every way. What exists is reused.

    Raises: UsageError before anything is trained when a retraining does not fit the baselines.
    """
    data = pipeline.dataset(dataset)
    usual = dense_spec(model, data, 0, iterations=iterations)
    needed = {plan_against(usual, retraining).weights_iteration for retraining in retrainings}
    points = tuple({*usual.rewind_points, *needed})
    specs = [dense_spec(model, data, seed, iterations=iterations, points=points) for seed in seeds]
    outcomes: list[Outcome] = []
    for spec in specs:
        dense = pipeline.run_dense(spec)
        outcomes.append(dense)
        for compression in compressions:
            mask = pipeline.run_prune(prune_spec(dense.run, 1 - 1 / compression, PruneOptions()), dense.run)
            outcomes.append(mask)
            for retraining in retrainings:
                outcomes.append(pipeline.run_retrain(retrain_spec(mask.run, dense.run, retraining), mask.run))
    return outcomes
