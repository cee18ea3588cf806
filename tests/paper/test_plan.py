"""A plan: every stage once, parents first, and the specs that the commands themselves would make."""

from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from conftest import Cli, quickly
from studies import panel, study_of

from rewindctl.datasets.inventory import DataFacts, facts_of
from rewindctl.errors import UsageError
from rewindctl.paper.plan import StudyPlan, make_plan, scaled
from rewindctl.paper.study import Study, shipped
from rewindctl.pipeline.plan import Stage
from rewindctl.registry import Registry
from rewindctl.specs import DenseSpec, PruneSpec, RetrainSpec

PAPER = [study for study in shipped().values() if study.part_of_paper]


@cache
def facts(name: str) -> DataFacts:
    return facts_of(name, None)


def planned(*studies: Study, seeds: tuple[int, ...] | None = (0,), scale: float = 1.0) -> StudyPlan:
    return make_plan(studies, facts, seeds, scale)


def kinds(plan: StudyPlan) -> Counter[str]:
    return Counter(stage.spec.kind for stage in plan.stages.values())


def dense_stages(plan: StudyPlan) -> list[Stage]:
    return [stage for stage in plan.stages.values() if isinstance(stage.spec, DenseSpec)]


# The paper


@pytest.fixture(scope="module")
def paper() -> StudyPlan:
    return planned(*PAPER, seeds=(0, 1, 2))


def test_parents_come_before_their_children_and_every_fingerprint_is_its_specs(paper: StudyPlan) -> None:
    seen: set[str] = set()
    for key, stage in paper.stages.items():
        assert key == stage.key == stage.spec.fingerprint()
        assert (stage.parent is None) == isinstance(stage.spec, DenseSpec)
        if not isinstance(stage.spec, DenseSpec):
            assert stage.spec.parent_fingerprint == stage.parent
            assert stage.parent in seen
        assert isinstance(paper.stages[paper.lineage(key)[-1]].spec, DenseSpec)
        seen.add(key)


def test_stages_alternate_on_the_way_to_every_cell(paper: StudyPlan) -> None:
    for cell in paper.cells:
        for stage in cell.stages:
            lineage = [paper.stages[key].spec.kind for key in reversed(paper.lineage(stage))]
            assert lineage == ["dense"] + ["prune", "retrain"] * (len(lineage) // 2)
            if cell.schedule != "iterative":
                assert len(lineage) == (1 if cell.method == "none" else 3)


def test_every_stage_is_there_for_a_cell(paper: StudyPlan) -> None:
    assert min(paper.uses().values()) >= 1


def test_the_whole_paper_is_less_than_its_parts(paper: StudyPlan) -> None:
    parts = [planned(study, seeds=(0, 1, 2)) for study in PAPER]
    assert set(paper.stages) == {key for part in parts for key in part.stages}
    assert len(paper.stages) < sum(len(part.stages) for part in parts)
    assert paper.cells == [cell for part in parts for cell in part.cells]
    # four networks on CIFAR-10, two of them on CIFAR-100 too, three trials
    assert len(dense_stages(paper)) == 18


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("fig3", "fig1"),
        ("fig6", "fig5"),
        ("table1", "fig1"),
        ("table1", "fig2"),
        ("table1", "fig4"),
        ("table2", "fig5"),
        ("table4", "fig1"),
        ("table5", "table1"),
        ("lr_clock", "fig1"),
    ],
)
def test_baselines_are_shared(name: str, of: str) -> None:
    mine, others = ({stage.key for stage in dense_stages(planned(shipped()[n]))} for n in (name, of))
    assert mine & others


def test_figure_3_trains_no_baseline_that_figure_1_has_not() -> None:
    first, third = planned(shipped()["fig1"]), planned(shipped()["fig3"])
    assert {s.key for s in dense_stages(third)} == {s.key for s in dense_stages(first)}


def test_the_chain_of_03_in_figure_6_adds_no_stage_to_figure_5() -> None:
    fifth, sixth = shipped()["fig5"], shipped()["fig6"]
    chain = sixth.model_copy(update={"panels": sixth.panels[:1]})
    assert set(planned(chain).stages) < set(planned(fifth).stages)
    other = sixth.model_copy(update={"panels": sixth.panels[1:]})
    assert {s.key for s in dense_stages(planned(other))} == set(planned(other).stages) & set(planned(fifth).stages)


