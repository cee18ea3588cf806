"""The loop over a plan, against an engine whose answers the tests decide; and what it shows."""

import time
from collections.abc import Callable

import pytest
from studies import panel, study_of

from rewindctl.console import Board, Console
from rewindctl.datasets.inventory import facts_of
from rewindctl.durations import Deadline
from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.run import MOST_ATTEMPTS, SAME_FAILURES, Finished, Meter, run_plan
from rewindctl.engines.schedule import Limit
from rewindctl.paper.allotment import telling_order
from rewindctl.paper.plan import StudyPlan, make_plan


class Scripted:
    """An engine that answers the oldest task by `reply`, in this process and without training."""

    def __init__(self, reply: Callable[[Task], Answer], slots: int = 2) -> None:
        self.reply, self.slots = reply, slots
        self.tasks: list[Task] = []
        self.seen: list[str] = []
        self.most = self.closed = 0
        self.shown: Callable[[], None] = lambda: None

    def submit(self, task: Task) -> None:
        self.tasks.append(task)
        self.seen.append(task.key)
        self.most = max(self.most, len(self.tasks))

    def wait(self, seconds: float) -> list[Answer]:
        return [self.reply(self.tasks.pop(0))]

    def progress(self) -> dict[str, int]:
        return dict.fromkeys([task.key for task in self.tasks], 1)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="module")
def plan() -> StudyPlan:
    facts = facts_of("digits", None)
    return make_plan([study_of(panel(sparsities=[0.5, 0.75]))], lambda name: facts, tuple(range(8)), 1.0)


def ran(task: Task) -> Answer:
    return Answer(task.key, f"run-of-{task.key[:8]}")


def run(plan: StudyPlan, engine: Scripted, done: dict[str, str] | None = None) -> Finished:
    return run_plan(plan, done or {}, engine, Console(quiet=True))


@pytest.mark.parametrize("slots", [1, 3])
def test_every_stage_is_run_once_with_the_run_of_its_parent(plan: StudyPlan, slots: int) -> None:
    parents: dict[str, str | None] = {}

    def reply(task: Task) -> Answer:
        parents[task.key] = task.parent_run_id
        return ran(task)

    engine = Scripted(reply, slots)
    finished = run(plan, engine)
    assert (finished.failures, finished.stopped, finished.blocked) == ([], "", 0)
    assert finished.runs == {key: f"run-of-{key[:8]}" for key in plan.stages}
    assert sorted(engine.seen) == sorted(plan.stages)
    assert engine.most == slots
    for key, stage in plan.stages.items():
        assert parents[key] == (stage.parent and f"run-of-{stage.parent[:8]}")
    assert engine.closed


def test_what_is_done_is_not_run(plan: StudyPlan) -> None:
    done = {key: "mine" for key, stage in plan.stages.items() if stage.parent is None}
    engine = Scripted(ran)
    assert run(plan, engine, done).runs.items() >= done.items()
    assert not set(engine.seen) & set(done)


def test_a_crash_is_tried_again_and_then_a_failure(plan: StudyPlan) -> None:
    victim = next(iter(plan.stages))

    def reply(task: Task) -> Answer:
        return Answer(task.key, message="its process died", crashed=True) if task.key == victim else ran(task)

    engine = Scripted(reply)
    finished = run(plan, engine)
    assert engine.seen.count(victim) == MOST_ATTEMPTS
    (failure,) = finished.failures
    assert (failure.key, failure.label) == (victim, "dense s0 resnet8-digits")
    assert failure.blocked == finished.blocked == 6
    assert len(finished.runs) == len(plan.stages) - 7


def test_a_crash_that_does_not_come_back_is_no_failure(plan: StudyPlan) -> None:
    crashed: set[str] = set()

    def reply(task: Task) -> Answer:
        if task.key not in crashed:
            crashed.add(task.key)
            return Answer(task.key, message="its process died", crashed=True)
        return ran(task)

    finished = run(plan, Scripted(reply))
    assert (len(finished.runs), finished.failures) == (len(plan.stages), [])


def test_equal_failures_in_a_row_stop_the_rest_and_others_do_not(plan: StudyPlan) -> None:
    finished = run(plan, Scripted(lambda task: Answer(task.key, "abc", "disk full", "make room")))
    assert (len(finished.failures), finished.stopped) == (SAME_FAILURES, "disk full")
    different = run(plan, Scripted(lambda task: Answer(task.key, "abc", f"broken {task.key}")))
    assert (len(different.failures), different.stopped) == (8, "")


