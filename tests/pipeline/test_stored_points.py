"""With --resume-points store a training goes on on another machine, in the same run, and ends in the same bytes."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY, Chain, Cli

from rewindctl.checks.verify import verify
from rewindctl.pipeline.resume import Background, StoredPoints
from rewindctl.pipeline.train_run import RunObserver
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.runs.stored_point import POINT
from rewindctl.registry.store.address import local_path
from rewindctl.registry.store.client import Client
from rewindctl.registry.store.failures import AwayError
from rewindctl.system.files import state_folder
from rewindctl.training.records import ResumePoint

LINE = ("train-dense", *TINY, "--resume-points", "store", "--checkpoint-every", "0")


@pytest.fixture
def preempted(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunRecord]:
    """A training stopped at iteration 12, with a point in the store; this is another machine from then on."""
    kept = RunObserver.resumable

    def interrupted(self: RunObserver, make: Callable[[], ResumePoint]) -> None:
        kept(self, make)
        if make().state.iteration:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunObserver, "resumable", interrupted)
        assert cli(*LINE).code == 130
    (run,) = Registry(f"sqlite:///{store}").search()
    shutil.rmtree(state_folder())
    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


def point(run: RunRecord) -> Path:
    """Where a SQLite store has it."""
    folder = local_path(run.artifact_uri)
    assert folder is not None
    return folder / POINT


def digests(registry: Registry, run_id: str) -> dict[str, str]:
    manifest = registry.manifest(registry.get(run_id))
    return {
        path: entry["sha256"] for path, entry in manifest.items() if path not in ("environment.json", "record.json")
    }


def test_another_machine_goes_on_to_the_same_bytes(cli: Cli, store: Path, chain: Chain, preempted: RunRecord) -> None:
    registry = Registry(f"sqlite:///{store}")
    assert point(preempted).is_file()
    answer = cli("train-dense", *TINY)  # the option is of who writes points, not of who goes on
    assert answer.run_id == preempted.run_id
    assert f"resuming run {preempted.run_id} from iteration 12" in answer.err
    assert digests(registry, answer.run_id) == digests(chain.registry(), chain.dense)
    run = registry.get(answer.run_id)
    assert tag.RESUME_POINT not in run.tags
    assert not point(run).parent.exists()
    assert verify(registry, run) == []


def test_a_device_of_another_kind_starts_anew(cli: Cli, store: Path, preempted: RunRecord) -> None:
    torch.set_num_threads(torch.get_num_threads() + 1)  # a processor that shares its sums out otherwise
    answer = cli(*LINE)
    assert f"stored resume point of run {preempted.run_id} cannot be used: device was " in answer.err
    registry = Registry(f"sqlite:///{store}")
    left = registry.get(preempted.run_id)
    assert answer.run_id != left.run_id
    assert (left.status, tag.RESUME_POINT in left.tags, point(left).exists()) == ("KILLED", False, False)


def test_one_that_the_store_does_not_delete_is_named_and_goes_with_gc(
    cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch, preempted: RunRecord
) -> None:
    def refuse(self: Client, artifact_uri: str, path: str | None = None) -> None:
        with self.plain_errors():
            raise NotImplementedError("this store deletes nothing")

    registry = Registry(f"sqlite:///{store}")
    with monkeypatch.context() as patched:
        patched.setattr(Client, "delete_artifacts", refuse)
        answer = cli(*LINE)
    assert answer.code == 0
    assert f"note: the resume point of run {preempted.run_id} stays in the store" in answer.err
    (problem,) = verify(registry, registry.get(answer.run_id))
    assert problem.startswith(POINT)
    assert f"{answer.run_id}/{POINT}" in cli("gc", "--yes").out
    assert verify(registry, registry.get(answer.run_id)) == []


def test_of_points_that_come_while_one_is_uploaded_the_last_is_next_and_a_failure_is_told_once() -> None:
    began, gate, newest, uploaded, told = threading.Event(), threading.Event(), [0], list[int](), list[str]()

    def store_point(made_on: dict[str, str]) -> None:
        uploaded.append(newest[0])
        began.set()
        gate.wait()
        raise AwayError("it is away")

    writer: Any = SimpleNamespace(store_point=store_point)
    with Background() as work:
        points = StoredPoints(writer, work, {}, told.append)
        for number in range(10):
            newest[0] = number
            points.offer()
            began.wait()
        gate.set()
    assert uploaded == [0, 9]
    assert told == ["note: a resume point is stored on this machine only: it is away"]
