"""What runs first where time may not do for all."""

from studies import panel, study_of

from rewindctl.datasets.inventory import facts_of
from rewindctl.paper.allotment import telling_order
from rewindctl.paper.plan import StudyPlan, make_plan
from rewindctl.specs import RetrainSpec

BOTH = [{"method": "weight_rewind", "k": 6}, {"method": "lr_rewind"}]
OTHER = {"method": "rewind", "weights_k": 6, "lr_k": 0}


def planned(*panels: dict[str, object], seeds: tuple[int, ...] = (0,)) -> StudyPlan:
    facts = facts_of("digits", None)
    return make_plan([study_of(*panels)], lambda name: facts, seeds, 1.0)


def cells_in_order(plan: StudyPlan) -> list[tuple[int, str, float]]:
    """Trial, method and sparsity of each retraining, in the order in which they are reached."""
    order = telling_order(plan)
    found = [
        (order[key], plan.dense_of(plan.stages[key]).seed, cell.method, cell.sparsity)
        for cell in plan.cells
        for key in cell.stages
        if isinstance(plan.stages[key].spec, RetrainSpec)
    ]
    return [(seed, method, sparsity) for _, seed, method, sparsity in sorted(found)]


def test_every_stage_has_a_place_after_its_parent() -> None:
    iterative = panel(schedule="iterative", sparsities=[0.2, 0.36], methods=BOTH)
    plan = planned(panel(), iterative, panel(schedule="dense", model="resnet20"), seeds=(3, 1))
    order = telling_order(plan)
    assert sorted(order.values()) == list(range(len(plan.stages)))
    for key, stage in plan.stages.items():
        assert stage.parent is None or order[stage.parent] < order[key]


def test_a_trial_is_whole_before_the_next() -> None:
    plan = planned(panel(sparsities=[0.5, 0.75]), seeds=(5, 2))
    assert [seed for seed, _, _ in cells_in_order(plan)] == [5] * 4 + [2] * 4


def test_the_highest_compression_is_first_in_every_method_compared() -> None:
    plan = planned(panel(sparsities=[0.5, 0.75], methods=[OTHER, *BOTH]))
    assert cells_in_order(plan) == [
        (0, "weight_rewind", 0.75),
        (0, "lr_rewind", 0.75),
        (0, "weight_rewind", 0.5),
        (0, "lr_rewind", 0.5),
        (0, "rewind", 0.75),
        (0, "rewind", 0.5),
    ]


def test_a_level_is_whole_before_the_next_and_after_one_shot_cells() -> None:
    iterative = panel(schedule="iterative", sparsities=[0.2, 0.36, 0.488], methods=BOTH)
    plan = planned(iterative, panel(sparsities=[0.9], methods=BOTH))
    assert cells_in_order(plan) == [
        (0, method, sparsity) for sparsity in (0.9, 0.2, 0.36, 0.488) for method in ("weight_rewind", "lr_rewind")
    ]


def test_what_more_cells_need_is_first_among_equals() -> None:
    few = panel(model="resnet20", sparsities=[0.5], methods=BOTH)
    many = panel(sparsities=[0.5], methods=[*BOTH, {"method": "finetune"}])
    plan = planned(few, many)
    first = min(telling_order(plan).items(), key=lambda item: item[1])[0]
    assert plan.dense_of(plan.stages[first]).model == "resnet8"
