"""What a plan takes where trials run at once: no more than one at a time, and what the curve says."""

import json
from functools import cache
from pathlib import Path

import pytest
from conftest import Cli
from studies import panel, study_of, text_of

from rewindctl.checks.lane_speed import COUNTS, LaneCurve
from rewindctl.cli import at_once as of_cli
from rewindctl.datasets.inventory import DataFacts, facts_of
from rewindctl.engines import capacity
from rewindctl.engines.capacity import LaneNeed
from rewindctl.engines.choose import EngineOptions
from rewindctl.paper.at_once import at_once
from rewindctl.paper.cost import State, iterations_to_do
from rewindctl.paper.plan import StudyPlan, make_plan

DIGITS = ("resnet8", "digits")
METHODS = [{"method": "finetune"}, {"method": "weight_rewind", "k": 2}]
LINEAR = LaneCurve({count: 10.0 * count for count in COUNTS})
FLAT = LaneCurve(dict.fromkeys(COUNTS, 10.0))


@cache
def facts(name: str) -> DataFacts:
    return facts_of(name, None)


def plan(trials: int = 1) -> StudyPlan:
    """Of each trial a baseline, two masks, four retrainings."""
    study = study_of(panel(iterations=4, sparsities=[0.5, 0.75], methods=METHODS))
    return make_plan([study], facts, tuple(range(trials)), 1.0)


def test_trainings_that_wait_for_equally_many_run_together() -> None:
    """3 baselines, then 12 retrainings: at 3 and 12 at once where speed is in proportion."""
    made = plan(trials=3)
    retrained = 3 * 2 * (4 + 2)
    lanes, hours = at_once(made, State(), {DIGITS: LINEAR}) or (0, 0.0)
    assert lanes == 12
    assert hours * 3600 == pytest.approx(3 * 4 / 30 + retrained / 120)
    lanes, hours = at_once(made, State(), {DIGITS: LINEAR}, most=2) or (0, 0.0)
    assert lanes == 2
    assert hours * 3600 == pytest.approx((3 * 4 + retrained) / 20)


def test_what_gains_nothing_takes_what_it_takes_one_at_a_time() -> None:
    made = plan(trials=2)
    iterations = iterations_to_do(made, State())[DIGITS]
    for most in (1, 8):
        lanes, hours = at_once(made, State(), {DIGITS: FLAT}, most) or (0, 0.0)
        assert lanes == 1
        assert hours * 3600 == pytest.approx(iterations / 10)
    assert at_once(made, State(), {DIGITS: LINEAR}, 1) == at_once(made, State(), {DIGITS: FLAT}, 1)


def test_a_network_without_a_curve_has_no_time() -> None:
    assert at_once(plan(), State(), {("resnet20", "digits"): FLAT}) is None
    done = State(spared=frozenset(plan().stages))
    assert at_once(plan(), done, {}) == (1, 0.0)


def test_a_plan_says_what_it_costs_at_once(
    cli: Cli, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its stages would be lanes; not with --jobs 1, nor where another engine runs them."""
    lanes = LaneNeed(10, 10, lambda: {DIGITS: LINEAR})
    monkeypatch.setattr(capacity, "lanes_of", lambda *given: lanes)
    (tmp_path / "own.yaml").write_text(text_of(panel(iterations=4, sparsities=[0.5], methods=METHODS)))
    line = ("reproduce", "own.yaml", "--plan", "--trials", "3", "--device", "cpu", "--quiet")
    monkeypatch.setattr("rewindctl.checks.speed.measured_speed", lambda *given: type("S", (), SPEED))
    made = json.loads(cli(*line, "--json").out)["totals"]
    assert made["lanes"] == 6
    assert 0 < made["hours_at_once"] < made["hours"]
    assert "s with up to 6 at once, as lanes of one step\n" in cli(*line).out
    assert json.loads(cli(*line, "--json", "--jobs", "2").out)["totals"]["lanes"] == 2
    for others in (("--jobs", "1"), ("--engine", "ray")):
        assert json.loads(cli(*line, "--json", *others).out)["totals"]["lanes"] is None
        assert "lanes" not in cli(*line, *others).out


SPEED = {"iterations_per_second": 10.0}


def test_unasked_a_study_takes_as_many_lanes_as_are_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for stays as it was asked for."""
    said: list[str] = []
    session = type("Session", (), {"facts": staticmethod(facts), "device": "cpu", "arithmetic": None})()
    session.console = type("Console", (), {"say": staticmethod(said.append)})
    made = plan(trials=3)
    left = [made.dense_of(stage) for stage in made.stages.values()]
    assert of_cli.with_jobs(session, EngineOptions(None), left) == EngineOptions(None)
    assert said == []
    monkeypatch.setattr(capacity, "lanes_of", lambda *given: LaneNeed(10, 10, lambda: {DIGITS: LINEAR}))
    assert of_cli.with_jobs(session, EngineOptions(None), left).jobs == len(made.stages)
    assert of_cli.with_jobs(session, EngineOptions(1), left).jobs == 1
    assert of_cli.with_jobs(session, EngineOptions(40), left).jobs == 40
    assert len(said) == 2
