"""Trials of files count as done where they are the plan's by their settings, once, and never for anything else."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_rows import facts, made_rows, tiny_study

from rewindctl.paper.cost import State, iterations_to_do, plan_json, plan_text
from rewindctl.paper.plan import StudyPlan, make_plan
from rewindctl.report.cells import summarise
from rewindctl.report.known import Known, known_of, together
from rewindctl.report.rows import Files

SEEDS = (0, 1)
FILE = Path("lab.csv")


@pytest.fixture(scope="module")
def plan() -> StudyPlan:
    return make_plan([tiny_study], facts, SEEDS)


@pytest.fixture
def rows() -> pd.DataFrame:
    """Every trial of the plan, in groups that another version gave."""
    made = made_rows(tiny_study, seeds=len(SEEDS))
    return made.assign(origin=str(FILE), **{name: "f" + made[name] for name in ("group", "dense_group")})


def known(rows: pd.DataFrame, plan: StudyPlan, *precision: str) -> Known:
    return known_of(Files(rows, {FILE: frozenset(rows["run_id"])}), plan, *precision)


def key_of(plan: StudyPlan, seed: int, label: str, schedule: str, sparsity: float) -> str:
    cell = next(
        cell for cell in plan.cells if (cell.label, cell.schedule, cell.sparsity) == (label, schedule, sparsity)
    )
    return cell.stages[plan.seeds.index(seed)]


def lasts(plan: StudyPlan) -> set[str]:
    return {key for cell in plan.cells for key in cell.stages}


def test_a_study_that_is_known_has_nothing_to_do(plan: StudyPlan, rows: pd.DataFrame) -> None:
    results = known(rows, plan).results
    assert set(results) == lasts(plan)
    state = State(spared=plan.spared(results, ()))
    assert state.spared == set(plan.stages)
    assert sum(iterations_to_do(plan, state).values()) == 0
    answer = plan_json(plan, state, {}, "a device", [])
    assert {row["state"] for row in answer["stages"]} == {"known"}
    assert (answer["totals"]["known"], answer["totals"]["bytes"], answer["totals"]["hours"]) == (len(plan.stages), 0, 0)
    assert f"all{len(plan.stages):13}       0{len(plan.stages):8}       0" in plan_text(answer)
    scaled = make_plan([tiny_study], facts, SEEDS, 0.5)
    assert (known(rows, scaled).results, known(rows, scaled).strangers) == ({}, (FILE,))


def test_what_a_missing_level_descends_from_is_made_though_it_is_known(plan: StudyPlan, rows: pd.DataFrame) -> None:
    missing = key_of(plan, 1, "lr_rewind", "iterative", 0.75)
    gone = (rows["seed"] == 1) & (rows["schedule"] == "iterative") & (rows["sparsity_asked"] == 0.75)
    results = known(rows[~gone], plan).results
    assert set(results) == lasts(plan) - {missing}
    spared = plan.spared(results, ())
    assert plan.stages.keys() - spared == {*plan.lineage(missing)}
    left = plan.without(spared)
    assert [*left.stages] == [*reversed(plan.lineage(missing))]
    assert {key for cell in left.cells for key in cell.stages} <= {*left.stages}
    dense = plan.lineage(missing)[-1]
    assert dense not in plan.spared(results, {dense})  # what is done is no known one


OTHERS: list[tuple[dict[str, Any], bool]] = [
    ({"data_digest": ""}, True),
    ({"sparsity_asked": 0.7500001}, True),
    ({"sparsity_asked": 0.751}, False),
    ({"data_digest": "ab" * 32}, False),
    ({"recipe": ""}, False),
    ({"recipe": "resnet learning_rate=0.05"}, False),
    ({"iterations": 48}, False),
    ({"criterion": "random"}, False),
    ({"exclude": "stem"}, False),
    ({"scope": "layerwise"}, False),
    ({"pruned_at": 12.0}, False),
    ({"label": "lr_rewind T=6"}, False),
    ({"level": 2}, False),
]


@pytest.mark.parametrize(("values", "same"), OTHERS, ids=str)
def test_a_row_is_of_a_stage_by_its_settings(
    plan: StudyPlan, rows: pd.DataFrame, values: dict[str, Any], same: bool
) -> None:
    place = rows.query("seed == 0 and label == 'lr_rewind' and schedule == 'one_shot' and level == 1").index[-1]
    changed = rows.copy()
    changed.loc[place, [*values, "group"]] = [*values.values(), "another"]
    missing = lasts(plan) - known(changed, plan).results.keys()
    assert missing == (set() if same else {key_of(plan, 0, "lr_rewind", "one_shot", 0.75)})


def test_a_chain_that_began_otherwise_is_another(plan: StudyPlan, rows: pd.DataFrame) -> None:
    second = {key_of(plan, seed, "lr_rewind", "iterative", 0.75) for seed in SEEDS}
    first_level = (rows["schedule"] == "iterative") & (rows["level"] == 1)
    assert first_level.sum() == len(SEEDS)
    assert not second & known(rows.assign(label=rows["label"].mask(first_level, "finetune")), plan).results.keys()
    deeper = rows[(rows["schedule"] == "iterative") & (rows["level"] == 2)]
    two = pd.concat([rows, deeper.assign(group="another", run_id="f" + deeper["run_id"])], ignore_index=True)
    assert not second & known(two, plan).results.keys()  # nothing tells which of the two it is


def test_only_results_in_the_precision_asked_for_are_done(plan: StudyPlan, rows: pd.DataFrame) -> None:
    mixed = rows.assign(precision=rows["precision"].where(rows["seed"] == 0, "bf16"))
    results = known(mixed, plan, "fp32").results
    assert {plan.dense_of(plan.stages[key]).seed for key in results} == {0}
    assert len(results) == len(lasts(plan)) / 2
    assert set(known(mixed, plan).results) == lasts(plan)


def test_doubles_never_change_n(plan: StudyPlan, rows: pd.DataFrame) -> None:
    own = made_rows(tiny_study, seeds=len(SEEDS))
    ids = ["run_id", "dense_run_id"]
    elsewhere = rows.assign(test_accuracy=0.5, **{name: "f" + rows[name] for name in ids})
    pd.testing.assert_frame_equal(together(own, elsewhere, plan), own)
    pd.testing.assert_frame_equal(together(own, rows, plan), own)
    half = own[own["seed"] == 0]
    cells = summarise(together(half, elsewhere, plan))
    assert set(cells["n"]) == {len(SEEDS)}
    assert len(cells) == len(summarise(own))
    both = together(half, rows[rows["seed"] == 1], plan)
    pd.testing.assert_frame_equal(both.drop(columns="origin"), own.drop(columns="origin"))
    assert [*both["origin"]] == [*both["seed"].map({0: "", 1: str(FILE)})]
