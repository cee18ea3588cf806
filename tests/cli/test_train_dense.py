"""rewindctl train-dense"""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import TINY, Chain, Cli

from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag

LONG = (*TINY, "--iterations", "1000000")
SECONDS = (*TINY, "--iterations", "600", "--evaluate-every", "50")


def test_stdout_is_the_run_id_alone(store: Path, cli: Cli) -> None:
    answer = cli("train-dense", *TINY)
    assert answer.code == 0
    assert answer.out == f"{answer.run_id}\n"
    assert Registry(f"sqlite:///{store}").get(answer.run_id).finished
    assert "finished resnet8-digits dense s0" in answer.err


def test_quiet_says_nothing_but_the_run_id(store: Path, cli: Cli) -> None:
    answer = cli("train-dense", *TINY, "--quiet")
    assert (len(answer.run_id), answer.err) == (32, "")


def test_json_is_one_object_with_what_a_script_needs(chain: Chain, cli: Cli) -> None:
    answer = cli("train-dense", *TINY, "--json", "--tracking-uri", chain.uri)
    found, run = json.loads(answer.out), chain.registry().get(chain.dense)
    assert {"run_id", "kind", "fingerprint", "reused", "status", "metrics", "params"} <= set(found)
    assert (found["run_id"], found["kind"], found["status"]) == (chain.dense, "dense", "FINISHED")
    assert found["reused"] is True
    assert (found["fingerprint"], found["metrics"], found["params"]) == (run.fingerprint, run.metrics, run.params)


def test_seeds_make_a_baseline_and_an_alias_each(copied_chain: Chain, cli: Cli) -> None:
    answer = cli("train-dense", *TINY, "--seeds", "0,2", "--tracking-uri", copied_chain.uri)
    registry = copied_chain.registry()
    first, second = answer.out.splitlines()
    assert first == copied_chain.dense
    assert registry.get(second).params["seed"] == "2"
    assert registry.resolve("models:/resnet8-digits-dense@seed-2").run_id == second
    assert registry.resolve("models:/resnet8-digits-dense@seed-0").run_id == first


def test_seed_zero_is_the_usual_one(chain: Chain, cli: Cli) -> None:
    assert cli("train-dense", *TINY, "--seed", "0", "--tracking-uri", chain.uri).run_id == chain.dense
    assert cli("train-dense", *TINY, "--seeds", "0", "--tracking-uri", chain.uri).run_id == chain.dense


def test_what_cannot_change_the_result_is_no_reason_to_run_again(chain: Chain, cli: Cli) -> None:
    points = ("--rewind-points", "12,0,6,24", "--device", "cpu", "--lr", "0.1", "--recipe", "digits")
    assert cli("train-dense", *TINY, *points, "--tracking-uri", chain.uri).run_id == chain.dense


def test_a_refused_seed_keeps_the_others_from_running(store: Path, cli: Cli) -> None:
    assert cli("train-dense", *TINY, "--seeds", "0,9999999999").code == 2
    assert Registry(f"sqlite:///{store}").search() == []


# Processes of their own: what happens to one that is at work is the point. They start together, as imports are slow.


class Training:
    """`train-dense` in a process of its own, with a store of its own."""

    def __init__(self, store: Path, *arguments: str) -> None:
        self.uri, self._store = f"sqlite:///{store}", store
        line = [sys.executable, "-m", "rewindctl", "train-dense", *arguments, "--tracking-uri", self.uri]
        self._process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_until_under_way(self) -> None:
        """Until the first evaluation is in the store."""
        with closing(sqlite3.connect(self._store, timeout=20)) as connection:
            while connection.execute("SELECT COUNT(*) FROM metrics").fetchone() == (0,):
                assert self._process.poll() is None, self._process.communicate()
                time.sleep(0.02)

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        """Send a signal; the exit code, standard output and standard error."""
        self._process.send_signal(number)
        out, err = self._process.communicate(timeout=60)
        return self._process.returncode, out, err

    def run(self) -> RunRecord:
        (run,) = Registry(self.uri).search()
        return run


@pytest.fixture(scope="module")
def trainings(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Training]]:
    """Endless trainings, one for each test that takes one."""
    folder = tmp_path_factory.mktemp("trainings")
    stores = {name: folder / f"{name}.db" for name in ("SIGINT", "SIGTERM", "busy")}
    started = {name: Training(Path(shutil.copy(empty_store, store)), *LONG) for name, store in stores.items()}
    yield started
    for training in started.values():
        training.end(signal.SIGKILL)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_training_is_recorded_as_killed(trainings: dict[str, Training], name: str) -> None:
    training = trainings[name]
    training.wait_until_under_way()
    code, out, err = training.end(signal.Signals[name])
    assert (code, out) == (130, "")
    assert "error: interrupted" in err
    assert "Traceback" not in err
    assert (training.run().status, training.run().tags[tag.ERROR]) == ("KILLED", "interrupted")


def test_after_a_hard_kill_the_same_command_marks_the_dead_run_and_succeeds(store: Path, cli: Cli) -> None:
    training = Training(store, *SECONDS)
    training.wait_until_under_way()
    training.end(signal.SIGKILL)
    dead, registry = training.run(), Registry(training.uri)
    assert dead.status == "RUNNING"
    answer = cli("train-dense", *SECONDS, "--tracking-uri", training.uri)
    assert answer.code == 0, answer.err
    assert registry.get(dead.run_id).status == "KILLED"
    assert registry.get(answer.run_id).finished
    assert registry.get(answer.run_id).fingerprint == dead.fingerprint


def test_a_second_process_leaves_a_stage_to_the_first(trainings: dict[str, Training], cli: Cli) -> None:
    training = trainings["busy"]
    training.wait_until_under_way()
    answer = cli("train-dense", *LONG, "--tracking-uri", training.uri)
    assert (answer.code, answer.out) == (1, "")
    assert f"run {training.run().run_id} " in answer.err
    assert "is at this very stage" in answer.err
    assert training.run().status == "RUNNING"
