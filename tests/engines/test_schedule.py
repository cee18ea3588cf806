"""Whatever the interleaving: each stage once, after its parent; a failure blocks its descendants and nothing else."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewindctl.engines.schedule import StageFailure, StageQueue
from rewindctl.pipeline.plan import Plan, Stage
from rewindctl.specs import DenseSpec


class Work:
    """What a schedule needs to know of a spec: its updates."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations


def plan_of(parents: list[int | None], lengths: list[int]) -> Plan:
    """A forest: stage n has the parent `parents[n]`, an earlier one."""
    stages: dict[str, Stage] = {}
    for number, (parent, length) in enumerate(zip(parents, lengths, strict=True)):
        spec: Any = Work(length)
        stages[str(number)] = Stage(str(number), spec, None if parent is None else str(parent))
    return Plan(stages)


@st.composite
def forests(draw: st.DrawFn) -> Plan:
    size = draw(st.integers(1, 25))
    parents = [draw(st.none() | st.integers(0, n - 1)) if n else None for n in range(size)]
    return plan_of(parents, [draw(st.integers(0, 1000)) for _ in range(size)])


def ancestors(plan: Plan, key: str) -> list[str]:
    return plan.lineage(key)[1:]


def below(plan: Plan, key: str) -> int:
    """Updates on the longest way down from a stage, its own included."""
    children = [other for other, stage in plan.stages.items() if stage.parent == key]
    return plan.stages[key].iterations + max((below(plan, child) for child in children), default=0)


@given(forests(), st.booleans(), st.integers(1, 5), st.data())
@settings(max_examples=200, deadline=None)
def test_every_stage_is_taken_once_after_its_parent_or_waits_for_a_failure(
    plan: Plan, longest_first: bool, slots: int, data: st.DataObject
) -> None:
    roots = [key for key, stage in plan.stages.items() if stage.parent is None]
    already = {key: f"run {key}" for key in roots if data.draw(st.booleans())}
    schedule = StageQueue(plan, already, longest_first=longest_first)
    running: list[str] = []
    taken: list[str] = []
    failed: set[str] = set()
    again: set[str] = set()
    while True:
        while len(running) < slots and (stage := schedule.take()) is not None:
            assert stage.parent is None or stage.parent in schedule.runs
            running.append(stage.key)
            taken.append(stage.key)
        if not running:
            break
        key = running.pop(data.draw(st.integers(0, len(running) - 1)))
        outcome = data.draw(st.sampled_from(["finished", "finished", "failed", "put back"]))
        if outcome == "put back" and key not in again:
            again.add(key)
            taken.remove(key)
            schedule.put_back(key)
        elif outcome == "failed":
            failed.add(key)
            schedule.failed(key, f"stage {key}", "broken", "", None)
        else:
            schedule.finished(key, f"run {key}")
    assert len(taken) == len(set(taken))
    blocked = {key for key in plan.stages if failed & set(ancestors(plan, key))}
    assert set(taken) | set(already) | blocked == set(plan.stages)
    assert not blocked & set(taken)
    assert set(schedule.runs) == set(plan.stages) - blocked - failed
    assert {failure.key for failure in schedule.failures} == failed
    assert sum(failure.blocked for failure in schedule.failures) == len(blocked)
    assert schedule.waiting == 0


@given(forests())
@settings(max_examples=100, deadline=None)
def test_one_worker_follows_the_plan(plan: Plan) -> None:
    schedule = StageQueue(plan, {}, longest_first=False)
    taken = []
    while (stage := schedule.take()) is not None:
        taken.append(stage.key)
        schedule.finished(stage.key, "run")
    assert taken == list(plan.stages)


@given(forests())
@settings(max_examples=100, deadline=None)
def test_several_workers_start_with_the_most_work_below(plan: Plan) -> None:
    schedule = StageQueue(plan, {}, longest_first=True)
    ready = {key for key, stage in plan.stages.items() if stage.parent is None}
    while (stage := schedule.take()) is not None:
        key = stage.key
        longest = max(below(plan, other) for other in ready)
        assert below(plan, key) == longest
        assert key == next(other for other in plan.stages if other in ready and below(plan, other) == longest)
        schedule.finished(key, "run")
        ready = ready - {key} | {other for other, child in plan.stages.items() if child.parent == key}


def test_what_was_put_back_is_next_in_its_place() -> None:
    schedule = StageQueue(plan_of([None, None, None], [1, 3, 2]), {}, longest_first=True)
    first = schedule.take()
    assert first is not None
    schedule.put_back(first.key)
    order = [stage.key for stage in iter(schedule.take, None)]
    assert order == ["1", "2", "0"]


def test_a_child_waits_for_a_parent_that_was_put_back() -> None:
    schedule = StageQueue(plan_of([None, 0], [1, 1]), {}, longest_first=False)
    assert schedule.take() is not None
    assert schedule.take() is None
    schedule.put_back("0")
    assert schedule.waiting == 2


def test_runs_of_other_plans_are_not_counted() -> None:
    assert StageQueue(plan_of([None], [1]), {"other": "run"}, longest_first=False).runs == {}


@pytest.mark.parametrize(
    ("run_id", "hint", "text"),
    [
        ("abc", "lower it", "failed: cell (run abc): too high; lower it"),
        (None, "", "failed: cell: too high"),
    ],
)
def test_a_failure_is_one_line(run_id: str | None, hint: str, text: str) -> None:
    assert StageFailure("key", "cell", "too high", hint, run_id, 0).text == text


def test_specs_of_real_stages_have_what_a_schedule_needs() -> None:
    assert "iterations" in DenseSpec.model_fields
