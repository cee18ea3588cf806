"""Which stage is next: parents before children; what a failure blocks, and what a time limit allows."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rewindctl.durations import Deadline
from rewindctl.pipeline.plan import Plan, Stage


@dataclass(frozen=True)
class StageFailure:
    """A stage that failed: why, what to do, the run that recorded it, and how many stages wait for it."""

    key: str
    label: str
    message: str
    hint: str
    run_id: str | None
    blocked: int

    @property
    def text(self) -> str:
        """What failed, in one line."""
        run = f" (run {self.run_id})" if self.run_id else ""
        return f"failed: {self.label}{run}: {self.message}" + (f"; {self.hint}" if self.hint else "")


class StageQueue:
    """The queue of a plan's unfinished stages, in the order of readiness, and the run of each finished one.

    With one worker the order is the plan's, trial by trial. With several, the stage with most work after it goes
    first: iterative chains are what everybody would wait for in the end. `order`: the place of each stage, instead.
    """

    def __init__(
        self, plan: Plan, done: Mapping[str, str], *, longest_first: bool, order: Mapping[str, int] | None = None
    ) -> None:
        self.plan = plan
        self.runs = {key: run for key, run in done.items() if key in plan.stages}
        self.failures: list[StageFailure] = []
        self._children: dict[str, list[str]] = {key: [] for key in plan.stages}
        for key, stage in plan.stages.items():
            if stage.parent is not None:
                self._children[stage.parent].append(key)
        self._order = self._ranks(longest_first) if order is None else {key: (0, order[key]) for key in plan.stages}
        self._waiting = [key for key in plan.stages if key not in self.runs]
        self._waiting.sort(key=self._order.__getitem__)
        self._blocked: set[str] = set()

    def take(self, allowed: Callable[[Stage], bool] = lambda stage: True) -> Stage | None:
        """The next stage that is allowed and whose parent is done, taken out; None when there is none now."""
        for index, key in enumerate(self._waiting):
            stage = self.plan.stages[key]
            if (stage.parent is None or stage.parent in self.runs) and allowed(stage):
                del self._waiting[index]
                return stage
        return None

    def put_back(self, key: str) -> None:
        """A stage that was taken and has to be run again."""
        self._waiting.append(key)
        self._waiting.sort(key=self._order.__getitem__)

    def finished(self, key: str, run_id: str) -> None:
        self.runs[key] = run_id

    def failed(self, key: str, label: str, message: str, hint: str, run_id: str | None) -> None:
        """Mark the stage and all its descendants as lost."""
        descendants = self._descendants(key)
        new = [child for child in descendants if child not in self._blocked and child not in self.runs]
        self._blocked.update(descendants)
        self._waiting = [waiting for waiting in self._waiting if waiting not in self._blocked]
        self.failures.append(StageFailure(key, label, message, hint, run_id, len(new)))

    @property
    def lost(self) -> set[str]:
        """The stages that failed, and those that wait for them."""
        return self._blocked | {failure.key for failure in self.failures}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def _descendants(self, key: str) -> list[str]:
        found, front = [], list(self._children[key])
        while front:
            found.append(front.pop())
            front += self._children[found[-1]]
        return found

    def _ranks(self, longest_first: bool) -> dict[str, tuple[int, int]]:
        """What each stage is sorted by: the updates on the longest way down from it, then its place in the plan."""
        below: dict[str, int] = {}
        for key in reversed(self.plan.stages):  # children come after their parents
            longest = max((below[child] for child in self._children[key]), default=0)
            below[key] = self.plan.stages[key].iterations + longest
        return {key: (-below[key] if longest_first else 0, place) for place, key in enumerate(self.plan.stages)}


FIRST_SECONDS = 3.0  # what a training's start takes at most, and a mask is thought to take until one was seen
COLD_SECONDS = 15.0  # what a process takes to begin with its first stage
OVERTIME_SECONDS = 5.0  # in which what is under way has to end by itself


@dataclass
class Limit:
    """Trainings stop by themselves at `deadline`, with a point to go on from; a mask is begun only if it can end."""

    deadline: Deadline
    cold: bool = False  # stages run in processes that have to be started
    _longest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _began: dict[str, float] = field(default_factory=dict)

    def allows(self, stage: Stage) -> bool:
        """Whether a stage may begin now: a training could at least make a start, anything else would end in time."""
        needed = FIRST_SECONDS if stage.iterations else self._longest[stage.spec.kind] or FIRST_SECONDS
        return self.deadline.left() > needed + (COLD_SECONDS if self.cold else 0.0)

    def begun(self, stage: Stage) -> None:
        self._began[stage.key] = time.monotonic()

    def ended(self, stage: Stage) -> None:
        self.cold = False
        seconds = time.monotonic() - self._began.pop(stage.key)
        self._longest[stage.spec.kind] = max(seconds, self._longest[stage.spec.kind])

    @property
    def is_spent(self) -> bool:
        """Whether stages that should have stopped by themselves are interrupted now."""
        return self.deadline.left() < -OVERTIME_SECONDS
