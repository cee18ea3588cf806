"""`rewindctl bench` measures without data and without a store, and what it says of a study is what its plan costs."""

import json
import math
from pathlib import Path

import pytest
from conftest import Cli

from rewindctl.checks.lane_speed import NO_GAIN, LaneCurve
from rewindctl.checks.speed import Speed
from rewindctl.datasets.inventory import facts_of
from rewindctl.paper.bench import DATASET, bench_json, bench_text, published_speeds, specs_to_measure
from rewindctl.paper.cost import State, plan_json
from rewindctl.paper.plan import make_plan
from rewindctl.paper.study import shipped
from rewindctl.specs import DenseSpec

SPEEDS = {"resnet20": 50.0, "resnet56": 20.0, "resnet110": 10.0, "wrn16_8": 5.0}


def measured(speeds: dict[str, float]) -> dict[str, Speed]:
    return {model: Speed(speed, "fp32") for model, speed in speeds.items()}


def facts(name: str):  # type: ignore[no-untyped-def]
    return facts_of(name, None)


@pytest.mark.slow
def test_a_network_is_measured_and_nothing_is_made(cli: Cli, tmp_path: Path) -> None:
    answer = cli("bench", "--model", "resnet8", "--seconds", "0", "--device", "cpu", "--json", "--precision", "bf16")
    assert answer.code == 0
    assert "measuring resnet8 ..." in answer.err
    made = json.loads(answer.out)
    (network,) = made["networks"]
    assert (network["model"], network["published_iterations_per_second"]) == ("resnet8", None)
    assert 0 < network["iterations_per_second"] < math.inf
    assert network["precision"] == "bf16"
    assert all("resnet8" not in study["not_measured"] for study in made["studies"])
    assert [study["name"] for study in made["studies"]] == [*shipped(), "all"]
    assert network["lanes"] is None
    assert made["no_lanes"] == "they need a CUDA device"
    assert list(tmp_path.iterdir()) == []


def test_without_a_choice_the_papers_networks_are_measured_with_its_recipes() -> None:
    specs = specs_to_measure((), facts, 1.0)
    assert [spec.model for spec in specs] == list(published_speeds()) == list(SPEEDS)
    assert published_speeds() == {"resnet20": 59.0, "resnet56": 28.6, "resnet110": 15.9, "wrn16_8": 17.4}
    assert {(spec.dataset, spec.batch_size) for spec in specs} == {(DATASET, 128)}
    assert len(specs_to_measure(("resnet8", "resnet8"), facts, 1.0)) == 1


def test_hours_are_those_of_the_plans() -> None:
    made = {study["name"]: study for study in bench_json(measured(SPEEDS), facts, "a device")["studies"]}
    for study in (shipped()["fig1"], shipped()["fig4"], shipped()["table4"]):
        plan = make_plan([study], facts, None)
        pairs = {(s.spec.model, s.spec.dataset) for s in plan.stages.values() if isinstance(s.spec, DenseSpec)}
        totals = plan_json(plan, State(), {pair: SPEEDS[pair[0]] for pair in pairs}, "a device", [])["totals"]
        assert made[study.name]["hours"] == pytest.approx(totals["hours"])
        assert made[study.name]["iterations"] == totals["iterations"]
    parts = [made[study.name] for study in shipped().values() if study.part_of_paper]
    whole = made["all"]["iterations"]
    assert max(part["iterations"] for part in parts) < whole < sum(part["iterations"] for part in parts)


def test_a_study_whose_networks_were_not_all_measured_has_no_hours() -> None:
    made = bench_json(measured({"resnet20": 50.0}), facts, "a device")
    studies = {study["name"]: study for study in made["studies"]}
    assert (studies["fig1"]["not_measured"], studies["table4"]["hours"]) != ([], 0)
    assert studies["table4"]["not_measured"] == ["resnet110", "resnet56", "wrn16_8"]
    text = bench_text(made)
    assert "not measured: resnet110, resnet56, wrn16_8" in text
    assert "59.0" in text
    assert "0.847x" in text


def test_a_faster_device_takes_as_much_less() -> None:
    slow = bench_json(measured(SPEEDS), facts, "slow")["studies"]
    fast = bench_json(measured({model: 10 * speed for model, speed in SPEEDS.items()}), facts, "fast")["studies"]
    for one, other in zip(slow, fast, strict=True):
        assert one["hours"] == pytest.approx(10 * other["hours"])


CURVES = {
    "resnet20": LaneCurve({1: 60.0, 2: 100.0, 4: 150.0, 8: 151.0}, NO_GAIN),
    **{model: LaneCurve({1: speed, 2: 1.5 * speed}) for model, speed in SPEEDS.items() if model != "resnet20"},
}


def test_trials_at_once_have_a_row_for_each_number_of_them_and_studies_their_hours() -> None:
    made = bench_json(measured(SPEEDS), facts, "a device", CURVES)
    for network in made["networks"]:
        curve, lanes = CURVES[network["model"]], network["lanes"]
        assert {row["trials"]: row["iterations_per_second"] for row in lanes["speeds"]} == curve.speeds
        assert all(
            row["iterations_per_second_each"] * row["trials"] == pytest.approx(row["iterations_per_second"])
            for row in lanes["speeds"]
        )
    assert made["networks"][0]["lanes"]["best"] == 4
    assert all(0 <= study["hours_at_once"] <= study["hours"] for study in made["studies"])
    assert made["studies"][-1]["hours_at_once"] < made["studies"][-1]["hours"]
    text = bench_text(made)
    assert text.count(NO_GAIN) == 1
    assert sum(line.startswith("resnet20") for line in text.splitlines()) == 1 + 4
    assert [line.split()[1] for line in text.splitlines() if line.startswith("resnet20") and "taken" in line] == ["4"]


def test_without_lanes_one_line_says_why_and_nothing_else_changes() -> None:
    plain = bench_text(bench_json(measured(SPEEDS), facts, "a device")).splitlines()
    told = bench_text(bench_json(measured(SPEEDS), facts, "a device", {}, "they need a CUDA device")).splitlines()
    more = "Several trials at once by kernels of our own: they need a CUDA device"
    assert [line for line in told if line != more] == [*plain[:7], "", *plain[7:]]
    assert more in told


def test_a_study_of_a_network_without_lanes_has_no_hours_at_once() -> None:
    made = bench_json(measured(SPEEDS), facts, "a device", {"resnet20": CURVES["resnet20"]})
    studies = {study["name"]: study for study in made["studies"]}
    assert studies["table4"]["hours_at_once"] is None
    assert studies["table4"]["hours"] > 0
    bench_text(made)