def test_methods_share_the_masks_of_one_shot_pruning_and_their_first_one_of_iterative() -> None:
    plan = planned(study_of(panel(sparsities=[0.2, 0.36])))
    assert kinds(plan) == {"dense": 1, "prune": 2, "retrain": 4}
    plan = planned(study_of(panel(schedule="iterative", sparsities=[0.2, 0.36, 0.488])))
    assert kinds(plan) == {"dense": 1, "prune": 1 + 2 * 2, "retrain": 6}


def test_iterative_weight_rewinding_goes_back_to_the_dense_run_under_every_mask() -> None:
    plan = planned(study_of(panel(schedule="iterative", sparsities=[0.2, 0.36, 0.488])))
    by_method: dict[str, list[int]] = {}
    for stage in plan.stages.values():
        if isinstance(stage.spec, RetrainSpec):
            by_method.setdefault(stage.spec.method, []).append(stage.spec.weights_iteration)
    assert by_method == {"finetune": [24, 24, 24], "weight_rewind": [6, 6, 6]}
    chains = [plan.lineage(cell.stages[0]) for cell in plan.cells if cell.method == "weight_rewind"]
    assert [chain[2:] for chain in chains[1:]] == chains[:-1]


# Trials


def test_a_seed_changes_the_seed_and_nothing_else(paper: StudyPlan) -> None:
    by_group: dict[str, list[Stage]] = {}
    for key, stage in paper.stages.items():
        by_group.setdefault(paper.groups[key], []).append(stage)
    for stages in by_group.values():
        assert len(stages) == 3
        fields = [stage.spec.fields() | {"seed": 0, "parent_fingerprint": ""} for stage in stages]
        assert fields[0] == fields[1] == fields[2]
        assert [paper.dense_of(stage).seed for stage in stages] == [0, 1, 2]


def test_a_cell_has_a_stage_for_each_trial_and_its_group_in_common(paper: StudyPlan) -> None:
    for cell in paper.cells:
        assert [paper.dense_of(paper.stages[key]).seed for key in cell.stages] == [0, 1, 2]
        assert {paper.groups[key] for key in cell.stages} == {cell.group}


def test_trials_come_one_after_the_other(paper: StudyPlan) -> None:
    seeds = [paper.dense_of(stage).seed for stage in paper.stages.values()]
    assert seeds == sorted(seeds)


def test_without_seeds_every_study_has_its_own_trials() -> None:
    few = study_of(name="few", trials=2)
    many = study_of(panel(sparsities=[0.8]), name="many", trials=4)
    plan = planned(few, many, seeds=None)
    assert plan.seeds == (0, 1, 2, 3)
    assert {(cell.study, len(cell.stages)) for cell in plan.cells} == {("few", 2), ("many", 4)}
    assert kinds(plan) == {"dense": 4, "prune": 2 + 4, "retrain": 4 + 8}


# The commands


OPTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "finetune": (
        {"methods": [{"method": "finetune", "lr": 0.01, "iterations": 3}]},
        ("--method", "finetune", "--lr", "0.01", "--iterations", "3"),
    ),
    "restarted": (
        {"methods": [{"method": "weight_rewind", "k": 2, "lr_clock": "restarted", "optimizer_state": "restored"}]},
        ("--method", "weight_rewind", "--k", "2", "--lr-clock", "restarted", "--optimizer-state", "restored"),
    ),
    "between": (
        {"methods": [{"method": "rewind", "weights_k": 2, "lr_k": 3}], "scope": "layerwise"},
        ("--method", "rewind", "--weights-k", "2", "--lr-k", "3", "--scope", "layerwise"),
    ),
    "channels": (
        {"methods": [{"method": "lr_rewind"}], "structure": "structured", "channel_norm": "remove"},
        ("--method", "lr_rewind", "--structure", "structured", "--channel-norm", "remove"),
    ),
    "excluded": (
        {"methods": [{"method": "finetune"}], "criterion": "random", "exclude": ["stem", "blocks.0.*"]},
        ("--method", "finetune", "--criterion", "random", "--exclude", "blocks.0.*,stem"),
    ),
}


