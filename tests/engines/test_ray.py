"""Studies on a real Ray cluster of two nodes: each stage once, whatever dies under way."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from servers import free_port
from two_nodes import (
    DEADLINE_SECONDS,
    LONG,
    METHODS,
    OFTEN,
    SECOND,
    Cluster,
    finished_once,
    found,
    make,
    owner,
    parent,
    sabotage,
)

from rewindctl.console import Console
from rewindctl.durations import Deadline
from rewindctl.engines import ray_start
from rewindctl.engines.in_turn import InProcess
from rewindctl.engines.ray_cluster import RayCluster
from rewindctl.engines.ray_tasks import StageTasks
from rewindctl.engines.run import run_plan
from rewindctl.engines.schedule import Limit
from rewindctl.engines.work import WorkerConfig
from rewindctl.errors import RewindError, UsageError
from rewindctl.pipeline import RunPolicy
from rewindctl.registry import Registry
from rewindctl.registry.runs.writer import resume_file
from rewindctl.rewinding.checkpoints import TrainState

ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'rewindctl[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.ray]

DIVERGES = "{method: finetune, lr: 1.0e+9}"
QUIET = Console(quiet=True)


def test_a_study_has_the_bytes_of_the_local_engine_and_a_failing_cell_fails_alone(
    cluster: Cluster, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = WorkerConfig(cluster.uri, "study", "cpu", threads=1)
    whole, good = make(f"{METHODS[:-1]}, {DIVERGES}]"), make(METHODS)
    engine = cluster.engine(remote)
    assert engine.slots == 2
    done = run_plan(whole, {}, engine, Console())

    registry = Registry(cluster.uri, "study")
    (failure,) = done.failures
    assert "training loss is" in failure.message
    failed = registry.get(failure.run_id or "")
    assert failed.status == "FAILED"
    finished = [run for run in registry.search() if run.status != "FAILED"]
    assert {run.fingerprint: run.run_id for run in finished} == done.runs == found(registry, good)
    assert len(finished) == len(good.stages)
    assert capsys.readouterr().out == ""

    local = Registry(f"sqlite:///{store}", "study")
    run_plan(good, {}, InProcess(WorkerConfig(local.uri, "study", "cpu", threads=1)), Console(quiet=True))
    for run in finished:
        twin = registry.manifest(run), local.manifest(local.find(run.fingerprint) or run)
        weights = [name for name in twin[0] if name.endswith(".safetensors")]
        assert weights
        assert {name: twin[0][name] for name in weights} == {name: twin[1][name] for name in weights}

    again = run_plan(whole, found(registry, whole), InProcess(remote), Console(quiet=True))
    new = [run for run in registry.search() if run.run_id not in done.runs.values()]
    assert [(run.status, run.fingerprint) for run in new] == [("FAILED", failed.fingerprint)] * 2
    assert again.runs == done.runs


def test_the_stage_of_a_killed_worker_is_gone_on_with_where_its_share_of_a_gpu_is(
    cluster: Cluster, state: None
) -> None:
    plan, registry = make("[{method: lr_rewind}]", LONG), Registry(cluster.uri, "killed")
    engine = cluster.engine(WorkerConfig(cluster.uri, "killed", "cpu", policy=OFTEN, threads=1), gpus=0.5)
    assert engine.slots == 1  # the node with the GPU has one CPU
    killed: list[int] = []

    def act(pid: int) -> None:
        assert parent(pid) == cluster.raylet
        assert isinstance(engine._stages, StageTasks)
        ray.kill(engine._stages._progress)  # nobody needs it
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    sabotage(registry, act)
    done = run_plan(plan, {}, engine, Console())
    assert killed
    runs = finished_once(registry, plan, done)
    assert {run.status for run in runs} == {"FINISHED"}  # the stage went on in its run
    assert killed[0] not in {owner(run) for run in runs}


def test_a_study_whose_time_is_over_stops_with_its_points_and_goes_on(cluster: Cluster, state: None) -> None:
    """The trainings of both nodes: no point is kept before the end."""
    plan, registry = make("", 500 * LONG, seeds=(0, 1)), Registry(cluster.uri, "limited")
    limit = Limit(Deadline.at(time.monotonic() + DEADLINE_SECONDS / 4))
    policy = RunPolicy(checkpoint_seconds=3_600.0, deadline=limit.deadline)
    done = run_plan(
        plan, {}, cluster.engine(WorkerConfig(cluster.uri, "limited", "cpu", policy=policy, threads=1)), QUIET, limit
    )
    assert (done.runs, done.failures, done.left) == ({}, [], list(plan.stages))
    assert done.begun == set(plan.stages)
    for run in registry.search():
        assert run.status == "KILLED"
        assert TrainState.load(resume_file(run.run_id)).iteration


def test_several_machines_need_a_server_that_is_not_each_of_them(cluster: Cluster, tmp_path: Path) -> None:
    for uri, words in ((f"sqlite:///{tmp_path}/none.db", "is a file"), ("http://127.0.0.1:5000", "machine itself")):
        engine = RayCluster(WorkerConfig(uri, "x", "cpu"), None, cluster.address, None, None)
        with pytest.raises(UsageError, match=words) as caught:
            engine.check({})
        assert uri in caught.value.message
        assert not ray.is_initialized()
    assert list(tmp_path.glob("none*")) == []


@pytest.mark.parametrize(
    ("device", "cpus", "gpus", "words"),
    [
        ("cpu", 2, None, "--cpus 2: no node .* the largest has 1 CPUs"),
        ("cpu", None, 2, "--cpus 1 --gpus 2: no node .* 1 CPUs and 1 GPUs"),
        ("auto", None, None, f"node {SECOND} of the Ray cluster: .* GPUs here that torch does not see"),
    ],
)
def test_what_no_node_can_do_is_refused(
    cluster: Cluster, device: str, cpus: float | None, gpus: float | None, words: str
) -> None:
    engine = RayCluster(WorkerConfig(cluster.uri, "x", device), None, cluster.address, cpus, gpus)
    with pytest.raises(RewindError, match=words):
        engine.check({})


def test_what_is_no_ray_is_given_up_within_seconds(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start, "REACH_SECONDS", 3.0)
    server = cluster.uri.removeprefix("http://")
    for address, words in ((server, "no answer of Ray in 3 s"), (f"127.0.0.1:{free_port()}", "nothing answers")):
        engine = RayCluster(WorkerConfig(cluster.uri, "x", "cpu"), None, address, None, None)
        with pytest.raises(RewindError, match=f"{address} cannot be reached: {words}"):
            engine.check({})


def test_the_stages_of_a_killed_node_end_on_the_other(
    cluster: Cluster, state: None, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, registry = make("", LONG, seeds=(0, 1)), Registry(cluster.uri, "node")
    engine = cluster.engine(WorkerConfig(cluster.uri, "node", "cpu", policy=OFTEN, threads=1))
    raylet = cluster.raylet
    killed: list[int] = []

    def act(pid: int) -> None:
        cluster.nodes.remove_node(cluster.second, allow_graceful=False)
        killed.append(pid)

    sabotage(registry, act, chosen=lambda pid: parent(pid) == raylet)
    done = run_plan(plan, {}, engine, Console())
    assert killed
    assert killed[0] not in {owner(run) for run in finished_once(registry, plan, done)}
    assert capsys.readouterr().out == ""
