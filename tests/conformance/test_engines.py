"""Every engine keeps the contract: stages once below their parents, failures alone, interrupts that leave points."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from plain_trials import instead_of_kernels

from rewindctl.arithmetic import Arithmetic
from rewindctl.cli import complete
from rewindctl.cli.reproduce import reproduce
from rewindctl.console import Console
from rewindctl.durations import Deadline
from rewindctl.engines.choose import EngineOptions, engines
from rewindctl.engines.contract import Answer, Engine, Task
from rewindctl.engines.in_turn import InTurn
from rewindctl.engines.lanes import Lanes
from rewindctl.engines.run import Finished, run_plan
from rewindctl.engines.work import WorkerConfig
from rewindctl.pipeline import Pipeline, RunPolicy
from rewindctl.pipeline.plan import Plan, Stage
from rewindctl.pipeline.requests import PruneOptions, dense_spec, prune_child, retrain_child
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.runs.writer import resume_file
from rewindctl.rewinding.methods import RetrainOptions
from rewindctl.specs import parse_spec

QUIET = Console(quiet=True)
SECONDS = 100
LENGTH, LONG, ENDLESS = 6, 200, 1_000_000  # iterations
Opens = Callable[[WorkerConfig], AbstractContextManager[Engine]]


def in_turn(site: WorkerConfig) -> Engine:
    registry = Registry(site.tracking_uri, site.experiment)
    return InTurn(Pipeline(lambda: registry, QUIET, site.device, site.data_dir, site.policy), strict=False)


def held(make: Callable[[WorkerConfig], Engine]) -> Opens:
    @contextmanager
    def opened(site: WorkerConfig) -> Iterator[Engine]:
        engine = make(site)
        try:
            yield engine
        finally:
            engine.close()

    return opened


def fused(site: WorkerConfig) -> WorkerConfig:
    """Whose trainings on one GPU are lanes of one step."""
    return replace(site, policy=replace(site.policy, arithmetic=Arithmetic(step="fused")))


def named(name: str, jobs: int, **options: Any) -> Opens:
    return lambda site: engines[name].open(site, {}, EngineOptions(jobs, **options))


# By the catalog's names; the local engine is one of three, and what a command runs in turn is an engine too.
OPENS: dict[str, Opens] = {
    "in turn": held(in_turn),
    "local, one": named("local", 1),
    "local, threads": held(lambda site: Lanes(site, 2)),
    "local, lanes": held(lambda site: Lanes(fused(site), 2)),
    "local, processes": named("local", 2),
    "ray": named("ray", 2, cpus=0.5),
    "ray, lanes": named("ray", 2, lanes=2),
}
IN_TURN_FUSED = held(lambda site: in_turn(fused(site)))
SLOW, RAY = [pytest.mark.slow], [pytest.mark.slow, pytest.mark.ray]
QUICK = ("local, threads", "local, lanes")
EVERY = [name if name in QUICK else pytest.param(name, marks=RAY if name.startswith("ray") else SLOW) for name in OPENS]
WITH_WORKERS = EVERY[-3:]  # that die alone
every_engine = pytest.mark.parametrize("name", EVERY)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many for each way to run: their number may change the last bits."""
    monkeypatch.setattr("rewindctl.engines.lanes.share", lambda jobs: 1)
    monkeypatch.setattr("rewindctl.engines.local.share", lambda jobs: 1)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    instead_of_kernels(monkeypatch)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def uri(store: Path) -> str:
    return f"sqlite:///{store}"


def site_of(uri: str, often: float = 0.0) -> WorkerConfig:
    return WorkerConfig(uri, "engines", "cpu", policy=RunPolicy(checkpoint_seconds=often), threads=1)


def plan_of(iterations: int = LENGTH, seeds: tuple[int, ...] = (0,), pruned: bool = True) -> Plan:
    """Baselines; below each a mask and a retraining."""
    pipeline, plan = Pipeline(Registry, QUIET, "cpu"), Plan()
    for seed in seeds:
        fields = {"iterations": iterations, "batch_size": 32, "evaluate_every": iterations}
        dense = dense_spec("resnet8", pipeline.dataset("digits"), seed, **fields)  # type: ignore[arg-type]
        root = plan.add(dense)
        if pruned:
            spec = prune_child(dense, 0.5, PruneOptions())
            mask = plan.add(spec, root)
            plan.add(retrain_child(spec, dense, RetrainOptions(method="lr_rewind")), mask)
    return plan


def run(name: str, uri: str, plan: Plan, often: float = 0.0) -> Finished:
    with OPENS[name](site_of(uri, often)) as engine:
        return run_plan(plan, {}, engine, QUIET)


def runs_of(uri: str) -> list[RunRecord]:
    return Registry(uri, "engines").search()


def check_whole(uri: str, plan: Plan, finished: Finished) -> None:
    """One finished run a stage, each the child of its parent's run, none under way; nothing failed."""
    assert (finished.failures, finished.stopped) == ([], "")
    runs = runs_of(uri)
    assert Counter(run.fingerprint for run in runs if run.finished) == dict.fromkeys(plan.stages, 1)
    assert {run.fingerprint: run.run_id for run in runs} == finished.runs
    for record in runs:
        parent = plan.stages[record.fingerprint].parent
        assert record.parent_id == (finished.runs[parent] if parent else None)


def weights(uri: str) -> dict[str, dict[str, str]]:
    registry = Registry(uri, "engines")
    return {
        run.fingerprint: {
            path: entry["sha256"] for path, entry in registry.manifest(run).items() if path.endswith(".safetensors")
        }
        for run in registry.search()
    }


