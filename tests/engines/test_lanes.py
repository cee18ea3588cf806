"""Threads of this process: the same bytes as in turn, a failure alone, all stopped by one interrupt."""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY, Chain
from plain_trials import in_lanes
from started import Started

from rewindctl.console import Console
from rewindctl.engines.choose import local_engine
from rewindctl.engines.contract import Answer, Engine, Task
from rewindctl.engines.in_turn import InProcess, Result, result_at
from rewindctl.engines.lanes import MOST, Lanes
from rewindctl.engines.local import Processes, on_one_gpu
from rewindctl.engines.run import run_plan
from rewindctl.engines.work import WorkerConfig
from rewindctl.pipeline import Outcome, Pipeline, RunPolicy
from rewindctl.pipeline.plan import Plan, plan_dense
from rewindctl.pipeline.requests import dense_spec
from rewindctl.registry import Registry
from rewindctl.registry import records as tag
from rewindctl.registry.runs.writer import resume_file
from rewindctl.specs import DenseSpec
from rewindctl.training.records import IN_LANE

SECONDS = 60.0
SHORT = {"iterations": 6, "batch_size": 32, "evaluate_every": 6}
QUIET = Console(quiet=True)


def dense(pipeline: Pipeline, seed: int, **fields: int) -> DenseSpec:
    return dense_spec("resnet8", pipeline.dataset("digits"), seed, **(SHORT | fields))  # type: ignore[arg-type]


def pipeline_on(uri: str) -> Pipeline:
    registry = Registry(uri)
    return Pipeline(lambda: registry, QUIET, "cpu")


def site_of(uri: str) -> WorkerConfig:
    return WorkerConfig(uri, "rewindctl", "cpu", policy=RunPolicy(checkpoint_seconds=0.0))


def run(uri: str, plan: Plan, engine: Engine) -> list[Result | None]:
    finished, registry = run_plan(plan, {}, engine, QUIET), Registry(uri)
    return [result_at(place, plan, finished, registry.get) for place in range(len(plan.asked))]


