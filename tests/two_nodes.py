"""A real Ray cluster of two nodes on this machine, a tracking server that both reach, and studies to run there."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import free_port

from rewindctl.datasets.inventory import facts_of
from rewindctl.engines.ray_cluster import RayCluster
from rewindctl.engines.run import Finished
from rewindctl.engines.work import WorkerConfig
from rewindctl.paper.plan import StudyPlan, make_plan
from rewindctl.paper.study import parse_study
from rewindctl.pipeline import RunPolicy
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.runs.writer import resume_file

SECOND = "127.0.0.2"  # this machine, by another address than the first node's
DEADLINE_SECONDS = 100
STUDY = """
schema: 1
name: two-nodes
title: A dense network, pruned, retrained in two ways
panels:
  - model: resnet8
    dataset: digits
    iterations: {iterations}
    {rest}
"""
OFTEN = RunPolicy(checkpoint_seconds=0.2)
LONG = 200  # iterations of a stage that something happens to
METHODS = "[{method: lr_rewind}, {method: weight_rewind, k: 6}]"
LEAST = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False}


@dataclass(frozen=True)
class Cluster:
    """Two nodes of one CPU each, and the tracking server that both reach; the second says that it has a GPU."""

    address: str
    uri: str
    nodes: Any
    second: Any
    state: str

    @property
    def raylet(self) -> int:
        """The process that the second node's workers are children of."""
        return raylet_of(self.second)

    def engine(self, site: WorkerConfig, gpus: float | None = None, lanes: int | None = None) -> RayCluster:
        engine = RayCluster(site, None, self.address, None, gpus, lanes)
        engine.check({"digits": facts_of("digits", None).digest})
        return engine


def raylet_of(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


@contextmanager
def serving(store: Path, folder: Path, host: str) -> Iterator[str]:
    """A tracking server at an address that is not the loopback one."""
    port = str(free_port())
    (folder / "server.db").write_bytes(store.read_bytes())
    line = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    line += ["--artifacts-destination", str(folder / "artifacts"), "--host", host, "--port", port]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*line, "--workers", "1", "--allowed-hosts", "*"],
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for_health(f"http://{host}:{port}", process)
        yield f"http://{host}:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the group that was started above
        process.wait(timeout=60)


def wait_for_health(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"no server at {address}")


@contextmanager
def two_nodes(uri: str, state: str) -> Iterator[Cluster]:
    from ray.cluster_utils import Cluster as RayNodes

    nodes = RayNodes(initialize_head=True, head_node_args=LEAST)
    try:
        second = nodes.add_node(node_ip_address=SECOND, **LEAST | {"num_gpus": 1})
        yield Cluster(nodes.address, uri, nodes, second, state)
    finally:
        nodes.shutdown()


def make(methods: str = METHODS, iterations: int = 24, seeds: tuple[int, ...] = (0,)) -> StudyPlan:
    rest = f"schedule: one_shot\n    sparsities: [0.5]\n    methods: {methods}" if methods else "schedule: dense"
    study = parse_study(STUDY.format(iterations=iterations, rest=rest), "test")
    return make_plan([study], lambda name: facts_of(name, None), seeds)


def found(registry: Registry, plan: StudyPlan) -> dict[str, str]:
    runs = {run.fingerprint: run.run_id for run in registry.search() if run.finished}
    return {key: runs[key] for key in plan.stages if key in runs}


def finished_once(registry: Registry, plan: StudyPlan, done: Finished) -> list[RunRecord]:
    """The runs of the experiment, after a look that no stage was lost, made twice or left open."""
    runs = registry.search()
    assert Counter(run.fingerprint for run in runs if run.finished) == dict.fromkeys(plan.stages, 1)
    assert not [run.run_id for run in runs if run.status == "RUNNING"]
    assert done.runs == found(registry, plan)
    assert (done.failures, done.stopped) == ([], "")
    for run in runs:
        key = plan.stages[run.fingerprint].parent
        assert run.parent_id == (done.runs[key] if key else None)
    return runs


def anyone(pid: int) -> bool:
    return True


def sabotage(registry: Registry, act: Callable[[int], object], chosen: Callable[[int], bool] = anyone) -> None:
    """From a thread, do `act` to the process (one that is `chosen`) of a stage that has a resume point."""

    def watch() -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            for run in registry.search():
                if run.status == "RUNNING" and resume_file(run.run_id).is_file() and chosen(owner(run)):
                    act(owner(run))
                    return
            time.sleep(0.1)

    threading.Thread(target=watch, daemon=True).start()


def owner(run: RunRecord) -> int:
    return int(run.tags[tag.OWNER].split(":")[1])


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
