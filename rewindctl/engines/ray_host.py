"""The actor of a Ray cluster that has a GPU, or some cores, to itself: it holds an engine with several lanes."""

import os
from dataclasses import dataclass, replace

from rewindctl.engines.capacity import MOST_ON_A_GPU
from rewindctl.engines.choose import lanes_engine
from rewindctl.engines.contract import Answer, Engine, Task
from rewindctl.engines.ray_worker import TaskContext, given_device
from rewindctl.errors import RewindError


@dataclass(frozen=True)
class HostPlace:
    """Where an actor runs, and how many stages at once."""

    node: str
    lanes: int


@dataclass(frozen=True)
class HostNews:
    """What happened since the last turn: the stages that ended, and the updates made of those under way."""

    answers: list[Answer]
    progress: dict[str, int]


class LaneHost:
    """An actor: the command calls its methods one after the other, from `begin` to `close`."""

    def __init__(self, post: TaskContext, lanes: int | None) -> None:
        os.environ.update(post.settings)
        self._post, self._lanes = post, lanes
        self._engine: Engine | None = None
        self._error = RewindError("the process has not begun", "this is a defect")
        self._running: set[str] = set()

    def begin(self) -> HostPlace:
        """Make the engine; what is in the way is the answer to each task later."""
        import ray

        try:
            self._engine = engine_of(self._post, self._lanes)
        except RewindError as error:
            self._error = error
        return HostPlace(ray.get_runtime_context().get_node_id(), self._engine.slots if self._engine else 1)

    def turn(self, tasks: list[Task], seconds: float) -> HostNews:
        """Take tasks, then wait at most so long for an answer."""
        answers = [answer for task in tasks if (answer := self._refusal(task)) is not None]
        if self._engine is None:
            return HostNews(answers, {})
        if self._running:
            answers += self._engine.wait(0 if answers else seconds)
        self._running -= {answer.key for answer in answers}
        return HostNews(answers, self._engine.progress())

    def close(self) -> None:
        """Interrupt the lanes, wait until they are recorded."""
        if self._engine is not None:
            self._engine.close()

    def _refusal(self, task: Task) -> Answer | None:
        """Start a task; the answer where that cannot be."""
        try:
            if self._engine is None:
                raise self._error
            self._engine.submit(task)
        except RewindError as error:
            return Answer(task.key, None, error.message, error.hint)
        self._running.add(task.key)
        return None


def engine_of(post: TaskContext, lanes: int | None) -> Engine:
    """The engine of this process, which shares its threads among the lanes; None: MOST_ON_A_GPU.

    Raises: RewindError.
    """
    device = given_device(post)
    count = lanes or MOST_ON_A_GPU
    threads = max(1, post.site.threads // count)
    return lanes_engine(replace(post.site, device=device, threads=threads), count)