def test_masks_that_can_be_made_do_not_end_a_row_of_equal_failures(plan: StudyPlan) -> None:
    """One worker makes a mask, then its retrainings fail, and so on."""

    def reply(task: Task) -> Answer:
        failed = plan.stages[task.key].spec.kind == "retrain"
        return Answer(task.key, "abc", "disk full") if failed else ran(task)

    done = {key: "mine" for key, stage in plan.stages.items() if stage.parent is None}
    finished = run_plan(plan, done, Scripted(reply, slots=1), Console(quiet=True))
    assert (len(finished.failures), finished.stopped) == (SAME_FAILURES, "disk full")


def test_an_interrupt_closes_the_engine_and_is_passed_on(plan: StudyPlan) -> None:
    def reply(task: Task) -> Answer:
        raise KeyboardInterrupt

    engine = Scripted(reply)
    with pytest.raises(KeyboardInterrupt):
        run(plan, engine)
    assert engine.closed


def limit(seconds: float) -> Limit:
    return Limit(Deadline.at(time.monotonic() + seconds))


def test_a_limit_that_is_over_leaves_everything_and_fails_nothing(plan: StudyPlan) -> None:
    engine = Scripted(ran)
    finished = run_plan(plan, {}, engine, Console(quiet=True), limit(0))
    assert (engine.seen, finished.runs, finished.failures) == ([], {}, [])
    assert finished.left == list(plan.stages)
    assert engine.closed


def test_a_limit_that_is_long_leaves_nothing_and_an_order_given_is_followed(plan: StudyPlan) -> None:
    engine, order = Scripted(ran, slots=1), telling_order(plan)
    finished = run_plan(plan, {}, engine, Console(quiet=True), limit(3_600), order)
    assert (len(finished.runs), finished.left) == (len(plan.stages), [])
    assert engine.seen == sorted(plan.stages, key=order.__getitem__)


def test_what_is_stopped_is_left_with_what_descends_from_it(plan: StudyPlan) -> None:
    """The trainings of one trial are stopped: its baseline begun, the rest not."""
    victim = next(iter(plan.stages))

    def reply(task: Task) -> Answer:
        return Answer(task.key, "abc", "its time was over", stopped=True) if task.key == victim else ran(task)

    finished = run_plan(plan, {}, Scripted(reply), Console(quiet=True), limit(3_600))
    assert finished.left == [key for key in plan.stages if victim in plan.lineage(key)]
    assert (finished.begun, finished.failures, len(finished.left)) == ({victim}, [], 7)


def test_what_failed_is_not_left_for_want_of_time(plan: StudyPlan) -> None:
    victim = next(iter(plan.stages))

    def reply(task: Task) -> Answer:
        return Answer(task.key, "abc", "broken") if task.key == victim else ran(task)

    assert run_plan(plan, {}, Scripted(reply), Console(quiet=True), limit(3_600)).left == []


def test_what_does_not_end_in_time_is_ended(plan: StudyPlan) -> None:
    """An engine that never answers, under a limit that was over long ago: `close` ends what is under way."""
    engine = Scripted(ran)
    some = limit(3_600)

    def nothing(seconds: float) -> list[Answer]:
        some.deadline = Deadline.at(0.0)
        return []

    engine.wait = nothing  # type: ignore[method-assign]
    finished = run_plan(plan, {}, engine, Console(quiet=True), some)
    assert (len(engine.tasks), engine.closed, finished.left) == (2, 1, list(plan.stages))


def test_a_line_for_each_stage_that_ends(plan: StudyPlan, capsys: pytest.CaptureFixture[str]) -> None:
    run_plan(plan, {}, Scripted(ran), Console())
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert (out, len(lines)) == ("", len(plan.stages))
    assert lines[-1].startswith(f"[{len(plan.stages)}/{len(plan.stages)}, ")
    assert all("] finished " in line for line in lines)


def test_the_meter_counts_what_is_done_and_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("rewindctl.engines.run.time.monotonic", lambda: now[0])
    meter = Meter(1000)
    assert meter.read(0) == (0.0, None)
    now[0] += 10
    assert meter.read(50) == (5.0, 190.0)
    meter.finished(100)
    now[0] += 10
    assert meter.read(0) == (5.0, 180.0)
    now[0] += 100  # what is older than a minute counts no more
    assert meter.read(0) == (0.0, None)


def test_a_board_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    board = Board(Console(), 4)
    board.line("begun")
    board.update(1, 2, 12.34, 90_061)
    board.line("finished a stage")
    assert capsys.readouterr().err == "[0/4, 0.0 it/s] begun\n[1/4, 12.3 it/s, 1 d 1:01:01 left] finished a stage\n"
    Board(Console(quiet=True), 4).line("nothing")
    assert capsys.readouterr() == ("", "")
