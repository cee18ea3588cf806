"""The functions that run in the processes of a Ray cluster: a stage, and the check of a node."""

import gc
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from rewindctl import __version__
from rewindctl.datasets import load_dataset
from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.work import Worker, WorkerConfig
from rewindctl.errors import DataError, RewindError
from rewindctl.registry.store.connect import connect


@dataclass(frozen=True)
class TaskContext:
    """What each task of a command needs: the site, its share of a GPU (0: none), settings of the command's process."""

    site: WorkerConfig
    gpus: float
    settings: Mapping[str, str]


@dataclass(frozen=True)
class NodeCheck:
    """What a node answered: its version, and what is wrong with it."""

    version: str
    message: str = ""
    hint: str = ""


_kept: tuple[WorkerConfig, Worker] | None = None


def run_stage(post: TaskContext, task: Task, progress: Any) -> Answer:
    """Run a stage in this process, whose worker stays for the next one."""
    # Ray interrupts a task through the handler of SIGINT; a process started from a background job has none.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(post.settings)
    try:
        worker = _worker(replace(post.site, device=given_device(post)), post.gpus)
    except RewindError as error:
        return Answer(task.key, None, error.message, error.hint)
    note = progress.note.options(num_returns=0)
    worker.report = worker.console.report = note.remote
    return worker.run(task)


def look(post: TaskContext, data: Mapping[str, str]) -> NodeCheck:
    """Whether stages can run here: the tracking store answers, the GPU is there, the data sets are those meant."""
    os.environ.update(post.settings)
    try:
        connect(post.site.tracking_uri)
        torch.device(given_device(post))
        for name, digest in data.items():
            _check_data(name, digest, load_dataset(name, post.site.data_dir).digest)
    except RewindError as error:
        return NodeCheck(__version__, error.message, error.hint)
    return NodeCheck(__version__)


def given_device(post: TaskContext) -> str:
    """The device of this task: the GPU that Ray gave it, else the CPU. Raises: RewindError."""
    if not post.gpus or post.site.device == "cpu":
        return "cpu"
    import ray

    if not torch.cuda.is_available():
        raise RewindError("Ray has GPUs here that torch does not see", "check the driver, or run with --gpus 0")
    return f"cuda:{place_of(ray.get_gpu_ids(), os.environ.get('CUDA_VISIBLE_DEVICES'))}"


def place_of(given: list[int | str], visible: str | None) -> int:
    """Where torch has the first of the GPUs `given`; Ray names them as `CUDA_VISIBLE_DEVICES` does where it is set."""
    places = visible.split(",") if visible else None
    return min((places.index(str(gpu)) if places else int(gpu) for gpu in given), default=0)


def _worker(site: WorkerConfig, share: float) -> Worker:
    """This process's worker, made anew when another GPU is given to it."""
    global _kept  # noqa: PLW0603 (what a process keeps from task to task has no other place)
    if _kept is not None and _kept[0] == site:
        return _kept[1]
    _kept = None
    gc.collect()
    if site.device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0), torch.device(site.device))
    worker = Worker(site, lambda key, done: None)
    _kept = site, worker
    return worker


def _check_data(name: str, meant: str, found: str) -> None:
    if found != meant:
        raise DataError(
            f"data set {name!r} is {found[:12]} here, {meant[:12]} in the plan", "give every node the same data"
        )