@pytest.mark.parametrize("name", [quickly(one, *list(OPTIONS)[:1]) for one in OPTIONS])
def test_a_study_is_found_in_what_the_commands_made(name: str, store: object, cli: Cli) -> None:
    fields, options = OPTIONS[name]
    line = ("--model", "resnet8", "--dataset", "digits", "--iterations", "4")
    line += () if name in ("finetune", "channels", "excluded") else ("--rewind-points", "0,2")
    dense = cli("train-dense", *line, "--seed", "7", "--quiet").run_id
    walked = cli("iterate", "--parent", dense, *options, "--step", "0.5", "--until", "0.75", "--quiet")
    assert walked.code == 0, walked.err
    single = cli("retrain", "--parent", dense, "--sparsity", "0.6", *options, "--quiet")
    made = {run.fingerprint for run in Registry().search()}
    panels = [
        panel(iterations=4, **fields, schedule=schedule, sparsities=levels)
        for schedule, levels in (("iterative", [0.5, 0.75]), ("one_shot", [0.6]))
    ]
    plan = planned(study_of(*panels), seeds=(7,))
    assert set(plan.stages) == made
    assert Registry().get(single.run_id).fingerprint == plan.cells[-1].stages[0]


def test_the_usual_length_and_points_are_those_of_train_dense(store: object, cli: Cli) -> None:
    from rewindctl.pipeline.requests import dense_spec

    for model, dataset in (("resnet20", "cifar10"), ("wrn16_8", "cifar10"), ("resnet56", "cifar100")):
        plan = planned(study_of(panel(schedule="dense", model=model, dataset=dataset, iterations=None)))
        assert set(plan.stages) == {dense_spec(model, facts(dataset), 0).fingerprint()}


def test_every_level_is_pruned_where_its_clock_stands_at_the_iteration_asked_for() -> None:
    """The clock of weight rewinding starts at K, restarted at 0: the pruned state is then the end of N - K updates."""
    methods = [
        {"method": "lr_rewind"},
        {"method": "weight_rewind", "k": 6},
        {"method": "weight_rewind", "k": 6, "lr_clock": "restarted"},
    ]
    study = study_of(panel(schedule="iterative", sparsities=[0.5, 0.75, 0.875], pruned_at=18, methods=methods))
    plan = planned(study)
    found: dict[str, list[tuple[int | None, tuple[int, ...]]]] = {}
    for cell in plan.cells:
        retrained, mask = (plan.stages[key].spec for key in plan.lineage(cell.stages[0])[:2])
        assert isinstance(retrained, RetrainSpec)
        assert isinstance(mask, PruneSpec)
        found.setdefault(cell.label, []).append((mask.iteration, retrained.rewind_points))
    assert found == {
        "lr_rewind": [(18, (18,)), (18, (18,)), (18, ())],
        "weight_rewind k=6": [(18, (12,)), (12, (12,)), (12, ())],
        "weight_rewind k=6 restarted clock": [(18, ()), (None, ()), (None, ())],
    }
    (dense,) = dense_stages(plan)
    assert isinstance(dense.spec, DenseSpec)
    assert 18 in dense.spec.rewind_points


def test_a_level_whose_clock_never_stands_there_is_refused() -> None:
    methods = [{"method": "weight_rewind", "k": 12}]
    with pytest.raises(UsageError, match="pruned_at 6 is not an iteration of weight_rewind k=12"):
        planned(study_of(panel(schedule="iterative", sparsities=[0.5, 0.75], pruned_at=6, methods=methods)))


def test_studies_that_need_other_points_share_their_baseline_and_it_records_all() -> None:
    lr = study_of(panel(methods=[{"method": "lr_rewind"}]), name="one")
    weights = study_of(panel(methods=[{"method": "weight_rewind", "k": 11}]), name="two")
    for order in ((lr, weights), (weights, lr)):
        (dense,) = dense_stages(planned(*order))
        assert isinstance(dense.spec, DenseSpec)
        assert {0, 11, 24} <= set(dense.spec.rewind_points)
    wrn = dense_stages(planned(shipped()["wrn_checkpoint"], shipped()["fig5"], seeds=(0, 1, 2)))
    assert len(wrn) == 3
    assert all(isinstance(one.spec, DenseSpec) and {8_000, 72_000} <= set(one.spec.rewind_points) for one in wrn)