@pytest.fixture(scope="module")
def in_turn_by(
    empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, dict[str, str]]]:
    """The weights of the stages one after the other, by the same step."""

    @cache
    def made(step: str) -> dict[str, dict[str, str]]:
        store = tmp_path_factory.mktemp("in-turn") / "mlflow.db"
        store.write_bytes(empty_store.read_bytes())
        torch.set_num_threads(1)
        site, plan = site_of(f"sqlite:///{store}"), plan_of(seeds=(0, 1))
        with (IN_TURN_FUSED if step == "fused" else OPENS["in turn"])(site) as engine:
            run_plan(plan, {}, engine, QUIET)
        return weights(f"sqlite:///{store}")

    return made


def test_the_command_offers_the_engines_of_the_catalog() -> None:
    text = get_args(reproduce.__annotations__["engine"])[1].help
    assert text == f"{'; '.join(f'{name}: {one.about}' for name, one in engines.loaded().items())}."
    assert {name for name, _ in complete.engines(None, "")} == set(engines)  # type: ignore[arg-type]
    assert {name.partition(",")[0] for name in OPENS} - {"in turn"} == set(engines)


@every_engine
def test_each_stage_runs_once_below_its_parent_and_has_the_bytes_of_those_in_turn(
    name: str, uri: str, in_turn_by: Callable[[str], dict[str, dict[str, str]]]
) -> None:
    plan = plan_of(seeds=(0, 1))
    check_whole(uri, plan, run(name, uri, plan))
    assert weights(uri) == in_turn_by("fused" if name == "local, lanes" else "pytorch")
    again = run(name, uri, plan)
    assert again.reused == set(plan.stages)
    assert len(runs_of(uri)) == len(plan.stages)


@every_engine
def test_a_stage_that_fails_fails_alone_with_what_waits_for_it(name: str, uri: str) -> None:
    plan = plan_of(seeds=(0, 1))
    bad, *below = [key for key in plan.stages if plan.dense_of(plan.stages[key]).seed == 1]
    stage = plan.stages[bad]
    assert stage.parent is None
    text = stage.spec.canonical().replace(stage.spec.data_digest, "0" * 64)
    plan.stages[bad] = Stage(bad, parse_spec(text, "a spec of other data"))
    finished = run(name, uri, plan)
    (failure,) = finished.failures
    assert (failure.key, failure.blocked) == (bad, len(below))
    assert "data set 'digits' is" in failure.message
    assert set(finished.runs) == set(plan.stages) - {bad, *below}
    assert {run.status for run in runs_of(uri) if run.run_id != failure.run_id} == {"FINISHED"}


@every_engine
def test_updates_under_way_are_seen_to_grow(name: str, uri: str) -> None:
    (stage,) = plan_of(LONG, pruned=False).stages.values()
    seen, answers, deadline = [0], list[Answer](), time.monotonic() + SECONDS
    with OPENS[name](site_of(uri)) as engine:
        engine.shown = lambda: seen.append(engine.progress().get(stage.key, seen[-1]))
        engine.submit(Task(stage.key, stage.spec.canonical(), None))
        while not answers and time.monotonic() < deadline:
            answers = engine.wait(0.05)
            engine.shown()
    assert [answer.message for answer in answers] == [""]
    assert seen == sorted(seen)
    if name != "in turn":  # shows the training's own bar
        assert 0 < seen[-1] <= LONG


@every_engine
def test_a_training_that_the_time_limit_ends_is_stopped_and_goes_on_another_time(name: str, uri: str) -> None:
    plan = plan_of(pruned=False)
    (stage,) = plan.stages.values()
    site = site_of(uri)
    over = replace(site, policy=replace(site.policy, deadline=Deadline.at(time.monotonic())))
    answers, deadline = list[Answer](), time.monotonic() + SECONDS
    with OPENS[name](over) as engine:
        engine.submit(Task(stage.key, stage.spec.canonical(), None))
        while not answers and time.monotonic() < deadline:
            answers = engine.wait(0.05)
    (record,) = runs_of(uri)
    assert answers == [Answer(stage.key, record.run_id, "the time limit was reached at iteration 0", stopped=True)]
    assert resume_file(record.run_id).is_file()
    check_whole(uri, plan, run(name, uri, plan))


def sabotage(uri: str, act: Callable[[RunRecord], object]) -> threading.Thread:
    """From a thread, do `act` to a stage that has a point to go on from."""
    registry = Registry(uri, "engines")

    def watch() -> None:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for record in registry.search():
                if record.status == "RUNNING" and resume_file(record.run_id).is_file():
                    act(record)
                    return
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)  # a stage without end must not run on

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@every_engine
def test_an_interrupt_leaves_a_point_and_nothing_under_way(name: str, uri: str) -> None:
    interrupted = sabotage(uri, lambda record: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(name, uri, plan_of(ENDLESS, pruned=False), often=0.0)
    interrupted.join()
    (record,) = runs_of(uri)
    assert (record.status, record.tags[tag.ERROR]) == ("KILLED", "interrupted")
    assert resume_file(record.run_id).is_file()


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_the_stage_of_a_killed_worker_goes_on_in_its_run(name: str, uri: str) -> None:
    killed: list[int] = []

    def kill(record: RunRecord) -> None:
        killed.append(int(record.tags[tag.OWNER].split(":")[1]))
        os.kill(killed[0], signal.SIGKILL)

    sabotage(uri, kill)
    plan = plan_of(LONG, pruned=False)
    check_whole(uri, plan, run(name, uri, plan))
    (record,) = runs_of(uri)
    assert killed
    assert int(record.tags[tag.OWNER].split(":")[1]) not in (killed[0], os.getpid())
