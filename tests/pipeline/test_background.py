"""What is given is done once, in order, before the block ends; a failure is told, and nothing is done after it."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from conftest import TINY, Cli

from rewindctl.datasets import load_dataset
from rewindctl.errors import DiskError
from rewindctl.models import build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.pipeline import resume
from rewindctl.pipeline.requests import dense_spec
from rewindctl.pipeline.resume import MOST, Background, load_point
from rewindctl.pipeline.train_run import RunObserver
from rewindctl.registry import Registry
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.device import Usage, resolve_device
from rewindctl.training.records import Evaluation, ResumePoint

ENDINGS: dict[str, type[BaseException] | None] = {
    "well": None,
    "with an error": ValueError,
    "interrupted": KeyboardInterrupt,
    "at an exit": SystemExit,
}


def fail() -> None:
    raise DiskError("no room")


def in_block(block: Callable[[Background], object]) -> None:
    with Background() as work:
        block(work)


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_what_was_given_is_done_in_order_however_the_block_ends(ending: type[BaseException] | None) -> None:
    done: list[int] = []

    def block(work: Background) -> None:
        for number in range(100):
            work.give(partial(done.append, number))
        if ending:
            raise ending

    with pytest.raises(ending) if ending else nullcontext():
        in_block(block)
    assert done == list(range(100))


def test_all_is_done_in_one_other_thread() -> None:
    threads: list[int] = []
    with Background() as work:
        for _ in range(10):
            work.give(lambda: threads.append(threading.get_ident()))
        work.wait()
        assert len(threads) == 10
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_so_much_waits_and_no_more() -> None:
    gate, left, given = threading.Event(), list[int](), [0]
    with Background() as work:
        work.give(gate.wait)
        for _ in range(MOST - 1):  # does not stand still
            work.give(gate.wait)
        gate.set()
        for number in range(1, 50):
            given[0] = number
            work.give(lambda number=number: left.append(1 + given[0] - number))  # type: ignore[misc]
    assert len(left) == 49
    assert max(left) <= MOST + 1, "what is left when one is begun, and the one that waits to be handed over"


CALLS: dict[str, Callable[[Background], object]] = {
    "give": lambda work: work.give(lambda: None),
    "wait": Background.wait,
    "check": Background.check,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_failure_is_told_at_the_next_call_and_the_last_thing_done(call: Callable[[Background], object]) -> None:
    done: list[str] = []

    def block(work: Background) -> None:
        work.give(lambda: done.append("before"))
        work.give(fail)
        work._mark().get()
        call(work)
        done.append("not here")

    with pytest.raises(DiskError, match="no room") as caught:
        in_block(block)
    assert done == ["before"]
    assert caught.value.__context__ is None


def test_nothing_is_done_after_a_failure_and_the_end_tells_it() -> None:
    done: list[str] = []
    gate = threading.Event()

    def block(work: Background) -> None:
        work.give(gate.wait)
        work.give(fail)
        work.give(lambda: done.append("after"))
        gate.set()

    with pytest.raises(DiskError):
        in_block(block)
    assert done == []


@pytest.mark.parametrize(
    ("ending", "told"), [(ValueError, DiskError), (KeyboardInterrupt, KeyboardInterrupt)], ids=["error", "interrupt"]
)
def test_an_earlier_failure_goes_before_an_error_of_the_block_and_an_interrupt_before_it(
    ending: type[BaseException], told: type[BaseException]
) -> None:
    gate = threading.Event()

    def block(work: Background) -> None:
        work.give(gate.wait)
        work.give(fail)
        gate.set()
        raise ending

    with pytest.raises(told):
        in_block(block)


def test_a_second_interrupt_drops_what_was_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "GIVE_UP_SECONDS", 0.01)
    gate, done, work = threading.Event(), list[str](), Background()

    def under_way() -> None:
        while work._jobs.qsize() < 2:  # until the block has ended, and its end waits
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        gate.wait()
        done.append("under way")

    with pytest.raises(KeyboardInterrupt):
        interrupted(work, under_way, lambda: done.append("not begun"))
    assert done == []
    gate.set()
    while any(thread.name == "background" for thread in threading.enumerate()):
        time.sleep(0.001)
    assert done == ["under way"]


def interrupted(work: Background, *jobs: Callable[[], object]) -> None:
    with work:
        for job in jobs:
            work.give(job)
        raise KeyboardInterrupt


# With a run


def test_a_resume_point_is_never_ahead_of_the_metrics(store: Path) -> None:
    registry = Registry(f"sqlite:///{store}")
    writer = registry.start(dense_spec("resnet8", load_dataset("digits"), 0, iterations=24), "a run", None, {})
    run = registry.get(writer.run_id)
    state = TrainState.initial(build_network("resnet8", NetworkConfig(1, 10, 0.1, 1e-5), seed=0))
    seen: list[tuple[int, int]] = []

    def look() -> None:
        point = load_point(writer)
        assert point is not None
        seen.append((len(point.evaluations), len(registry.curve(run, "test_accuracy"))))

    with Background() as work:
        observer = RunObserver(writer, work, lambda done: None, 0.0, Usage(resolve_device("cpu")))
        evaluations: tuple[Evaluation, ...] = ()
        for number in range(5):
            evaluations += (Evaluation(number, 0.1, None, 1.0, 0.5),)
            observer.evaluated(evaluations[-1])
            observer.resumable(lambda kept=evaluations: ResumePoint(state, kept, 0.0))  # type: ignore[misc]
            work.give(look)
    writer.fail(KeyboardInterrupt())
    assert seen == [(number, number) for number in range(1, 6)]


def test_a_resume_point_that_cannot_be_written_stops_the_training(cli: Cli, store: Path, tmp_path: Path) -> None:
    place = tmp_path / "state" / "rewindctl" / "resume"
    place.parent.mkdir(parents=True)
    place.touch()  # where its folder has to be
    answer = cli("train-dense", *TINY, "--checkpoint-every", "0", "--quiet")
    assert (answer.code, answer.out) == (1, "")
    assert f"{place}" in answer.err.splitlines()[0]
    (run,) = Registry(f"sqlite:///{store}").search()
    assert run.status == "KILLED"
    assert str(place) in run.tags["rewindctl.error"]
    assert list(Registry(f"sqlite:///{store}").curve(run, "test_accuracy")) == [0], "what came before it is kept"
    place.unlink()
    assert cli("train-dense", *TINY, "--quiet").code == 0
