"""A task of the Ray cluster for each stage: Ray places it, and its process stays for the next one."""

from contextlib import suppress
from typing import Any

from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.local import GRACE_SECONDS
from rewindctl.engines.ray_start import ProgressActor, last_line
from rewindctl.engines.ray_worker import TaskContext, run_stage

START_SECONDS = 30.0


class StageTasks:
    """The stages under way; each takes the resources `share`. The cluster has room for `room` of them."""

    def __init__(self, ray: Any, post: TaskContext, share: dict[str, Any]) -> None:
        self.room = 0
        self._ray, self._post = ray, post
        self._stage = ray.remote(**share, max_retries=0, max_calls=0)(run_stage)
        self._running: dict[Any, Task] = {}
        self._done: dict[str, int] = {}
        self._progress: Any = None
        self._news: Any = None
        self._start_progress()

    def slots(self, jobs: int | None) -> int:
        """As many as asked for, of which Ray keeps some waiting, else as there is room for."""
        return jobs or max(1, self.room)

    def submit(self, task: Task) -> None:
        self._running[self._stage.remote(self._post, task, self._progress)] = task

    def wait(self, seconds: float) -> list[Answer]:
        finished, _ = self._ray.wait(list(self._running), timeout=seconds)
        return [self._answer(result) for result in finished]

    def progress(self) -> dict[str, int]:
        ready, _ = self._ray.wait([self._news], timeout=0)
        if ready:
            with suppress(self._ray.exceptions.RayError):  # its node is gone: the stages need it not
                self._done |= self._ray.get(ready[0])
            self._news = self._progress.news.remote()
        under_way = {task.key for task in self._running.values()}
        return {key: done for key, done in self._done.items() if key in under_way}

    def close(self) -> None:
        """Interrupt the running stages, wait until they are recorded."""
        try:
            for result in self._running:
                self._ray.cancel(result)
            if self._running:
                self._ray.wait(list(self._running), num_returns=len(self._running), timeout=GRACE_SECONDS)
        finally:
            self._running.clear()

    def _answer(self, result: Any) -> Answer:
        task = self._running.pop(result)
        self._done.pop(task.key, None)
        try:
            answer = self._ray.get(result)
        except self._ray.exceptions.RayError as error:
            return end_of(self._ray, task.key, error)
        assert isinstance(answer, Answer)
        return answer

    def _start_progress(self) -> None:
        """On this node, where it lives as long as the command."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=True)
        self._progress = self._ray.remote(num_cpus=0, scheduling_strategy=here)(ProgressActor).remote()
        self._news = self._progress.news.remote()
        self._ray.wait([self._news], timeout=START_SECONDS)  # its process takes seconds to start, as long as a stage


def end_of(ray: Any, key: str, error: BaseException) -> Answer:
    """The answer to a task whose process raised an error of Ray: interrupted, a defect, or dead."""
    known = ray.exceptions
    if isinstance(error, known.TaskCancelledError):
        return Answer(key, message="its process was interrupted", crashed=True)
    if isinstance(error, known.RayTaskError):
        return Answer(key, message=last_line(error), hint="this is a defect")
    kind = type(error).__name__.removesuffix("Error")
    return Answer(key, message=f"its process died ({kind})", hint="see Ray's logs", crashed=True)
