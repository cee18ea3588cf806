"""Plans of trials: each stage once, below its own parent; and trials in turn when nothing works."""

from dataclasses import replace

import pytest
from conftest import Chain

from rewindctl.console import Console
from rewindctl.engines.in_turn import InTurn, result_at, run_in_turn
from rewindctl.engines.run import SAME_FAILURES, run_plan
from rewindctl.errors import RegistryError
from rewindctl.pipeline import Outcome, Pipeline
from rewindctl.pipeline.plan import known_runs, plan_dense, plan_retrain
from rewindctl.pipeline.requests import PruneOptions, dense_spec
from rewindctl.registry import Registry
from rewindctl.rewinding.methods import RetrainOptions
from rewindctl.specs import DenseSpec

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
    given = [plan_retrain(pipeline, [mask, mask], None, PruneOptions(), method) for method in methods]
    for plan, end in zip(given, (chain.finetune, chain.lr_rewind, None), strict=True):
        known = known_runs(plan, pipeline.registry)
        assert plan.asked == 2 * plan.asked[:1]
        assert (known[plan.asked[0]].run_id if plan.asked[0] in known else None) == end
    pruned = plan_retrain(pipeline, [dense, dense], 0.5, PruneOptions(), methods[0])
    known = known_runs(pruned, pipeline.registry)
    left = [stage for key, stage in pruned.stages.items() if key not in known]
    assert [stage.spec.kind for stage in left] == ["prune", "retrain"]
    assert {pruned.dense_of(stage) for stage in left} == {dense.spec}
    for plan in (*given, pruned):
        assert {plan.lineage(key)[-1] for key in plan.stages} == {chain.dense}


def test_runs_of_one_fingerprint_are_different_parents(chain: Chain) -> None:
    pipeline = pipeline_on(chain)
    mask = pipeline.registry.get(chain.prune)
    plan = plan_retrain(pipeline, [mask], None, PruneOptions(), RetrainOptions(method="finetune"))
    (asked,) = plan.asked
    twin = plan.add_runs([plan.given[chain.dense], replace(mask, run_id="f" * 32)])
    assert plan.add(plan.stages[asked].spec, twin) != asked
    assert plan.add(plan.stages[asked].spec, chain.prune) == asked


def test_a_forced_trial_is_to_do_whatever_is_there(chain: Chain) -> None:
    pipeline = pipeline_on(chain)
    mask = pipeline.registry.get(chain.prune)
    plan = plan_retrain(pipeline, [mask], None, PruneOptions(), RetrainOptions(method="finetune"))
    assert known_runs(plan, pipeline.registry, force=True).keys() == {chain.dense, chain.prune}
    assert known_runs(plan, pipeline.registry).keys() == {chain.dense, chain.prune, *plan.asked}


def test_a_run_that_was_found_is_not_read_again(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, read = pipeline_on(chain), list[str]()
    dense = pipeline.registry.get(chain.dense)
    monkeypatch.setattr(Registry, "get", lambda self, run_id: read.append(run_id))
    assert isinstance(dense.spec, DenseSpec)
    assert run_in_turn(pipeline, plan_dense([dense.spec])) == [Outcome(dense, reused=True)]
    assert read == []


def test_after_equal_failures_the_rest_is_not_tried() -> None:
    tried: list[int] = []

    def away() -> Registry:
        tried.append(len(tried))
        raise RegistryError("the store is unreachable")

    pipeline = Pipeline(away, QUIET, "cpu")
    data = pipeline.dataset("digits")
    plan = plan_dense(dense_spec("resnet8", data, seed) for seed in range(8))
    engine = InTurn(pipeline, strict=False)
    finished = run_plan(plan, {}, engine, QUIET)
    results = [result_at(place, plan, finished, engine.run_of) for place in range(8)]
    assert [str(result) for result in results[:SAME_FAILURES]] == ["the store is unreachable"] * SAME_FAILURES
    assert results[SAME_FAILURES:] == [None] * (8 - SAME_FAILURES)
    assert len(tried) == SAME_FAILURES


def test_an_interrupt_is_no_failure_of_a_trial() -> None:
    def interrupted() -> Registry:
        raise KeyboardInterrupt

    pipeline = Pipeline(interrupted, QUIET, "cpu")
    plan = plan_dense([dense_spec("resnet8", pipeline.dataset("digits"), 0)])
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, {}, InTurn(pipeline, strict=False), QUIET)
