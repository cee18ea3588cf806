"""A plan from its first stage to its last: stages to an engine as they become ready, progress, failures."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rewindctl.console import Board, Console
from rewindctl.engines.contract import Answer, Engine, Task
from rewindctl.engines.schedule import Limit, StageFailure, StageQueue
from rewindctl.pipeline.plan import Plan, Stage

MOST_ATTEMPTS = 3
SAME_FAILURES = 5  # in a row with one message: the fault is not the stages'
WINDOW_SECONDS = 60.0
POLL_SECONDS = 0.5


@dataclass
class Finished:
    """The run of every finished stage, and the failures. `stopped`: why the other stages were skipped.

    `reused`: the stages whose run was there. `left`: those that there was no time for, `begun` the ones of them that go
    on from a point.
    """

    runs: dict[str, str]
    failures: list[StageFailure]
    stopped: str = ""
    reused: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)
    begun: set[str] = field(default_factory=set)

    @property
    def blocked(self) -> int:
        """The number of stages that did not run because a stage before them failed."""
        return sum(failure.blocked for failure in self.failures)


def run_plan(
    plan: Plan,
    done: Mapping[str, str],
    engine: Engine,
    console: Console,
    limit: Limit | None = None,
    order: Mapping[str, int] | None = None,
    ended: Callable[[Finished], None] = lambda finished: None,
) -> Finished:
    """Run the stages to do. A failure does not stop the others; a stage is tried again if its worker dies.

    An interrupt ends what is under way, as far as it can be resumed, and is passed on. With a `limit`, whose deadline
    the engine's workers know too, the rest is left. `order` is the place of each stage, the schedule's own without.
    `ended` is told after each stage how far it all is.
    """
    done = {**done, **{key: run.run_id for key, run in plan.given.items()}}
    schedule = StageQueue(plan, done, longest_first=engine.slots > 1, order=order)
    return _Loop(plan, schedule, engine, console, limit, ended).run()


class _Loop:
    def __init__(
        self,
        plan: Plan,
        schedule: StageQueue,
        engine: Engine,
        console: Console,
        limit: Limit | None,
        ended: Callable[[Finished], None],
    ) -> None:
        self.plan, self.schedule, self.engine, self.console, self.limit = plan, schedule, engine, console, limit
        self.finished, self.ended = Finished(schedule.runs, schedule.failures, reused=set(schedule.runs)), ended
        self.running: set[str] = set()
        self.attempts: Counter[str] = Counter()
        self.streak: list[str] = []
        self.meter = Meter(sum(plan.stages[key].iterations for key in plan.stages if key not in schedule.runs))

    def run(self) -> Finished:
        finished = self.finished
        with self.console.board(len(self.plan.stages)) as board:
            self.engine.shown = lambda: self._show(board)
            try:
                while not finished.stopped and self._fill() and not (self.limit and self.limit.is_spent):
                    self._show(board)
                    for answer in self.engine.wait(POLL_SECONDS):
                        finished.stopped = self._take(answer, board) or finished.stopped
                        self.ended(finished)
                self._show(board)
            finally:
                self.engine.close()
        finished.left = self._left() if self.limit else []
        return finished

    def _left(self) -> list[str]:
        """What neither is done, nor failed, nor waits for what failed."""
        lost = self.schedule.lost
        return [key for key in self.plan.stages if key not in self.schedule.runs and key not in lost]

    def _fill(self) -> bool:
        """Give the engine what is ready; whether anything is under way."""
        while len(self.running) < self.engine.slots and (stage := self._next()) is not None:
            self.running.add(stage.key)
            if self.limit:
                self.limit.begun(stage)
            parent = self.schedule.runs[stage.parent] if stage.parent else None
            self.engine.submit(Task(stage.key, stage.spec.canonical(), parent, self.plan.remarks.get(stage.key, "")))
        return bool(self.running)

    def _next(self) -> Stage | None:
        return self.schedule.take(self.limit.allows) if self.limit else self.schedule.take()

    def _take(self, answer: Answer, board: Board) -> str:
        """Note an answer; the reason to stop where there is one."""
        self.running.discard(answer.key)
        stage = self.plan.stages[answer.key]
        if self.limit:
            self.limit.ended(stage)
        if answer.stopped:
            self.finished.begun |= {answer.key} if answer.run_id else set()
            board.line(f"stopped  {self.plan.label(stage)}: {answer.message}")
        elif answer.crashed and (again := self.attempts[answer.key] + 1) < MOST_ATTEMPTS:
            self.attempts[answer.key] = again
            self.schedule.put_back(answer.key)
            board.line(f"again    {self.plan.label(stage)}: {answer.message}")
        elif answer.message:
            self.schedule.failed(answer.key, self.plan.label(stage), answer.message, answer.hint, answer.run_id)
            board.line(f"failed   {self.plan.label(stage)}: {answer.message}")
            return self._same_again(answer.message)
        else:
            assert answer.run_id is not None
            self.schedule.finished(answer.key, answer.run_id)
            self.finished.reused |= {answer.key} if answer.reused else set()
            self.meter.finished(stage.iterations)
            if stage.iterations:  # a mask that could be made says nothing of what trains
                self.streak.clear()
            self._show(board)
            board.line(f"finished {self.plan.label(stage)} ({answer.run_id[:8]})")
        return ""

    def _same_again(self, message: str) -> str:
        self.streak = [*self.streak, message] if self.streak[-1:] == [message] else [message]
        return message if len(self.streak) >= SAME_FAILURES and self.schedule.waiting else ""

    def _show(self, board: Board) -> None:
        speed, left = self.meter.read(sum(self.engine.progress().values()))
        board.update(len(self.schedule.runs), len(self.running), speed, left)


class Meter:
    """Updates per second in sum over the last minute, and the seconds left at that speed."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self._seen: deque[tuple[float, int]] = deque()

    def finished(self, iterations: int) -> None:
        self.done += iterations

    def read(self, under_way: int) -> tuple[float, float | None]:
        now, made = time.monotonic(), self.done + under_way
        self._seen.append((now, made))
        while now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()
        began, before = self._seen[0]
        speed = max(0, made - before) / (now - began) if now > began else 0.0
        return speed, max(0, self.total - made) / speed if speed > 0 else None
