"""Lanes on a real Ray cluster of two nodes: a process on each, several stages in it, whatever dies under way."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from two_nodes import (
    DEADLINE_SECONDS,
    LEAST,
    LONG,
    METHODS,
    OFTEN,
    SECOND,
    Cluster,
    finished_once,
    make,
    owner,
    parent,
    raylet_of,
)

from rewindctl.console import Console
from rewindctl.engines.contract import Answer
from rewindctl.engines.in_turn import InProcess
from rewindctl.engines.ray_cluster import RayCluster
from rewindctl.engines.run import run_plan
from rewindctl.engines.work import WorkerConfig
from rewindctl.paper.plan import StudyPlan
from rewindctl.pipeline import RunPolicy
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.runs.writer import resume_file
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.system.processes import is_there

pytest.importorskip("ray", reason="Ray is not installed: pip install 'rewindctl[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.ray]

LANES, SEEDS = 2, (0, 1, 2, 3)
QUIET = Console(quiet=True)


def opened(cluster: Cluster, experiment: str, policy: RunPolicy = OFTEN) -> RayCluster:
    return cluster.engine(WorkerConfig(cluster.uri, experiment, "cpu", policy=policy, threads=1), lanes=LANES)


def when_all_have_points(registry: Registry, act: Callable[[list[RunRecord]], object]) -> threading.Thread:
    """From a thread, do `act` once all lanes of both nodes have a point to go on from, or after the longest wait."""

    def watch() -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        runs: list[RunRecord] = []
        while len(runs) < len(SEEDS) and time.monotonic() < deadline:
            time.sleep(0.1)
            runs = [run for run in registry.search() if run.status == "RUNNING" and resume_file(run.run_id).is_file()]
        act(runs)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def answers_of(engine: RayCluster) -> list[Answer]:
    """All answers that it will give."""
    given, wait = list[Answer](), engine.wait

    def noted(seconds: float) -> list[Answer]:
        answers = wait(seconds)
        given.extend(answers)
        return answers

    engine.wait = noted  # type: ignore[method-assign]
    return given


def weights(registry: Registry, plan: StudyPlan) -> dict[tuple[str, str], str]:
    return {
        (run.fingerprint, path): entry["sha256"]
        for run in registry.search()
        if run.finished and run.fingerprint in plan.stages
        for path, entry in registry.manifest(run).items()
        if path.endswith(".safetensors")
    }


def test_a_study_has_the_bytes_of_the_local_engine_and_both_nodes_have_lanes(cluster: Cluster, store: Path) -> None:
    plan, registry = make(METHODS, seeds=(0, 1)), Registry(cluster.uri, "lanes")
    engine = opened(cluster, "lanes")
    assert engine.slots == 2 * LANES
    runs = finished_once(registry, plan, run_plan(plan, {}, engine, QUIET))
    assert len({owner(run) for run in runs}) == 2

    local = Registry(f"sqlite:///{store}", "lanes")
    run_plan(plan, {}, InProcess(WorkerConfig(local.uri, "lanes", "cpu", threads=1)), QUIET)
    assert weights(registry, plan) == weights(local, plan) != {}


def test_the_lanes_of_a_killed_process_go_on_in_their_runs_and_its_neighbours_know_nothing(
    cluster: Cluster, state: None
) -> None:
    plan, registry = make("", LONG, seeds=SEEDS), Registry(cluster.uri, "killed")
    engine = opened(cluster, "killed")
    before: dict[str, int] = {}
    killed: list[int] = []

    def kill(runs: list[RunRecord]) -> None:
        before.update({run.run_id: owner(run) for run in runs})
        killed.extend({pid for pid in before.values() if parent(pid) == cluster.raylet})
        os.kill(killed[0], signal.SIGKILL)

    when_all_have_points(registry, kill)
    answers = answers_of(engine)
    runs = finished_once(registry, plan, run_plan(plan, {}, engine, QUIET))
    assert {run.run_id for run in runs} == set(before)  # all went on in their runs
    for run in runs:
        assert (owner(run) == before[run.run_id]) == (before[run.run_id] not in killed)
    assert len(killed) == 1
    lost = {run.fingerprint for run in runs if before[run.run_id] in killed}
    assert len(lost) == LANES
    assert {answer.key for answer in answers if answer.crashed} == lost
    assert len(answers) == len(SEEDS) + LANES


def test_an_interrupt_leaves_a_point_of_every_lane_and_no_process(cluster: Cluster, state: None) -> None:
    plan, registry = make("", 500 * LONG, seeds=SEEDS), Registry(cluster.uri, "interrupted")
    engine = opened(cluster, "interrupted")
    watcher = when_all_have_points(registry, lambda runs: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, {}, engine, QUIET)
    watcher.join()
    runs = registry.search()
    assert [(run.status, run.tags[tag.ERROR]) for run in runs] == [("KILLED", "interrupted")] * len(SEEDS)
    for run in runs:
        assert TrainState.load(resume_file(run.run_id)).iteration
    deadline = time.monotonic() + DEADLINE_SECONDS
    while any(is_there(owner(run)) for run in runs):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_lanes_of_a_lost_node_go_on_at_one_that_joins(
    cluster: Cluster, state: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray._private.utils.set_sigterm_handler", lambda handler: None)  # a thread can set none
    plan, registry = make("", 2 * LONG, seeds=SEEDS), Registry(cluster.uri, "nodes")
    engine = opened(cluster, "nodes")
    moved: set[str] = set()

    def change(runs: list[RunRecord]) -> None:
        cluster.nodes.remove_node(cluster.second, allow_graceful=False)
        joined = raylet_of(cluster.nodes.add_node(node_ip_address=SECOND, **LEAST))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(moved) < LANES and time.monotonic() < deadline:
            time.sleep(0.1)
            under_way = [run for run in registry.search() if run.status == "RUNNING" and is_there(owner(run))]
            moved.update(run.fingerprint for run in under_way if parent(owner(run)) == joined)

    watcher = when_all_have_points(registry, change)
    answers = answers_of(engine)
    runs = finished_once(registry, plan, run_plan(plan, {}, engine, QUIET))
    watcher.join()
    assert len(runs) == len(SEEDS)
    assert {answer.key for answer in answers if answer.crashed} == moved
    assert len(moved) == LANES
