"""rewindctl train-dense"""

import json
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from conftest import TINY, Answer, Chain, Cli
from started import Started

from rewindctl.registry import Registry
from rewindctl.registry import records as tag
from rewindctl.registry.store.connect import connect
from rewindctl.system import processes

ENDLESS = (*TINY, "--iterations", "1000000")
SECONDS = (*TINY, "--iterations", "400", "--evaluate-every", "50")


def test_stdout_is_the_run_id_alone(store: Path, cli: Cli) -> None:
    answer = cli("train-dense", *TINY)
    assert answer.code == 0
    assert answer.out == f"{answer.run_id}\n"
    assert Registry(f"sqlite:///{store}").get(answer.run_id).finished
    assert "finished dense s0 resnet8-digits" in answer.err


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


@pytest.mark.slow
def test_an_alias_never_goes_to_a_shorter_baseline(copied_chain: Chain, cli: Cli) -> None:
    """Nor to one of another experiment; to one as long, or longer, it does."""
    at, alias = ("--tracking-uri", copied_chain.uri), "models:/resnet8-digits-dense@seed-0"

    def train(iterations: int, *more: str) -> Answer:
        length = ("--iterations", str(iterations), "--rewind-points", "1")
        return cli("train-dense", "--model", "resnet8", "--dataset", "digits", "--batch-size", "8", *length, *more, *at)

    def named() -> str:
        return copied_chain.registry().resolve(alias).run_id

    for more in ((), ("--experiment", "other")):
        short = train(2, *more)
        assert f"note: {alias} stays with run {copied_chain.dense}, which is longer (24 iterations)" in short.err
        assert named() == copied_chain.dense
    for length in (24, 25):
        moved = train(length)
        assert "note: models:/" not in moved.err
        assert named() == moved.run_id
    connect(copied_chain.uri).delete_run(named())
    again = train(3).run_id
    assert named() == again, "what is deleted keeps no name"


def test_seed_zero_is_the_usual_one(chain: Chain, cli: Cli) -> None:
    assert cli("train-dense", *TINY, "--seed", "0", "--tracking-uri", chain.uri).run_id == chain.dense
    assert cli("train-dense", *TINY, "--seeds", "0", "--tracking-uri", chain.uri).run_id == chain.dense


def test_what_cannot_change_the_result_is_no_reason_to_run_again(chain: Chain, cli: Cli) -> None:
    points = ("--rewind-points", "12,0,6,24", "--device", "cpu", "--lr", "0.1", "--recipe", "digits")
    assert cli("train-dense", *TINY, *points, "--tracking-uri", chain.uri).run_id == chain.dense


def test_a_refused_seed_keeps_the_others_from_running(store: Path, cli: Cli) -> None:
    assert cli("train-dense", *TINY, "--seeds", "0,9999999999").code == 2
    assert Registry(f"sqlite:///{store}").search() == []


def test_a_stage_that_a_live_process_is_at_is_left_to_it(chain: Chain, store: Path, cli: Cli) -> None:
    registry, spec = Registry(f"sqlite:///{store}"), chain.registry().get(chain.dense).spec
    writer = registry.start(spec, "under way", None, {})
    answer = cli("train-dense", *TINY, "--no-wait")
    assert (answer.code, answer.out) == (1, "")
    assert f"run {writer.run_id} " in answer.err
    assert "is already running this stage" in answer.err
    assert [run.status for run in registry.search()] == ["RUNNING"]


# A process that ends early. These start real ones: what a signal does to one at work is the point.


def training(store: Path, *arguments: str) -> Started:
    """A training in a process of its own, under way: its first evaluation is in the store."""
    process = Started("train-dense", *arguments, "--tracking-uri", f"sqlite:///{store}")
    with closing(sqlite3.connect(store, timeout=20)) as connection:
        process.until(lambda: connection.execute("SELECT COUNT(*) FROM metrics").fetchone() != (0,))
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_is_recorded_as_killed(store: Path, number: signal.Signals) -> None:
    process = training(store, *ENDLESS)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "error: interrupted" in err
    assert "Traceback" not in err
    (run,) = Registry(f"sqlite:///{store}").search()
    assert (run.status, run.tags[tag.ERROR]) == ("KILLED", "interrupted")


@pytest.mark.slow
def test_after_a_hard_kill_the_same_command_marks_the_dead_run_and_succeeds(store: Path, cli: Cli) -> None:
    process = training(store, *SECONDS)
    process.kill()
    process.communicate()
    registry = Registry(f"sqlite:///{store}")
    (dead,) = registry.search()
    assert dead.status == "RUNNING"
    answer = cli("train-dense", *SECONDS)
    assert answer.code == 0, answer.err
    assert registry.get(dead.run_id).status == "KILLED"
    assert registry.get(answer.run_id).finished
    assert registry.get(answer.run_id).fingerprint == dead.fingerprint


def test_an_interrupt_that_python_dropped_ends_the_training_all_the_same(store: Path, cli: Cli) -> None:
    with suppress(KeyboardInterrupt):  # as in a destructor
        processes.interrupt(signal.SIGINT, None)
    answer = cli("train-dense", *TINY)
    assert answer.code == 130
    (run,) = Registry(f"sqlite:///{store}").search()
    assert (run.status, run.tags[tag.ERROR]) == ("KILLED", "interrupted")
    assert cli("train-dense", *TINY).code == 0


def test_a_state_folder_that_is_a_file_is_refused_before_the_work(
    store: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    answer = cli("train-dense", *TINY)
    assert (answer.code, answer.out) == (1, "")
    assert f"error: {tmp_path / 'file' / 'rewindctl'} cannot be written: Not a directory" in answer.err
    assert Registry(f"sqlite:///{store}").search() == []
