"""One stage after the other in this process, by a silent worker or by the command's own pipeline."""

from collections.abc import Callable
from functools import partial

from rewindctl.console import Console
from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.run import Finished, run_plan
from rewindctl.engines.work import Worker, WorkerConfig, answer_to, outcome_of
from rewindctl.errors import RewindError
from rewindctl.pipeline import Outcome, Pipeline
from rewindctl.pipeline.plan import Plan
from rewindctl.registry import RunRecord

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
        """Nothing to close: no stage runs between two calls."""


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
        super().__init__(self._show)
        self._pipeline, self._strict = pipeline, strict
        self._runs: dict[str, RunRecord] = {}

    def run_of(self, run_id: str) -> RunRecord:
        """A finished run, from memory if it was found or made here, else from the store. Raises: RegistryError."""
        return self._runs.get(run_id) or self._pipeline.registry.get(run_id)

    def _show(self, task: Task) -> Answer:
        if task.remark:
            self._pipeline.console.say(task.remark)
        if not self._strict:
            return answer_to(task.key, partial(self._outcome, task))
        outcome = self._outcome(task)
        return Answer(task.key, outcome.run.run_id, reused=outcome.reused)

    def _outcome(self, task: Task) -> Outcome:
        outcome = outcome_of(task, self._pipeline)
        self._runs[outcome.run.run_id] = outcome.run
        return outcome


def run_in_turn(pipeline: Pipeline, plan: Plan) -> list[Outcome]:
    """The runs that a plan is asked for, found or made one after the other. Raises: what the first failure raised."""
    engine = InTurn(pipeline, strict=True)
    finished = run_plan(plan, {}, engine, Console(quiet=True))
    results = (result_at(place, plan, finished, engine.run_of) for place in range(len(plan.asked)))
    return [result for result in results if isinstance(result, Outcome)]


def result_at(place: int, plan: Plan, finished: Finished, run_of: Callable[[str], RunRecord]) -> Result | None:
    """The result of an asked stage; None while it runs or waits. `run_of`: a run by its ID."""
    key = plan.asked[place]
    if key in finished.runs:
        reused = key in finished.reused or key in plan.asked[:place]
        return Outcome(plan.given.get(key) or run_of(finished.runs[key]), reused)
    chain = plan.lineage(key)
    failures = (failure for failure in finished.failures if failure.key in chain)
    return next((RewindError(failure.message, failure.hint) for failure in failures), None)