@pytest.fixture(autouse=True)
def as_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many for a trial in a thread as for one in turn: their number may change the last bits."""
    monkeypatch.setattr("rewindctl.engines.lanes.share", lambda jobs: torch.get_num_threads())


def digests(uri: str, run_id: str) -> dict[str, str]:
    registry = Registry(uri)
    manifest = registry.manifest(registry.get(run_id))
    return {
        path: entry["sha256"] for path, entry in manifest.items() if path not in ("environment.json", "record.json")
    }


def ids(results: list[Result | None]) -> list[str]:
    for result in results:
        assert isinstance(result, Outcome), result
    return [result.run.run_id for result in results if isinstance(result, Outcome)]


def test_trials_in_threads_have_the_bytes_of_trials_in_turn(copied_chain: Chain) -> None:
    """A baseline and retrainings by two methods, all at once, against the same made one after the other."""
    uri, registry = copied_chain.uri, copied_chain.registry()
    in_turn = [copied_chain.dense, copied_chain.weight_rewind, copied_chain.finetune]
    records = [registry.get(run_id) for run_id in in_turn]
    parent = registry.get(copied_chain.prune)
    plan = Plan()
    mask = plan.add_runs(registry.lineage(parent))
    plan.asked = [plan.add(run.spec, None if run.kind == "dense" else mask) for run in records]
    site = replace(site_of(uri), policy=RunPolicy(force=True, checkpoint_seconds=0.0))
    at_once = ids(run(uri, plan, Lanes(site, 3)))
    assert not set(at_once) & set(in_turn)
    assert [digests(uri, run_id) for run_id in at_once] == [digests(uri, run_id) for run_id in in_turn]
    assert [registry.get(run_id).parent_id for run_id in at_once] == [run.parent_id for run in records]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def trials_running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("trial-")]


class Interrupted(Lanes):
    """Ctrl-C in the main thread when every trial has a point to go on from."""

    def __init__(self, uri: str, trials: int) -> None:
        super().__init__(site_of(uri), trials)
        self._registry, self._trials = Registry(uri), trials

    def wait(self, seconds: float) -> list[Answer]:
        if not self._stop.is_set():
            wait_for(lambda: self._with_point() == self._trials)
            raise KeyboardInterrupt
        return super().wait(seconds)

    def _with_point(self) -> int:
        return sum(resume_file(run.run_id).is_file() for run in self._registry.search())


def test_an_interrupt_stops_all_and_each_goes_on_later(store: Path) -> None:
    uri = f"sqlite:///{store}"
    pipeline = pipeline_on(uri)
    endless = plan_dense(dense(pipeline, seed, iterations=1_000_000) for seed in range(2))
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        run(uri, endless, Interrupted(uri, 2))
    wait_for(lambda: not trials_running())
    assert torch.get_num_threads() == threads
    runs = pipeline.registry.search()
    assert [(r.status, r.tags[tag.ERROR]) for r in runs] == [("KILLED", "interrupted")] * 2
    assert all(resume_file(r.run_id).is_file() for r in runs)


def test_a_trial_that_waits_for_another_process_stops_at_once(store: Path) -> None:
    uri = f"sqlite:///{store}"
    pipeline = pipeline_on(uri)
    spec = dense(pipeline, 0)
    busy = pipeline.registry.start(spec, "another's", None, {})
    engine = Lanes(site_of(uri), 2)
    engine.submit(Task(spec.fingerprint(), spec.canonical(), None))
    assert engine.wait(0.2) == []
    engine.close()
    wait_for(lambda: not trials_running())
    busy.fail(KeyboardInterrupt())


def test_no_two_threads_get_the_same_stream() -> None:
    engine = Lanes(site_of("sqlite:///unused"), 10 * MOST)
    assert engine.slots == MOST
    engine.close()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_stream_each_makes_the_bytes_of_trials_in_turn(store: Path) -> None:
    uri = f"sqlite:///{store}"
    plan = plan_dense(dense(pipeline_on(uri), seed, iterations=60) for seed in range(4))
    site = replace(site_of(uri), device="cuda:0", policy=RunPolicy(force=True, checkpoint_seconds=0.0))
    in_turn, at_once = (ids(run(uri, plan, engine)) for engine in (InProcess(site), Lanes(site, 4)))
    assert [digests(uri, run_id) for run_id in at_once] == [digests(uri, run_id) for run_id in in_turn]


# Where it is used


def test_a_cpu_has_processes_and_one_gpu_has_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not on_one_gpu("cpu", 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert on_one_gpu("auto", 3)
    assert on_one_gpu("cuda:0", 3)
    assert not on_one_gpu("cpu", 3)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert not on_one_gpu("auto", 2)
    assert not on_one_gpu("cuda", 3)
    assert on_one_gpu("cuda:1", 2)


def test_the_engine_is_chosen_by_device_and_jobs(store: Path) -> None:
    site = site_of(f"sqlite:///{store}")
    assert isinstance(local_engine(site, 1), InProcess)
    assert isinstance(local_engine(site, 2), Processes)


# Lanes of one step, as a command has them on a GPU

COMMAND = ("train-dense", *TINY[:4], "--batch-size", "16", "--rewind-points", "6,12", "--iterations", "60")
COMMAND += ("--evaluate-every", "10", "--checkpoint-every", "0", "--update-step", "fused")
SEEDS = range(3)


def all_of(uri: str) -> dict[int, tuple[dict[str, str], dict[str, list[tuple[int, float]]]]]:
    """Of each seed's finished run: the digests of its artifacts, and its curves."""
    registry, found = Registry(uri), {}
    for run in registry.search():
        assert run.finished
        curves = {
            key: [(step, value) for step, _, value in sorted(registry.history(run, key))]
            for key in ("train_loss", "lr", "test_loss", "test_accuracy")
        }
        found[int(run.tags[tag.SEED])] = digests(uri, run.run_id), curves
    return found


@pytest.fixture(scope="module")
def unbroken(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, object]:
    """What the trials leave that are made one after the other."""
    store = tmp_path_factory.mktemp("in-turn") / "mlflow.db"
    store.write_bytes(empty_store.read_bytes())
    uri = f"sqlite:///{store}"
    process = Started(*COMMAND, "--seeds", "0-2", "--jobs", "1", "--tracking-uri", uri, first=in_lanes)
    assert process.wait(SECONDS) == 0, process.err
    return dict(all_of(uri))


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_command_that_is_ended_goes_on_in_every_lane_to_the_same_bytes(
    store: Path, unbroken: dict[int, object], ending: signal.Signals
) -> None:
    """Each run from its own point; artifacts and curves are those of trials in turn."""
    uri, line = f"sqlite:///{store}", (*COMMAND, "--seeds", "0-2", "--jobs", "3")
    process, registry = Started(*line, "--tracking-uri", uri, first=in_lanes), Registry(uri)
    process.until(lambda: [resume_file(run.run_id).is_file() for run in registry.search()] == [True] * len(SEEDS))
    process.send_signal(ending)
    assert process.wait(SECONDS) == (130 if ending == signal.SIGINT else -ending)
    before = {run.run_id: run.status for run in registry.search()}
    assert set(before.values()) == {"KILLED" if ending == signal.SIGINT else "RUNNING"}
    again = Started(*line, "--tracking-uri", uri, first=in_lanes)
    assert again.wait(SECONDS) == 0, again.err
    assert {run.run_id for run in registry.search()} == set(before)
    assert all_of(uri) == unbroken
    how = {(run.tags[tag.STEP], run.tags[tag.UPDATES]) for run in registry.search()}
    assert how == {("fused", IN_LANE)}
