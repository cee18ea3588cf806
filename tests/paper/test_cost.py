"""What a plan has done and to do: what the pipeline would reuse, counted once, at speeds that were measured."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Chain, Cli, settle
from studies import panel, study_of

from rewindctl.cli import run as run_command
from rewindctl.datasets.inventory import DataFacts, facts_of
from rewindctl.paper import cost
from rewindctl.paper.cost import plan_text
from rewindctl.paper.plan import StudyPlan, make_plan
from rewindctl.paper.study import shipped
from rewindctl.registry import Registry
from rewindctl.specs import DenseSpec
from rewindctl.training.device import device_name
from rewindctl.training.records import IN_LANE

DEVICE = "the device"
DIGITS = ("resnet8", "digits")


@cache
def facts(name: str) -> DataFacts:
    return facts_of(name, None)


@pytest.fixture(scope="module")
def plan() -> StudyPlan:
    """The stages of `trial`: a baseline, two masks, four retrainings."""
    return make_plan([study_of(panel(iterations=4, sparsities=[0.5, 0.75], methods=METHODS))], facts, (0,), 1.0)


METHODS = [{"method": "finetune"}, {"method": "weight_rewind", "k": 2}]
LINE = ("train-dense", "--model", "resnet8", "--dataset", "digits", "--iterations", "4", "--rewind-points", "2")


def done(plan: StudyPlan) -> dict[str, str]:
    return {key: run.run_id for key, run in cost.state_of(plan, Registry(), DEVICE).runs.items()}


@pytest.fixture(scope="module")
def stored(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A store with a baseline, a mask and a fine-tuned network, to be copied: no test writes to its artifacts."""
    path = Path(shutil.copy(empty_store, tmp_path_factory.mktemp("made") / "mlflow.db"))
    runs: list[str] = []
    for line in (LINE, ("prune", "--sparsity", "0.5"), ("retrain", "--method", "finetune")):
        parent = ("--parent", runs[-1]) if runs else ()
        assert run_command([*line, *parent, "--tracking-uri", f"sqlite:///{path}", "--quiet"]) == 0
        runs += [run.run_id for run in Registry(f"sqlite:///{path}").search() if run.run_id not in runs]
    return path, runs


@pytest.fixture
def trial(stored: tuple[Path, list[str]], tmp_path: Path) -> list[str]:
    """Baseline, mask, fine-tuned network, in a store of the test's own."""
    shutil.copytree(stored[0].parent / "mlruns", tmp_path / "mlruns")
    settle(Path(shutil.copy(stored[0], tmp_path / "mlflow.db")))
    return stored[1]


# States


def test_nothing_is_done_in_an_empty_registry(store: object, plan: StudyPlan) -> None:
    state = cost.state_of(plan, Registry(), DEVICE)
    assert (state.runs, state.speeds) == ({}, {})


def test_what_is_done_is_what_the_pipeline_reuses(trial: list[str], plan: StudyPlan, cli: Cli) -> None:
    assert sorted(done(plan).values()) == sorted(trial)
    for key, run_id in done(plan).items():
        assert Registry().get(run_id).fingerprint == key
    again = cli("retrain", "--parent", trial[1], "--method", "finetune", "--json")
    assert json.loads(again.out)["reused"]


@pytest.mark.slow
def test_children_of_a_run_that_was_forced_anew_are_not_done(trial: list[str], plan: StudyPlan, cli: Cli) -> None:
    forced = cli(*LINE, "--force").run_id
    assert list(done(plan).values()) == [forced]
    mask = cli("prune", "--parent", forced, "--sparsity", "0.5", "--json")
    assert not json.loads(mask.out)["reused"]
    assert list(done(plan).values()) == [forced, json.loads(mask.out)["run_id"]]


@pytest.mark.slow
def test_of_two_equal_runs_the_newer_one_counts(trial: list[str], plan: StudyPlan, cli: Cli) -> None:
    forced = cli("retrain", "--parent", trial[1], "--method", "finetune", "--force").run_id
    assert sorted(done(plan).values()) == sorted([*trial[:2], forced])


