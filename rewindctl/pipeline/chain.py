"""The whole chain over a grid: dense baselines, masks, retrainings."""

from rewindctl.pipeline.requests import PruneOptions, RetrainOptions, dense_spec, prune_spec, retrain_plan, retrain_spec
from rewindctl.pipeline.stages import Outcome, Pipeline


def run_chain(
    pipeline: Pipeline,
    model: str,
    dataset: str,
    seeds: tuple[int, ...],
    compressions: tuple[float, ...],
    retrainings: tuple[RetrainOptions, ...],
    iterations: int | None = None,
    points: tuple[int, ...] | None = None,
) -> list[Outcome]:
    """One-shot pruning of a baseline per seed to every compression, retrained in every way. What exists is reused.

    Raises: UsageError before anything is pruned when a retraining does not fit the baselines.
    """
    data = pipeline.dataset(dataset)
    outcomes: list[Outcome] = []
    for spec in [dense_spec(model, data, seed, iterations=iterations, points=points) for seed in seeds]:
        dense = pipeline.run_dense(spec)
        for retraining in retrainings:
            retrain_plan(dense.run, retraining)
        outcomes.append(dense)
        for compression in compressions:
            mask = pipeline.run_prune(prune_spec(dense.run, 1 - 1 / compression, PruneOptions()), dense.run)
            outcomes.append(mask)
            for retraining in retrainings:
                outcomes.append(pipeline.run_retrain(retrain_spec(mask.run, dense.run, retraining), mask.run))
    return outcomes
