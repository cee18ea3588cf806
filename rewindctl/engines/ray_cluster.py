"""Stages as tasks of a Ray cluster. Ray retries none: the loop does, and the registry sees that none runs twice."""

import io
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewindctl.engines import ray_nodes
from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.local import GRACE_SECONDS
from rewindctl.engines.ray_start import ProgressActor, import_ray, join, last_line
from rewindctl.engines.ray_worker import TaskContext, run_stage
from rewindctl.engines.work import WorkerConfig
from rewindctl.errors import UsageError

REFRESH_SECONDS = 5.0
START_SECONDS = 30.0
# A process sees every GPU of its node and takes the one it is given: torch cannot change what it sees at its start.
SEE_EVERY_GPU = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}


class RayCluster:
    """An engine on the cluster at `address`, or on a Ray that is started here and ends with the command.

    `cpus` and `gpus` are what a stage takes: 1 CPU, and 1 GPU where the cluster has any. `check` comes first.
    Raises: UsageError for amounts that no stage can have, or without Ray.
    """

    def __init__(
        self, site: WorkerConfig, jobs: int | None, address: str | None, cpus: float | None, gpus: float | None
    ) -> None:
        self.slots = jobs or 1
        self.shown: Callable[[], None] = lambda: None
        self._jobs, self._address, self._gpus = jobs, address, gpus
        self._cpus = 1.0 if cpus is None else cpus
        _check_amounts(site.device, self._cpus, gpus)
        self._site = replace(
            site, threads=max(1, int(self._cpus)), data_dir=site.data_dir and Path(site.data_dir).absolute()
        )
        self._ray = import_ray()
        self._held = ExitStack()
        self._running: dict[Any, Task] = {}
        self._done: dict[str, int] = {}
        self._refreshed = 0.0
        self._progress: Any = None
        self._news: Any = None

    def check(self, data: Mapping[str, str]) -> None:
        """Join the cluster and check that stages can run there. stdout stays closed until `close`.

        `data`: the digest of each data set needed. Raises: RewindError, UsageError.
        """
        # Ray prints what befalls its nodes to stdout, from threads, whatever it is told; that is in its logs too.
        self._held.enter_context(redirect_stdout(_Nowhere()))
        self._held.callback(self._ray.shutdown)
        try:
            join(self._ray, self._address)
            self._check(data)
        except BaseException:
            self._held.close()
            raise

    def _check(self, data: Mapping[str, str]) -> None:
        nodes = ray_nodes.alive(self._ray)
        ray_nodes.check_store(nodes, self._site.tracking_uri)
        wants_gpu = self._site.device != "cpu" and any(node.gpus for node in nodes)
        gpus = self._gpus if self._gpus is not None else float(wants_gpu)
        if self._site.device == "cuda" and not gpus:
            raise UsageError("--device cuda: the Ray cluster has no GPU for it", "use --device auto, or check --gpus")
        self._gpus = gpus
        ray_nodes.check_resources(nodes, self._cpus, gpus)
        fit = [node for node in nodes if node.holds(self._cpus, gpus)]
        self._post = TaskContext(self._site, gpus, settings(os.environ))
        runtime = {"runtime_env": SEE_EVERY_GPU} if gpus else {}
        ray_nodes.check_nodes(self._ray, fit, self._post, data, runtime)
        share = {"num_cpus": self._cpus, "num_gpus": gpus, **runtime}
        self._stage = self._ray.remote(**share, max_retries=0, max_calls=0)(run_stage)
        self._start_progress()
        self._count_slots(nodes)

    def submit(self, task: Task) -> None:
        self._running[self._stage.remote(self._post, task, self._progress)] = task

    def wait(self, seconds: float) -> list[Answer]:
        finished, _ = self._ray.wait(list(self._running), timeout=seconds)
        if time.monotonic() - self._refreshed >= REFRESH_SECONDS:
            self._count_slots(ray_nodes.alive(self._ray))
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
        """Interrupt the running stages, wait until they are recorded, leave the cluster."""
        try:
            for result in self._running:
                self._ray.cancel(result)
            if self._running:
                self._ray.wait(list(self._running), num_returns=len(self._running), timeout=GRACE_SECONDS)
        finally:
            self._running.clear()
            self._held.close()

    def _answer(self, result: Any) -> Answer:
        task = self._running.pop(result)
        self._done.pop(task.key, None)
        known = self._ray.exceptions
        try:
            answer = self._ray.get(result)
        except known.TaskCancelledError:
            return Answer(task.key, message="its process was interrupted", crashed=True)
        except known.RayTaskError as error:
            return Answer(task.key, message=last_line(error), hint="this is a defect")
        except known.RayError as error:
            kind = type(error).__name__.removesuffix("Error")
            return Answer(task.key, message=f"its process died ({kind})", hint="see Ray's logs", crashed=True)
        assert isinstance(answer, Answer)
        return answer

    def _start_progress(self) -> None:
        """On this node, where it lives as long as the command."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=True)
        self._progress = self._ray.remote(num_cpus=0, scheduling_strategy=here)(ProgressActor).remote()
        self._news = self._progress.news.remote()
        self._ray.wait([self._news], timeout=START_SECONDS)  # its process takes seconds to start, as long as a stage

    def _count_slots(self, nodes: list[ray_nodes.RayNode]) -> None:
        """As many stages as asked for, else as the nodes hold that are there now."""
        self._refreshed = time.monotonic()
        self.slots = self._jobs or max(1, sum(node.holds(self._cpus, self._post.gpus) for node in nodes))


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that workers need: the access to MLflow and the folder of the data."""
    own = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")  # of the process that `mlflow run` started
    return {
        key: value
        for key, value in environment.items()
        if key == "REWINDCTL_DATA" or (key.startswith("MLFLOW_") and key not in own)
    }


def _check_amounts(device: str, cpus: float, gpus: float | None) -> None:
    if cpus <= 0:
        raise UsageError(f"--cpus {cpus:g} is not above 0", "give the CPUs that a stage takes, such as 1 or 0.5")
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise UsageError(f"--gpus {gpus:g} is not a share of a GPU", "give a fraction such as 0.25, or whole GPUs")
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: Ray gives each stage its GPU", "use --device auto, cuda or cpu")