@pytest.mark.parametrize("status", ["RUNNING", "FAILED"])
def test_a_run_that_is_not_finished_is_not_done_nor_what_descends_from_it(
    trial: list[str], plan: StudyPlan, status: str
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(Registry().uri)
    client.update_run(trial[1], status=status)
    assert list(done(plan).values()) == trial[:1]
    client.update_run(trial[0], status=status)
    assert done(plan) == {}


def test_a_deleted_run_is_not_done(trial: list[str], plan: StudyPlan) -> None:
    from mlflow import MlflowClient

    MlflowClient(Registry().uri).delete_run(trial[2])
    assert sorted(done(plan).values()) == sorted(trial[:2])


def test_another_experiment_has_done_nothing(trial: list[str], plan: StudyPlan) -> None:
    assert cost.state_of(plan, Registry(None, "other"), DEVICE).runs == {}


def test_other_seeds_lengths_and_scales_are_not_done(trial: list[str]) -> None:
    study = study_of(panel(iterations=4, sparsities=[0.5], methods=METHODS))
    longer = study_of(panel(iterations=8, sparsities=[0.5], methods=METHODS))
    assert len(done(make_plan([study], facts, (0,), 1.0))) == 3
    for other in (make_plan([study], facts, (1,), 1.0), make_plan([longer], facts, (0,), 1.0)):
        assert done(other) == {}
    assert done(make_plan([study], facts, (0,), 0.5)) == {}


def test_speed_is_the_median_of_this_device_alone(trial: list[str], plan: StudyPlan) -> None:
    registry = Registry()
    here = registry.get(trial[0]).tags["rewindctl.device"]
    assert here == device_name(torch.device("cpu"))
    rates = sorted(registry.get(run).metrics["iterations_per_second"] for run in (trial[0], trial[2]))
    assert cost.state_of(plan, registry, here).speeds == {DIGITS: rates[1]}
    assert cost.state_of(plan, registry, "another device").speeds == {}
    run = registry.get(trial[0])
    shared = replace(run, tags={**run.tags, "rewindctl.updates": IN_LANE})
    assert [cost._timed(one, here) for one in (run, shared)] == [True, False]


# Costs


def made(plan: StudyPlan, state: cost.State | None = None, speed: float | None = 100.0) -> dict[str, Any]:
    speeds = {} if speed is None else dict.fromkeys([*cost.iterations_to_do(plan, cost.State())], speed)
    answer = cost.plan_json(plan, state or cost.State(), speeds, DEVICE, [])
    return dict(json.loads(json.dumps(answer, allow_nan=False)))


ROW = {"kind", "fingerprint", "parent", "state", "run_id", "iterations", "cells", "spec"}
TOTALS = {"stages", "done", "known", "todo", "shared", "cells", "trials", "scale", "iterations", "iterations_todo"}
TOTALS |= {"hours", "bytes", "device", "missing_data", "iterations_replayed", "lanes", "hours_at_once"}


@pytest.mark.parametrize("name", [*shipped()])
def test_the_json_of_a_plan_has_its_schema_and_counts_add_up(name: str) -> None:
    plan = make_plan([shipped()[name]], facts, (0, 1), 1.0)
    answer = made(plan)
    rows, totals = answer["stages"], answer["totals"]
    assert set(answer) == {"stages", "kinds", "networks", "totals"}
    assert set(totals) == TOTALS
    for row in rows:
        assert set(row) == ROW
        assert row["spec"]["kind"] == row["kind"]
        assert row["spec"].get("parent_fingerprint") == row["parent"]
        assert (row["state"], row["run_id"]) == ("todo", None)
        assert row["cells"] >= 1
    assert [row["fingerprint"] for row in rows] == list(plan.stages)
    for count in ("stages", "done", "todo", "shared"):
        assert totals[count] == sum(kind[count] for kind in answer["kinds"].values())
    assert totals["stages"] == totals["done"] + totals["todo"] == len(rows)
    assert totals["iterations"] == sum(row["iterations"] for row in rows) == totals["iterations_todo"]
    assert totals["iterations_todo"] == sum(network["iterations_todo"] for network in answer["networks"])
    assert totals["hours"] == pytest.approx(totals["iterations_todo"] / 100 / 3600)
    assert (totals["cells"], totals["trials"], totals["scale"]) == (len(plan.cells), 2, 1.0)
    assert all(row["iterations"] == 0 for row in rows if row["kind"] == "prune")
    assert all(row["iterations"] == row["spec"]["iterations"] for row in rows if row["kind"] != "prune")


def test_what_is_done_costs_nothing(trial: list[str], plan: StudyPlan) -> None:
    state = cost.state_of(plan, Registry(), DEVICE)
    before, after = made(plan), made(plan, state)
    assert {row["run_id"] for row in after["stages"] if row["state"] == "done"} == set(trial)
    assert after["totals"]["iterations"] == before["totals"]["iterations"] == 4 * 3 + 2 * 2
    assert after["totals"]["iterations_todo"] == 4 + 2 * 2
    assert after["totals"]["bytes"] < before["totals"]["bytes"]
    assert after["kinds"]["prune"] == {"stages": 2, "done": 1, "known": 0, "todo": 1, "shared": 2}
    everything = cost.State(dict.fromkeys(plan.stages, state.runs[next(iter(plan.stages))]))
    totals = made(plan, everything)["totals"]
    assert (totals["hours"], totals["bytes"], totals["todo"], totals["iterations_todo"]) == (0, 0, 0, 0)


def test_points_that_a_finished_baseline_lacks_cost_their_replay(chain: Chain) -> None:
    """From the nearest point below, recorded (0, 6, 12 of 24) or replayed on the way; what is there costs nothing."""
    methods = [{"method": "weight_rewind", "k": k} for k in (6, 9, 13, 17)]
    small = panel(recipe="digits", iterations=24, methods=methods, sparsities=[0.8], pruned_at=20)
    baseline = chain.registry().get(chain.dense)
    assert isinstance(baseline.spec, DenseSpec)
    plan = make_plan([study_of(small)], facts, (0,), 1.0)
    (dense,) = [key for key, stage in plan.stages.items() if isinstance(stage.spec, DenseSpec)]
    points = frozenset(baseline.spec.rewind_points)
    state = cost.State({dense: baseline}, {}, {dense: points})
    assert cost.replay_iterations(plan, state) == {DIGITS: (9 - 6) + (13 - 12) + (17 - 13) + (20 - 17)}
    assert "replay points that finished trainings did not record" in plan_text(made(plan, state))
    more = cost.State({dense: baseline}, {}, {dense: points | {9, 13, 17, 20}})
    assert not cost.replay_iterations(plan, more)
    assert not cost.replay_iterations(plan, cost.State()), "a baseline to train records them all"


def test_hours_are_not_known_where_one_speed_is_not(plan: StudyPlan) -> None:
    assert made(plan, speed=None)["totals"]["hours"] is None
    assert "not known" in plan_text(made(plan, speed=None))


def test_bytes_are_about_those_of_the_artifacts(trial: list[str], plan: StudyPlan) -> None:
    registry = Registry()
    state = cost.state_of(plan, registry, DEVICE)
    part = replace(plan, stages={key: stage for key, stage in plan.stages.items() if key in state.runs}, cells=[])
    written = sum(
        entry["size"] for run in state.runs.values() for entry in registry.manifest(registry.get(run.run_id)).values()
    )
    estimated = cost.plan_json(replace(part), cost.State(), {}, DEVICE, [])["totals"]["bytes"]
    assert estimated == pytest.approx(written, rel=0.2)


def test_speeds_of_the_registry_are_kept_and_only_others_measured(plan: StudyPlan) -> None:
    asked: list[str] = []

    def measure(spec: DenseSpec) -> float:
        asked.append(f"{spec.model} on {spec.dataset}")
        return 5.0

    said: list[str] = []
    assert cost.all_speeds(plan, cost.State({}, {DIGITS: 7.0}), measure, said.append) == {DIGITS: 7.0}
    assert (asked, said) == ([], [])
    assert cost.all_speeds(plan, cost.State(), measure, said.append) == {DIGITS: 5.0}
    assert asked == ["resnet8 on digits"]
    assert said == ["measuring resnet8 on digits ..."]
    table = make_plan([shipped()["table1"]], facts, (0,), 1.0)
    assert len(cost.all_speeds(table, cost.State(), measure, said.append)) == 5


def test_missing_data_is_named_while_there_is_something_to_do_with_it(plan: StudyPlan) -> None:
    table = make_plan([shipped()["table1"]], facts, (0,), 1.0)
    assert cost.missing_data(table, cost.State(), lambda name: False) == ["cifar10", "cifar100"]
    assert cost.missing_data(table, cost.State(), lambda name: name == "cifar10") == ["cifar100"]
    assert cost.missing_data(plan, cost.State(), lambda name: True) == []
    answer = cost.plan_json(table, cost.State(), {}, DEVICE, ["cifar100"])
    assert "missing data: cifar100" in plan_text(answer)


# Text


def test_the_text_says_what_the_json_says(plan: StudyPlan) -> None:
    text = plan_text(made(plan))
    assert "4 cells, trials: 1" in text
    assert [line.split() for line in text.splitlines() if line.startswith(("prune", "all"))] == [
        ["prune", "2", "0", "2", "2"],
        ["all", "7", "0", "7", "3"],
    ]
    assert "to do: 16 of 16 iterations" in text
    assert "resnet8 on digits: 16 iterations at 100 it/s" in text
    assert "not the paper's" not in text


def test_a_scaled_plan_says_that_it_is_not_the_papers() -> None:
    text = plan_text(made(make_plan([shipped()["fig1"]], facts, (0,), 0.01)))
    assert "all iterations times 0.01: not the paper's results" in text