def test_points_that_methods_need_are_kept() -> None:
    methods = [{"method": "weight_rewind", "k": 5}, {"method": "rewind", "weights_k": 9, "lr_k": 3}]
    (dense,) = dense_stages(planned(study_of(panel(methods=methods, pruned_at=11))))
    assert isinstance(dense.spec, DenseSpec)
    assert {5, 9, 11} < set(dense.spec.rewind_points)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"methods": [{"method": "finetune", "k": 3}]}, "--k 3 has no meaning for finetune"),
    ({"methods": [{"method": "weight_rewind"}]}, "weight_rewind needs --k"),
    ({"methods": [{"method": "weight_rewind", "k": 24}]}, "--k 24 is the dense run's last iteration"),
    ({"methods": [{"method": "weight_rewind", "k": 25}]}, "25 is outside the run's 24 iterations"),
    ({"pruned_at": 25}, "25 is outside the run's 24 iterations"),
    ({"model": "resnet9"}, "resnet9"),
    ({"dataset": "digit"}, "unknown data set 'digit'"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_what_no_command_would_take_is_refused_with_the_name_of_the_study(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        planned(study_of(panel(**fields)))
    assert caught.value.message.startswith("study 'tiny': ")
    assert words in caught.value.message


# Scale


@pytest.mark.parametrize("scale", [0.5, 0.1, 0.01, 0.002])
def test_no_stage_of_a_scaled_plan_is_one_of_the_full_plan(scale: float) -> None:
    full, small = planned(*PAPER), planned(*PAPER, scale=scale)
    assert not set(full.stages) & set(small.stages)
    assert not set(full.groups.values()) & set(small.groups.values())
    assert len(small.stages) == len(full.stages)
    for big, little in zip(full.stages.values(), small.stages.values(), strict=True):
        assert little.iterations == pytest.approx(big.iterations * scale, abs=1)


def test_points_and_k_scale_with_the_run() -> None:
    plan = planned(shipped()["fig1"], scale=0.01)
    specs = [stage.spec for stage in plan.stages.values()]
    rewound = [spec for spec in specs if isinstance(spec, RetrainSpec) and spec.method == "weight_rewind"]
    assert {(spec.k, spec.weights_iteration, spec.iterations) for spec in rewound} == {(80, 80, 640)}
    (dense,) = dense_stages(plan)
    assert isinstance(dense.spec, DenseSpec)
    assert dense.spec.lr_boundaries == (360, 540)
    assert dense.spec.rewind_points == (0, 5, 10, 20, 40, 80, 160, 320, 640, 720)
    assert {cell.k for cell in plan.cells if cell.method == "weight_rewind"} == {8000}


def test_scale_one_is_the_full_plan() -> None:
    assert planned(*PAPER).stages == planned(*PAPER, scale=1.0).stages


@pytest.mark.parametrize("scale", [0.0, -0.1, 1.1, float("nan"), float("inf")])
def test_a_scale_outside_0_to_1_is_refused(scale: float) -> None:
    with pytest.raises(UsageError, match=r"--scale .* is outside \(0, 1\]"):
        planned(study_of(), scale=scale)


def test_a_scale_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="--scale 1e-05 leaves nothing of iteration"):
        planned(shipped()["fig1"], scale=1e-5)
    assert (scaled(0, 1e-9), scaled(None, 1e-9), scaled(8000, 0.5)) == (0, 0, 4000)


# Parts


def test_a_part_has_what_its_cells_need_and_no_more(paper: StudyPlan) -> None:
    kept = [cell for cell in paper.cells if cell.study == "fig1" and cell.method == "lr_rewind"]
    part = paper.only(kept)
    assert part.cells == kept
    assert set(part.stages) == {link for cell in kept for key in cell.stages for link in paper.lineage(key)}
    assert list(part.stages) == [key for key in paper.stages if key in part.stages]
    assert paper.only(paper.cells).stages == paper.stages
    assert not paper.only([]).stages


def test_a_cell_says_what_it_is() -> None:
    cells = planned(study_of(panel(schedule="dense"), panel(schedule="iterative", sparsities=[0.2, 0.36]))).cells
    dense, finetuned = cells[0], cells[1]
    assert (dense.method, dense.label, dense.sparsity, dense.compression, dense.step) == (
        "none",
        "none",
        0.0,
        1.0,
        None,
    )
    assert (finetuned.method, finetuned.step, finetuned.compression) == ("finetune", 0.2, 1.25)
    assert [cell.label for cell in cells[1:]] == ["finetune"] * 2 + ["weight_rewind k=6"] * 2
    assert replace(dense, panel=1) != dense


def test_a_pattern_that_matches_no_layer_is_refused_before_anything_is_run() -> None:
    study = study_of(panel(exclude=["stem", "conv9"], methods=[{"method": "finetune"}]))
    with pytest.raises(UsageError, match=r"study '\w+': no layer matches the excluded pattern 'conv9'") as caught:
        planned(study)
    assert caught.value.hint.startswith("layers: stem, blocks.0.conv1")
