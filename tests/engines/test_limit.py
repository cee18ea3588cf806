"""What may begin before a moment, and where a training ends that has no time left."""

import time
from pathlib import Path

import pytest
from conftest import TINY, Chain, Cli

from rewindctl.console import Console
from rewindctl.durations import Deadline
from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.schedule import COLD_SECONDS, FIRST_SECONDS, OVERTIME_SECONDS, Limit
from rewindctl.engines.work import Worker, WorkerConfig
from rewindctl.errors import LimitError
from rewindctl.pipeline import Pipeline, RunPolicy, run_stage
from rewindctl.pipeline.plan import Stage
from rewindctl.registry import Registry
from rewindctl.registry import records as tag
from rewindctl.specs import PruneSpec, Spec

HOUR = 3_600.0


def stages(chain: Chain) -> tuple[Stage, Stage]:
    """A mask and a training."""
    registry = chain.registry()
    made: list[Stage] = []
    for run_id in (chain.prune, chain.dense):
        run = registry.get(run_id)
        made.append(Stage(run.fingerprint, run.spec))
    return made[0], made[1]


def limit(seconds: float, *, cold: bool = False) -> Limit:
    return Limit(Deadline.at(time.monotonic() + seconds), cold)


def test_what_can_make_no_start_is_not_begun(chain: Chain) -> None:
    for stage in stages(chain):
        assert limit(HOUR).allows(stage)
        assert not limit(FIRST_SECONDS - 1).allows(stage)
        assert not limit(FIRST_SECONDS + COLD_SECONDS - 1, cold=True).allows(stage)
        assert not limit(-HOUR).allows(stage)


def test_a_mask_is_begun_only_where_the_longest_so_far_would_end(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    mask, training = stages(chain)
    now = time.monotonic()
    monkeypatch.setattr("rewindctl.engines.schedule.time.monotonic", lambda: now)
    some = limit(HOUR, cold=True)
    for seconds in (200.0, 100.0):
        some.begun(mask)
        now += seconds
        some.ended(mask)
    for left, allowed in ((250.0, True), (150.0, False)):
        now = some.deadline.monotonic - left
        assert some.allows(mask) is allowed
        assert some.allows(training)


def test_what_does_not_end_by_itself_is_ended_after_a_while() -> None:
    assert not limit(1).is_spent
    assert not limit(1 - OVERTIME_SECONDS).is_spent
    assert limit(-OVERTIME_SECONDS).is_spent


def over() -> Deadline:
    return Deadline.at(time.monotonic())


def worker(uri: str, deadline: Deadline | None) -> Worker:
    return Worker(WorkerConfig(uri, "rewindctl", "cpu", policy=RunPolicy(deadline=deadline)), lambda key, done: None)


def task_of(spec: Spec) -> Task:
    return Task(spec.fingerprint(), spec.canonical(), None)


def test_a_training_without_time_is_stopped_and_no_failure_and_goes_on(chain: Chain, store: Path, cli: Cli) -> None:
    dense = chain.registry().get(chain.dense)
    uri = f"sqlite:///{store}"
    answer = worker(uri, over()).run(task_of(dense.spec))
    assert (answer.stopped, answer.crashed, answer.message) == (
        True,
        False,
        "the time limit was reached at iteration 0",
    )
    (left,) = Registry(uri).search()
    assert (left.status, left.run_id, left.tags[tag.ERROR]) == ("KILLED", answer.run_id, answer.message)
    gone_on = cli("train-dense", *TINY)
    assert gone_on.run_id == left.run_id
    assert digests(Registry(uri), left.run_id) == digests(chain.registry(), chain.dense)


def digests(registry: Registry, run_id: str) -> dict[str, str]:
    manifest = registry.manifest(registry.get(run_id))
    return {
        path: entry["sha256"] for path, entry in manifest.items() if path not in ("environment.json", "record.json")
    }


def test_a_mask_is_made_whatever_the_time(copied_chain: Chain) -> None:
    registry = copied_chain.registry()
    dense, spec = registry.get(copied_chain.dense), registry.get(copied_chain.prune).spec
    assert isinstance(spec, PruneSpec)
    policy = RunPolicy(force=True, deadline=over())
    outcome = run_stage(Pipeline(lambda: registry, Console(quiet=True), "cpu", policy=policy), spec, dense)
    assert (outcome.reused, outcome.run.status) == (False, "FINISHED")


def test_nobody_is_waited_for_after_the_time(chain: Chain, store: Path) -> None:
    uri, dense = f"sqlite:///{store}", chain.registry().get(chain.dense)
    writer = Registry(uri).start(dense.spec, dense.name, None, {})
    answer = worker(uri, over()).run(task_of(dense.spec))
    assert answer == Answer(dense.fingerprint, message=answer.message, stopped=True)
    assert "is still running this stage" in answer.message
    writer.fail(LimitError("the end of this test"))
