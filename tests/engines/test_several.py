"""Trials as a plan: each stage once, below its own parent; and trials in turn when nothing works."""

import pytest
from conftest import Chain

from rewindctl.console import Console
from rewindctl.engines.run import SAME_FAILURES
from rewindctl.engines.several import NOT_TRIED, Work, in_turn
from rewindctl.errors import RegistryError
from rewindctl.pipeline import Pipeline
from rewindctl.pipeline.requests import PruneOptions, dense_spec
from rewindctl.pipeline.trials import Trial, retrain_trial
from rewindctl.registry import Registry
from rewindctl.rewinding.methods import RetrainOptions

QUIET = Console(quiet=True)


def pipeline_on(chain: Chain) -> Pipeline:
    return Pipeline(chain.registry, QUIET, "cpu")


def test_what_is_done_is_known_and_what_is_shared_is_one_stage(chain: Chain) -> None:
    pipeline = pipeline_on(chain)
    dense, mask = pipeline.registry.get(chain.dense), pipeline.registry.get(chain.prune)
    methods = (
        RetrainOptions(method="finetune"),
        RetrainOptions(method="lr_rewind"),
        RetrainOptions(method="lr_rewind", iterations=6),
    )
    work = Work(pipeline.registry)
    for method in methods:
        work.add(retrain_trial(pipeline, mask, None, PruneOptions(), method))
        work.add(retrain_trial(pipeline, dense, 0.5, PruneOptions(), method))
    specs = [work.plan.stages[stages[-1]].spec for stages in work.stages_of]
    assert len(set(specs)) == len(specs) == 6
    ends = [work.done.get(stages[-1]) for stages in work.stages_of]
    assert ends == [chain.finetune, None, chain.lr_rewind, None, None, None]
    assert [stage.spec.kind for stage in work.left] == ["prune", "retrain", "retrain", "retrain", "retrain"]
    assert work.trials_left == 4
    assert set(work.denses()) == {dense.spec}
    for key in work.plan.stages:
        assert work.plan.lineage(key)[-1] == chain.dense


def test_a_forced_trial_is_to_do_whatever_is_there(chain: Chain) -> None:
    pipeline = pipeline_on(chain)
    work = Work(pipeline.registry, force=True)
    work.add(Trial((pipeline.registry.get(chain.dense).spec,)))
    work.add(
        retrain_trial(
            pipeline, pipeline.registry.get(chain.prune), None, PruneOptions(), RetrainOptions(method="finetune")
        )
    )
    assert (len(work.left), work.trials_left) == (2, 2)
    assert work.done == {chain.dense: chain.dense, chain.prune: chain.prune}


def test_after_equal_failures_the_rest_is_not_tried() -> None:
    tried: list[int] = []

    def away() -> Registry:
        tried.append(len(tried))
        raise RegistryError("the store is away")

    pipeline = Pipeline(away, QUIET, "cpu")
    data = pipeline.dataset("digits")
    trials = [Trial((dense_spec("resnet8", data, seed),)) for seed in range(8)]
    results = list(in_turn(pipeline, trials))
    assert [str(result) for result in results[:SAME_FAILURES]] == ["the store is away"] * SAME_FAILURES
    assert results[SAME_FAILURES:] == [NOT_TRIED] * (len(trials) - SAME_FAILURES)
    assert len(tried) == SAME_FAILURES


def test_an_interrupt_is_no_failure_of_a_trial() -> None:
    def interrupted() -> Registry:
        raise KeyboardInterrupt

    pipeline = Pipeline(interrupted, QUIET, "cpu")
    with pytest.raises(KeyboardInterrupt):
        list(in_turn(pipeline, [Trial((dense_spec("resnet8", pipeline.dataset("digits"), 0),))]))
