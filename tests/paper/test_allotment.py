"""What a study compares, and which of it gets the next trial."""

import math
from typing import Any

import pytest
from studies import panel, study_of

from rewindctl.datasets.inventory import facts_of
from rewindctl.paper.allotment import PlannedComparison, TrialResult, choices, comparisons, effects, trial
from rewindctl.paper.plan import StudyPlan, make_plan
from rewindctl.paper.study import shipped

METHODS = [{"method": "finetune"}, {"method": "weight_rewind", "k": 6}, {"method": "lr_rewind"}]
FACTS = facts_of("digits", None)


def planned(*panels: dict[str, Any], seeds: int = 8) -> StudyPlan:
    return make_plan([study_of(*panels)], lambda name: FACTS, tuple(range(seeds)))


def pairs(found: list[PlannedComparison]) -> list[tuple[str, str, str, float]]:
    return [(one.first[0].label, one.second[0].label, one.direction, one.bound) for one in found]


def test_methods_are_compared_as_the_claims_compare_them() -> None:
    assert pairs(comparisons(planned(panel(methods=METHODS)), 0.1, [])) == [
        ("finetune", "weight_rewind k=6", "worse", 0.0),
        ("finetune", "lr_rewind", "worse", 0.0),
        ("lr_rewind", "weight_rewind k=6", "as_good", -0.1),
    ]


def test_a_study_of_an_open_question_compares_its_first_method_with_each_other() -> None:
    methods = [{"method": "weight_rewind", "k": 6}, {"method": "weight_rewind", "k": 12}, {"method": "lr_rewind"}]
    plan = planned(panel(methods=methods))
    assert len(comparisons(plan, 0.1, [])) == 2
    assert ("weight_rewind k=6", "weight_rewind k=12", "either", 0.0) in pairs(comparisons(plan, 0.1, ["tiny"]))


def test_every_figure_of_two_methods_has_comparisons_and_one_of_one_has_none() -> None:
    counts = {}
    for name in ("fig1", "fig5", "fig6"):
        plan = make_plan([shipped()[name]], lambda data: facts_of(data, None), (0,))
        counts[name] = len(comparisons(plan, 0.1, []))
    assert counts == {"fig1": 6, "fig5": 2, "fig6": 0}


def test_the_same_comparison_of_two_panels_is_one() -> None:
    assert len(comparisons(planned(panel(methods=METHODS), panel(methods=METHODS)), 0.1, [])) == 3


def test_panels_that_are_pruned_in_different_ways_have_comparisons_of_different_names() -> None:
    ways: list[dict[str, Any]] = [{}, {"criterion": "random"}, {"exclude": ["stem"]}, {"scope": "layerwise"}]
    ways += [{"pruned_at": 12}, {"structure": "structured"}, {"structure": "structured", "channel_norm": "remove"}]
    methods = [{"method": "finetune"}, {"method": "lr_rewind"}]
    found = comparisons(planned(*(panel(methods=methods, **way) for way in ways)), 0.1, [])
    place = "finetune - lr_rewind, resnet8 on digits, one-shot"
    assert [one.name.removeprefix(place) for one in found] == [
        *("", " random", " without stem", " layerwise", " of iteration 12"),
        *(" structured", " structured channel norm removed"),
    ]


def test_the_next_trial_goes_where_a_decision_costs_least() -> None:
    plan = planned(panel(methods=METHODS))
    found = comparisons(plan, 0.1, [])
    fine, tuned, rewound = choices(plan, [(found[0], 4, ()), (found[1], 2, ()), (found[2], math.inf, ())], set(), set())
    assert (fine.comparison, tuned.comparison, rewound.comparison) == (found[1], found[0], found[2])
    assert fine.total == 2 * fine.iterations == 2 * (24 + 24 + 24)
    assert math.isinf(rewound.total)
    assert fine.place == 0


def test_what_is_done_costs_nothing_and_a_failed_trial_is_passed_over() -> None:
    plan = planned(panel(methods=METHODS))
    (one, *_) = comparisons(plan, 0.1, [])
    first = trial(plan, one, 0)
    assert {stage.spec.kind for stage in first.stages.values()} == {"dense", "prune", "retrain"}
    denses = {key for key, stage in plan.stages.items() if stage.parent is None}
    (cheap,) = choices(plan, [(one, 1, ())], denses, set())
    assert cheap.iterations == sum(stage.iterations for key, stage in first.stages.items() if key not in denses)
    (after,) = choices(plan, [(one, 1, [0])], set(first.stages), set())
    assert after.place == 1
    (past,) = choices(plan, [(one, 1, ())], set(), {next(iter(first.stages))})
    assert past.place == 1
    assert choices(plan, [(one, 1, plan.seeds)], set(), set()) == []


def test_a_pair_is_of_one_dense_run() -> None:
    plan = planned(panel(methods=METHODS), seeds=3)
    (one, *_) = comparisons(plan, 0.1, [])
    (first, second) = (side[0].stages for side in (one.first, one.second))
    results = {key: TrialResult(f"here {seed}", 0.5, "fp32") for seed, key in enumerate(first)}
    results |= {key: TrialResult(f"here {seed}", 0.6, "fp32") for seed, key in enumerate(second)}
    assert effects(one, plan.seeds, results) == pytest.approx({0: -10.0, 1: -10.0, 2: -10.0})
    elsewhere = results | {second[1]: TrialResult("there", 0.6, "fp32")}
    assert list(effects(one, plan.seeds, elsewhere)) == [0, 2]
