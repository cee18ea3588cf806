"""The whole chain over a grid: dense baselines, masks, retrainings."""

from rewindctl.pipeline.iterate import prune_and_retrain
from rewindctl.pipeline.requests import PruneOptions, RetrainOptions, dense_spec, retrain_plan
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
    """One-shot pruning of a baseline per seed to every compression, retrained in every way. What exists is reused."""
    data = pipeline.dataset(dataset)
    specs = [dense_spec(model, data, seed, iterations=iterations, points=points) for seed in seeds]
    outcomes: list[Outcome] = []
    for spec in specs:
        dense = pipeline.run_dense(spec)
        for retraining in retrainings:
            retrain_plan(dense.run, retraining)
        outcomes.append(dense)
        for compression in compressions:
            for retraining in retrainings:
                outcomes += prune_and_retrain(pipeline, dense.run, 1 - 1 / compression, PruneOptions(), retraining)
    return outcomes
