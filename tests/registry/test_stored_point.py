"""The resume point that an artifact store has: whole, of this kind of machine and later than our own, or left."""

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Chain, Cli
from servers import Server
from started import Started

from rewindctl.checks.verify import verify
from rewindctl.datasets import load_dataset
from rewindctl.errors import RegistryError
from rewindctl.pipeline.requests import dense_spec
from rewindctl.registry import Machine, Registry, RunRecord, RunWriter
from rewindctl.registry import records as tag
from rewindctl.registry.runs.stored_point import POINT, about_of, bring
from rewindctl.registry.store.address import local_path
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.system.files import state_folder

HERE = {"device": "a processor"}


@pytest.fixture
def registry(store: Path) -> Registry:
    return Registry(f"sqlite:///{store}")


@pytest.fixture
def writer(registry: Registry) -> RunWriter:
    """Of a run whose point at iteration 5 is in the store, and here no more."""
    writer = registry.start(dense_spec("resnet8", load_dataset("digits"), 0, iterations=24), "a run", None, {})
    here(writer, 5)
    writer.store_point(HERE)
    writer.resume_file.unlink()
    return writer


def here(writer: RunWriter, iteration: int) -> None:
    writer.resume_file.parent.mkdir(parents=True, exist_ok=True)
    TrainState({}, {}, {}, iteration).save(writer.resume_file, {})


def stored(registry: Registry, writer: RunWriter) -> Path:
    folder = local_path(registry.get(writer.run_id).artifact_uri)
    assert folder is not None
    return folder / POINT


def brought(registry: Registry, writer: RunWriter, made_on: dict[str, str]) -> tuple[int | None, list[str]]:
    """The iteration of the point that is here after `bring`, and what was said."""
    said: list[str] = []
    bring(registry.client, registry.get(writer.run_id), writer.resume_file, Machine(made_on, said.append))
    there = writer.resume_file.is_file()
    return TrainState.iteration_of(writer.resume_file) if there else None, said


@pytest.mark.parametrize(("own", "after"), [(None, 5), (4, 5), (5, 5), (6, 6)])
def test_the_later_point_is_had(registry: Registry, writer: RunWriter, own: int | None, after: int) -> None:
    if own is not None:
        here(writer, own)
    assert brought(registry, writer, HERE) == (after, [])
    writer.fail(KeyboardInterrupt())
    assert stored(registry, writer).is_file(), "a killed run keeps it"


def cut(data: bytes) -> bytes:
    return data[:-20]


def mixed(data: bytes) -> bytes:
    """The beginning of one upload, the end of another."""
    return b"\0" * 8 + data[8:]


def longer(data: bytes) -> bytes:
    return data[:40] + data


def foreign(data: bytes) -> bytes:
    return data.replace(b'"iteration":5', b'"iteration":-5')


@pytest.mark.parametrize("damage", [cut, mixed, longer, foreign])
def test_half_an_upload_is_no_point(registry: Registry, writer: RunWriter, damage: Callable[[bytes], bytes]) -> None:
    path = stored(registry, writer)
    path.write_bytes(damage(path.read_bytes()))
    said = f"note: the stored resume point of run {writer.run_id} cannot be used: it is not whole"
    assert brought(registry, writer, HERE) == (None, [f"{said}; the training starts again from its beginning"])
    here(writer, 4)
    assert brought(registry, writer, HERE) == (4, [said])
    writer.fail(ValueError("a reason"))
    assert not path.parent.exists(), "a failed run goes on nowhere"
    assert tag.RESUME_POINT not in registry.get(writer.run_id).tags


def test_a_point_of_another_kind_of_machine_is_left(registry: Registry, writer: RunWriter) -> None:
    why = "device was a processor, here it is a GPU"
    said = f"note: the stored resume point of run {writer.run_id} cannot be used: {why}"
    assert brought(registry, writer, {"device": "a GPU"}) == (
        None,
        [f"{said}; the training starts again from its beginning"],
    )
    stored(registry, writer).unlink()
    assert brought(registry, writer, HERE) == (None, [])
    writer.fail(KeyboardInterrupt())


def test_no_point_is_ahead_of_what_the_store_has(registry: Registry, writer: RunWriter) -> None:
    """While something waits on this machine's disk a point that builds on it would be one without its metrics."""
    before = stored(registry, writer).read_bytes()
    here(writer, 6)
    writer._post.keep({"do": "tags", "rows": []})
    with pytest.raises(RegistryError, match="is held locked by another program"):
        writer.store_point(HERE)
    assert stored(registry, writer).read_bytes() == before
    writer._post.flush()
    writer.store_point(HERE)
    assert stored(registry, writer).read_bytes() != before
    writer.fail(KeyboardInterrupt())


def digests(registry: Registry, run: RunRecord) -> dict[str, str]:
    manifest = registry.manifest(run)
    return {
        path: entry["sha256"] for path, entry in manifest.items() if path not in ("environment.json", "record.json")
    }


@pytest.mark.slow
@pytest.mark.parametrize("server", ["sqlite"], indirect=True)
def test_killed_and_gone_on_with_elsewhere_through_a_server(server: Server, chain: Chain, cli: Cli) -> None:
    """SIGKILL, and its machine never heard of again: a day later another one has the point from the server."""
    at = ("--tracking-uri", server.uri, "--experiment", "preempted")
    line = ("train-dense", "--model", "resnet8", "--dataset", "digits", "--iterations", "60", "--evaluate-every", "10")
    process = Started(*line, "--resume-points", "store", "--checkpoint-every", "0", *at)
    while process.poll() is None and not any(about_of(path).iteration for path in server.artifacts.rglob(POINT)):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    registry = Registry(server.uri, "preempted")
    (run,) = registry.search()
    shutil.rmtree(state_folder())
    registry.client.set_tag(run.run_id, tag.OWNER, "elsewhere:1:1:00000000:1")
    registry.client.set_tag(run.run_id, tag.HEARTBEAT, str(int(time.time()) - 100_000))
    answer = cli(*line, "--resume-points", "store", *at)
    assert answer.run_id == run.run_id
    assert f"resuming run {run.run_id} from iteration " in answer.err
    unbroken = cli(*line, *at, "--force").run_id
    assert digests(registry, registry.get(run.run_id)) == digests(registry, registry.get(unbroken))
    assert not list(server.artifacts.rglob(POINT))
    assert verify(registry, registry.get(run.run_id)) == []
