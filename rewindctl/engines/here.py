"""Engines of one stage after the other, in this process."""

from collections.abc import Callable

from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.work import Site, Worker, answer_to, outcome_of
from rewindctl.pipeline import Pipeline


class InProcess:
    """A worker of its own, which shows nothing but progress."""

    slots = 1

    def __init__(self, site: Site) -> None:
        self._done: dict[str, int] = {}
        self._worker = Worker(site, self._note)
        self._task: Task | None = None
        self.shown: Callable[[], None] = lambda: None

    def submit(self, task: Task) -> None:
        self._task = task

    def wait(self, seconds: float) -> list[Answer]:
        assert self._task is not None
        self._done = {}
        return [self._worker.run(self._task)]

    def progress(self) -> dict[str, int]:
        return self._done

    def close(self) -> None:
        """Nothing is ever under way between two calls."""

    def _note(self, key: str, done: int) -> None:
        self._done = {key: done}
        self.shown()


class InTurn:
    """The command's own pipeline, with a progress bar for each stage; `strict`: what a stage raises is passed on."""

    slots = 1

    def __init__(self, pipeline: Pipeline, *, strict: bool) -> None:
        self.shown: Callable[[], None] = lambda: None
        self._pipeline, self._strict = pipeline, strict
        self._task: Task | None = None

    def submit(self, task: Task) -> None:
        self._task = task

    def wait(self, seconds: float) -> list[Answer]:
        assert self._task is not None
        if self._task.remark:
            self._pipeline.console.say(self._task.remark)
        if not self._strict:
            return [answer_to(self._task, self._pipeline)]
        outcome = outcome_of(self._task, self._pipeline)
        return [Answer(self._task.key, outcome.run.run_id, reused=outcome.reused)]

    def progress(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        """Nothing is ever under way between two calls."""
