"""An outbox has one process at it: who comes second waits for the first, and leaves the chain of entries whole."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewindctl.datasets import load_dataset
from rewindctl.errors import DiskError
from rewindctl.pipeline.requests import dense_spec
from rewindctl.registry import Registry, RunWriter
from rewindctl.registry.delivery import sender as delivery
from rewindctl.registry.delivery.outbox import JOURNAL, LOCK, Outbox, forget
from rewindctl.registry.runs.opening import about_of

HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer(store: Path) -> Iterator[RunWriter]:
    """An open run with an outbox that a killed process left, its last line half written."""
    spec = dense_spec("resnet8", load_dataset("digits"), 0, iterations=24)
    writer = Registry(f"sqlite:///{store}").start(spec, "a run", None, {})
    box = Outbox.make(writer.run_id, {"uri": f"sqlite:///{store}", **about_of("f", "a run", forced=False)})
    box.append({"do": "tags", "rows": [["first", "1"]]})
    with (box.folder / JOURNAL).open("ab") as journal:
        journal.write(b'{"chain": "ab')
    yield writer
    writer.fail(KeyboardInterrupt())


@pytest.fixture
def holder(writer: RunWriter) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has locked the outbox, as `recover` does while it looks."""
    lock = str(found(writer).folder / LOCK)
    line = [sys.executable, "-c", HOLD, lock]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def found(writer: RunWriter) -> Outbox:
    box = Outbox.find(writer.run_id)
    assert box is not None
    return box


def test_an_outbox_that_another_process_looks_at_is_waited_for(
    writer: RunWriter, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, refused = Outbox.lock, list[bool]()

    def counted(box: Outbox) -> bool:
        if not (got := lock(box)):
            refused.append(got)
            holder.kill()
        return got

    monkeypatch.setattr(Outbox, "lock", counted)
    post = writer._post
    post.use(found(writer))
    post.keep({"do": "tags", "rows": [["second", "2"]]})
    assert refused
    assert [entry.get("rows") for entry in found(writer).entries] == [None, [["first", "1"]], [["second", "2"]]]


def test_an_outbox_that_another_process_does_not_let_go_is_left_as_it_is(
    writer: RunWriter, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "LOCK_SECONDS", 0.0)
    journal = found(writer).folder / JOURNAL
    before = journal.read_bytes()
    with pytest.raises(DiskError, match="another process is using it"):
        writer._post.use(found(writer))
    assert writer._post.box is None
    assert journal.read_bytes() == before


def test_an_outbox_that_was_uploaded_meanwhile_is_said_to_be_gone(writer: RunWriter) -> None:
    box = found(writer)
    forget(box.folder)
    with pytest.raises(DiskError, match="is gone: another process has uploaded it"):
        writer._post.use(box)
