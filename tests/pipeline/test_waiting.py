"""A stage that another process is at: waited for, refused, or taken over; and never run twice."""

import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from conftest import TINY, Chain, Cli
from started import Started

from rewindctl.console import Console
from rewindctl.pipeline import life
from rewindctl.registry import Registry, RunWriter
from rewindctl.registry import records as tag
from rewindctl.registry.claiming import ownership

SECONDS = ("train-dense", *TINY, "--iterations", "400", "--evaluate-every", "50", "--checkpoint-every", "0")
PROCESSES = 5
OnWait = Callable[[Callable[[], object]], None]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "POLL_SECONDS", 0.1)


@pytest.fixture
def registry(store: Path) -> Registry:
    return Registry(f"sqlite:///{store}")


def process(store: Path, *arguments: str) -> Started:
    return Started(*arguments, "--tracking-uri", f"sqlite:///{store}")


def at_work(store: Path) -> Started:
    """A training in a process of its own, under way and with a resume point: its third evaluation is in the store."""
    started = process(store, *SECONDS)
    with closing(sqlite3.connect(store, timeout=20)) as connection:
        count = "SELECT COUNT(*) FROM metrics WHERE key = 'test_accuracy'"
        started.until(lambda: connection.execute(count).fetchone()[0] >= 3)
    return started


def other_machine(store: Path, run_id: str) -> None:
    with closing(sqlite3.connect(store, timeout=20)) as connection, connection:
        new = ("elsewhere:1:1:00000000:1", tag.OWNER, run_id)
        assert connection.execute("UPDATE tags SET value = ? WHERE key = ? AND run_uuid = ?", new).rowcount == 1


@pytest.fixture
def on_wait(monkeypatch: pytest.MonkeyPatch) -> OnWait:
    """Have something done as soon as a command in this process has said that it waits."""

    def hook(act: Callable[[], object]) -> None:
        say = Console.say

        def say_and_act(console: Console, text: str) -> None:
            say(console, text)
            if text.startswith("waiting for run"):
                act()

        monkeypatch.setattr(Console, "say", say_and_act)

    return hook


def held(chain: Chain, registry: Registry) -> RunWriter:
    """The dense stage of `chain`, held by this process."""
    return registry.start(chain.registry().get(chain.dense).spec, "under way", None, {})


@pytest.mark.slow
def test_what_another_process_finishes_is_waited_for_and_reused(
    store: Path, registry: Registry, cli: Cli, on_wait: OnWait
) -> None:
    other = at_work(store)
    other.send_signal(signal.SIGSTOP)
    on_wait(lambda: other.send_signal(signal.SIGCONT))
    answer = cli(*SECONDS)
    out, _ = other.communicate(timeout=60)
    assert (answer.code, answer.out) == (0, out)
    assert answer.err.count(f"waiting for run {answer.run_id} ") == 1
    assert "reused" in answer.err
    assert [(run.run_id, run.status) for run in registry.search()] == [(answer.run_id, "FINISHED")]


def test_without_waiting_it_is_refused(chain: Chain, registry: Registry, cli: Cli) -> None:
    writer = held(chain, registry)
    answer = cli("train-dense", *TINY, "--no-wait")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith(f"error: run {writer.run_id} (")
    assert "hint: leave out --no-wait" in answer.err
    assert [run.status for run in registry.search()] == ["RUNNING"]


@pytest.mark.slow
def test_what_a_dying_process_leaves_is_taken_over_in_the_same_run(
    store: Path, registry: Registry, cli: Cli, on_wait: OnWait
) -> None:
    other = at_work(store)
    other.send_signal(signal.SIGSTOP)
    (run,) = registry.search()
    on_wait(other.kill)
    answer = cli(*SECONDS)
    other.communicate(timeout=60)
    assert (answer.code, answer.run_id) == (0, run.run_id), answer.err
    assert f"waiting for run {run.run_id} " in answer.err
    assert f"resuming run {run.run_id} from iteration" in answer.err
    assert [found.run_id for found in registry.search()] == [run.run_id]


@pytest.mark.slow
def test_a_machine_that_fell_silent_is_taken_over_in_the_same_run(
    store: Path, registry: Registry, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "STALE_SECONDS", 1.0)
    other = at_work(store)
    other.kill()
    other.communicate(timeout=60)
    (run,) = registry.search()
    other_machine(store, run.run_id)
    refused = cli(*SECONDS, "--no-wait")
    assert (refused.code, "elsewhere:1" in refused.err) == (1, True)
    answer = cli(*SECONDS)
    assert (answer.code, answer.run_id) == (0, run.run_id), answer.err
    assert f"waiting for run {run.run_id} (elsewhere:1)" in answer.err
    assert "resuming run" in answer.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_wait_leaves_the_other_run_alone(
    chain: Chain, store: Path, registry: Registry, number: signal.Signals
) -> None:
    writer = held(chain, registry)
    before = registry.get(writer.run_id)
    waiter = process(store, "train-dense", *TINY)
    waiter.until(lambda: f"waiting for run {writer.run_id} " in waiter.err)
    waiter.send_signal(number)
    out, err = waiter.communicate(timeout=60)
    assert (waiter.returncode, out) == (130, "")
    assert "error: interrupted" in err
    now = registry.get(writer.run_id)
    assert {**now.tags, tag.HEARTBEAT: ""} == {**before.tags, tag.HEARTBEAT: ""}
    assert [(run.run_id, run.status) for run in registry.search()] == [(writer.run_id, "RUNNING")]


def test_a_forced_run_waits_and_then_runs_anew(chain: Chain, registry: Registry, cli: Cli, on_wait: OnWait) -> None:
    writer = held(chain, registry)
    on_wait(lambda: (writer.seal(), writer.finish()))
    answer = cli("train-dense", *TINY, "--force")
    assert answer.code == 0, answer.err
    assert f"waiting for run {writer.run_id} " in answer.err
    assert [run.run_id for run in registry.search()] == [writer.run_id, answer.run_id]


@pytest.mark.slow
def test_of_many_processes_that_start_a_stage_one_runs_it(store: Path, registry: Registry) -> None:
    started = [process(store, *SECONDS) for _ in range(PROCESSES)]
    answers = [one.communicate(timeout=300) for one in started]
    (run,) = registry.search()
    assert run.finished
    assert [one.returncode for one in started] == [0] * PROCESSES, answers
    assert [out for out, _ in answers] == [f"{run.run_id}\n"] * PROCESSES
