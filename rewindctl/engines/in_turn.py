"""One stage after the other in this process: by a worker that shows nothing, or as the command itself would."""

from collections.abc import Callable
from functools import partial

from rewindctl.console import Console
from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.run import Finished, run_plan
from rewindctl.engines.work import Worker, WorkerConfig, answer_to, outcome_of
from rewindctl.errors import RewindError
from rewindctl.pipeline import Outcome, Pipeline
from rewindctl.pipeline.plan import Plan

NOT_TRIED = RewindError("skipped after repeated identical failures")
Result = Outcome | RewindError


class _OneByOne:
    """An engine that runs a task in `wait`, by `run`."""

    slots = 1

    def __init__(self, run: Callable[[Task], Answer]) -> None:
        self._run, self._done = run, dict[str, int]()
        self._task: Task | None = None
        self.shown: Callable[[], None] = lambda: None

    def submit(self, task: Task) -> None:
        self._task = task

    def wait(self, seconds: float) -> list[Answer]:
        assert self._task is not None
        self._done = {}
        return [self._run(self._task)]

    def progress(self) -> dict[str, int]:
        return self._done

    def close(self) -> None:
        """Nothing is ever under way between two calls."""


class InProcess(_OneByOne):
    """By a worker of its own, which shows nothing but progress."""

    def __init__(self, site: WorkerConfig) -> None:
        super().__init__(Worker(site, self._note).run)

    def _note(self, key: str, done: int) -> None:
        self._done = {key: done}
        self.shown()


class InTurn(_OneByOne):
    """By the command's own pipeline, with a progress bar for each; `strict`: what a stage raises is passed on."""

    def __init__(self, pipeline: Pipeline, *, strict: bool) -> None:
        super().__init__(partial(_shown, pipeline, strict))


def _shown(pipeline: Pipeline, strict: bool, task: Task) -> Answer:
    if task.remark:
        pipeline.console.say(task.remark)
    if not strict:
        return answer_to(task, pipeline)
    outcome = outcome_of(task, pipeline)
    return Answer(task.key, outcome.run.run_id, reused=outcome.reused)


def run_in_turn(pipeline: Pipeline, plan: Plan) -> list[Outcome]:
    """The runs that a plan is asked for, found or made one after the other. Raises: what the first failure raised."""
    finished = run_plan(plan, {}, InTurn(pipeline, strict=True), Console(quiet=True))
    results = (result_at(place, plan, finished, pipeline) for place in range(len(plan.asked)))
    return [result for result in results if isinstance(result, Outcome)]


def result_at(place: int, plan: Plan, finished: Finished, pipeline: Pipeline) -> Result | None:
    """What became of what a plan is asked for there; None while it is under way or waits."""
    key = plan.asked[place]
    if key in finished.runs:
        reused = key in finished.reused or key in plan.asked[:place]
        return Outcome(pipeline.registry.get(finished.runs[key]), reused)
    chain = plan.lineage(key)
    failures = (failure for failure in finished.failures if failure.key in chain)
    return next((RewindError(failure.message, failure.hint) for failure in failures), None)
