"""Killed at any moment, the same command goes on with the same run and ends in the same bytes."""

import random
import re
import signal
import time
from pathlib import Path

import pytest
from conftest import TINY, Chain, Cli
from started import Started

from rewindctl.pipeline.resume import load_point, save_point
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry.runs.manifest import checkpoint_path
from rewindctl.registry.runs.writer import resume_file
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.records import ResumePoint

DENSE = ("train-dense", "--model", "resnet8", "--dataset", "digits", "--iterations", "200", "--evaluate-every", "10")
DENSE += ("--rewind-points", "0,50,100", "--checkpoint-every", "0")


def start(uri: str) -> Started:
    return Started("--tracking-uri", uri, *DENSE)


def wait_for_progress(uri: str, evaluations: int, process: Started) -> None:
    """Until the run under way has that many evaluations, or ends."""
    while process.poll() is None:
        runs = Registry(uri).search()
        if runs and len(history(uri, runs[0], "test_accuracy")) >= evaluations:
            return
        time.sleep(0.05)


def history(uri: str, run: RunRecord, key: str) -> list[int]:
    from mlflow import MlflowClient

    return [metric.step for metric in MlflowClient(uri).get_metric_history(run.run_id, key)]


@pytest.mark.slow
def test_a_killed_training_goes_on_in_the_same_run(store: Path, tmp_path: Path, empty_store: Path) -> None:
    uri = f"sqlite:///{store}"
    generator = random.Random(9)
    for kill in range(2):
        process = start(uri)
        wait_for_progress(uri, generator.randint(2, 5) + 4 * kill, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    assert start(uri).wait(120) == 0
    (run,) = Registry(uri).search()
    assert run.finished
    for key in ("test_accuracy", "train_loss"):
        steps = history(uri, run, key)
        assert steps == sorted(set(steps)), "a point is missing, doubled or out of order"
    assert history(uri, run, "test_accuracy") == list(range(0, 201, 10))
    (tmp_path / "other").mkdir()
    other = f"sqlite:///{tmp_path / 'other' / 'mlflow.db'}"
    Path(other.removeprefix("sqlite:///")).write_bytes(empty_store.read_bytes())
    assert start(other).wait(120) == 0
    (unbroken,) = Registry(other).search()
    assert digests(uri, run) == digests(other, unbroken)
    assert not list((tmp_path / "state").rglob("*.safetensors"))


def digests(uri: str, run: RunRecord) -> dict[str, str]:
    manifest = Registry(uri).manifest(run)
    return {
        path: entry["sha256"] for path, entry in manifest.items() if path not in ("environment.json", "record.json")
    }


def test_the_seconds_of_every_leg_are_counted(chain: Chain, store: Path, cli: Cli) -> None:
    """Of a run that was killed at iteration 6 after 2,000 seconds, 1,000 of them of updates."""
    source = chain.registry()
    dense = source.get(chain.dense)
    state = TrainState.load(source.artifact(dense, checkpoint_path(6)))
    writer = Registry(f"sqlite:///{store}").start(dense.spec, dense.name, None, {})
    save_point(writer, ResumePoint(state, (), 1_000.0, 2_000.0))
    writer.fail(KeyboardInterrupt())
    answer = cli("train-dense", *TINY)
    metrics = Registry(f"sqlite:///{store}").get(answer.run_id).metrics
    assert answer.run_id == writer.run_id, "it was gone on with"
    assert metrics["duration_seconds"] >= 2_000
    assert metrics["iterations_per_second"] <= 24 / 1_000
    told = re.search(r": 24 iterations in ([0-9.]+) s", answer.err)
    assert told is not None
    assert float(told[1]) >= 2_000


def test_a_resume_point_without_wall_seconds_is_read(chain: Chain, store: Path) -> None:
    dense = chain.registry().get(chain.dense)
    writer = Registry(f"sqlite:///{store}").start(dense.spec, dense.name, None, {})
    point = ResumePoint(TrainState({}, {}, {}), (), 5.0, 7.0)
    save_point(writer, point)
    assert load_point(writer) == point
    point.state.save(writer.resume_file, {"evaluations": [], "training_seconds": 5.0, "digests": {}})
    assert load_point(writer) == ResumePoint(point.state, (), 5.0, 5.0)
    writer.fail(KeyboardInterrupt())


def test_a_resume_point_that_a_kill_at_the_very_end_left_goes_when_the_run_is_found(chain: Chain, cli: Cli) -> None:
    left = resume_file(chain.dense)
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    assert cli("train-dense", *TINY, "--tracking-uri", chain.uri).run_id == chain.dense
    assert not left.exists()
