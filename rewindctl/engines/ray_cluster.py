"""Stages on a Ray cluster. Ray retries none: the loop does, and the registry sees that none runs twice."""

import io
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from rewindctl.engines import ray_nodes
from rewindctl.engines.capacity import MOST_ON_A_GPU
from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.ray_host import LaneHost
from rewindctl.engines.ray_lanes import LaneHosts
from rewindctl.engines.ray_start import import_ray, join
from rewindctl.engines.ray_tasks import StageTasks
from rewindctl.engines.ray_worker import TaskContext
from rewindctl.engines.work import WorkerConfig
from rewindctl.errors import UsageError

REFRESH_SECONDS = 5.0
# A process sees every GPU of its node and takes the one it is given: torch cannot change what it sees at its start.
SEE_EVERY_GPU = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}


class RayCluster:
    """An engine on the cluster at `address`, or on a Ray that is started here and ends with the command.

    `cpus` and `gpus` are what a process takes: 1 CPU, and 1 GPU where the cluster has any. `lanes`: stages at once in
    it; MOST_ON_A_GPU where they share a fused step on a whole GPU, else one. `check` comes first.
    Raises: UsageError for amounts that no stage can have, or without Ray.
    """

    def __init__(
        self,
        site: WorkerConfig,
        jobs: int | None,
        address: str | None,
        cpus: float | None,
        gpus: float | None,
        lanes: int | None = None,
    ) -> None:
        self.slots = jobs or 1
        self.shown: Callable[[], None] = lambda: None
        self._jobs, self._address, self._gpus, self._lanes = jobs, address, gpus, lanes
        self._cpus = 1.0 if cpus is None else cpus
        _check_amounts(site.device, self._cpus, gpus, lanes)
        self._site = replace(
            site, threads=max(1, int(self._cpus)), data_dir=site.data_dir and Path(site.data_dir).absolute()
        )
        self._ray = import_ray()
        self._held = ExitStack()
        self._refreshed = 0.0

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
        post = TaskContext(self._site, gpus, settings(os.environ))
        runtime = {"runtime_env": SEE_EVERY_GPU} if gpus else {}
        ray_nodes.check_nodes(self._ray, fit, post, data, runtime)
        self._stages = self._stages_in(post, {"num_cpus": self._cpus, "num_gpus": gpus, **runtime})
        self._look_around(nodes)

    def submit(self, task: Task) -> None:
        self._stages.submit(task)

    def wait(self, seconds: float) -> list[Answer]:
        if time.monotonic() - self._refreshed >= REFRESH_SECONDS:
            self._look_around(ray_nodes.alive(self._ray))
        answers = self._stages.wait(seconds)
        self.slots = self._stages.slots(self._jobs)
        return answers

    def progress(self) -> dict[str, int]:
        return self._stages.progress()

    def close(self) -> None:
        """Interrupt the running stages, wait until they are recorded, leave the cluster."""
        try:
            self._stages.close()
        finally:
            self._held.close()

    def _stages_in(self, post: TaskContext, share: dict[str, Any]) -> StageTasks | LaneHosts:
        """In processes of one stage or of several; each takes `share`."""
        on_gpu = post.gpus >= 1 and self._site.device != "cpu"
        shares_a_step = on_gpu and self._site.policy.arithmetic.step == "fused"
        if self._lanes == 1 or (self._lanes is None and not shares_a_step):
            return StageTasks(self._ray, post, share)
        actor = self._ray.remote(**share, max_restarts=0, max_task_retries=0)(LaneHost)
        return LaneHosts(self._ray, lambda: actor.remote(post, self._lanes), self._lanes or MOST_ON_A_GPU)

    def _look_around(self, nodes: list[ray_nodes.RayNode]) -> None:
        """As many processes as the nodes hold that are there now."""
        self._refreshed = time.monotonic()
        self._stages.room = sum(node.holds(self._cpus, self._gpus or 0.0) for node in nodes)
        if isinstance(self._stages, LaneHosts):
            self._stages.look({node.id for node in nodes})
        self.slots = self._stages.slots(self._jobs)


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


def _check_amounts(device: str, cpus: float, gpus: float | None, lanes: int | None) -> None:
    if cpus <= 0:
        raise UsageError(f"--cpus {cpus:g} is not above 0", "give the CPUs that a stage takes, such as 1 or 0.5")
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise UsageError(f"--gpus {gpus:g} is not a share of a GPU", "give a fraction such as 0.25, or whole GPUs")
    if lanes is not None and lanes < 1:
        raise UsageError(f"--lanes {lanes} is not above 0", "give the stages at once in a process, such as 4")
    if gpus is not None and 0 < gpus < 1 and (lanes or 1) > 1:
        raise UsageError(f"--lanes {lanes} with --gpus {gpus:g}: lanes share a whole GPU", "leave --gpus out")
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: Ray gives each stage its GPU", "use --device auto, cuda or cpu")
