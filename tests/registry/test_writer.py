"""Writing a run: batches, digests, a manifest last, and closed for good."""

import asyncio
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from rewindctl.checks.verify import verify
from rewindctl.datasets import load_dataset
from rewindctl.errors import RegistryError, RewindError
from rewindctl.pipeline.requests import dense_spec
from rewindctl.registry import Registry, RunWriter
from rewindctl.registry.records import ERROR, MANIFEST


@pytest.fixture
def registry(store: Path) -> Registry:
    return Registry(f"sqlite:///{store}")


@pytest.fixture
def writer(registry: Registry) -> RunWriter:
    """An open run of a spec that nothing else here has."""
    return registry.start(dense_spec("resnet8", load_dataset("digits"), 0, iterations=24), "a run", None, {})


def files(registry: Registry, run_id: str) -> dict[str, bytes]:
    """Every artifact of a run by path."""
    root = Path(unquote(urlsplit(registry.get(run_id).artifact_uri).path))
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


WRITES: dict[str, Callable[[RunWriter], object]] = {
    "params": lambda writer: writer.log_params({"late": "1"}),
    "metrics": lambda writer: writer.log_metrics({"late": 1.0}),
    "tag": lambda writer: writer.tag({"late": "1"}),
    "inputs": lambda writer: writer.log_inputs([]),
    "network": lambda writer: writer.log_network(24),
    "json": lambda writer: writer.write_json("late.json", {}),
    "seal": lambda writer: writer.seal(),
    "finish": lambda writer: writer.finish(),
}


@pytest.mark.parametrize("ending", ["finished", "failed"])
def test_a_closed_run_refuses_every_write(registry: Registry, writer: RunWriter, ending: str) -> None:
    writer.seal()
    if ending == "finished":
        writer.finish()
    else:
        writer.fail(ValueError("a reason"))
    before, kept = registry.get(writer.run_id), files(registry, writer.run_id)
    for name, write in WRITES.items():
        with pytest.raises(RegistryError, match=f"run {writer.run_id} is closed"):
            write(writer)
        assert (registry.get(writer.run_id), files(registry, writer.run_id)) == (before, kept), name


def test_failing_after_the_end_changes_nothing(registry: Registry, writer: RunWriter) -> None:
    writer.seal()
    finished = writer.finish()
    writer.fail(ValueError("too late"))
    assert registry.get(writer.run_id) == finished


def test_a_run_is_not_finished_without_its_manifest(registry: Registry, writer: RunWriter) -> None:
    with pytest.raises(RegistryError, match="manifest"):
        writer.finish()
    assert registry.get(writer.run_id).status == "RUNNING"


def test_nothing_is_added_after_the_manifest(registry: Registry, writer: RunWriter) -> None:
    writer.seal()
    kept = files(registry, writer.run_id)
    with pytest.raises(RegistryError, match="manifest"):
        writer.write_json("late.json", {})
    assert files(registry, writer.run_id) == kept


def test_the_manifest_holds_digest_and_size_of_every_artifact_but_itself(registry: Registry, writer: RunWriter) -> None:
    writer.write_json("folder/facts.json", {"a": 1})
    with writer.artifact("blob.bin") as path:
        path.write_bytes(bytes(range(256)))
    writer.seal()
    found = files(registry, writer.run_id)
    manifest = found.pop("manifest.json")
    assert registry.get(writer.run_id).tags[MANIFEST] == hashlib.sha256(manifest).hexdigest()
    assert json.loads(manifest)["artifacts"] == {
        path: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for path, data in found.items()
    }
    assert set(found) == {"spec.json", "record.json", "folder/facts.json", "blob.bin"}


def test_a_file_that_could_not_be_written_is_not_kept(registry: Registry, writer: RunWriter) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        writer.write_json("bad.json", {"a": math.nan})
    writer.seal()
    assert "bad.json" not in files(registry, writer.run_id)
    assert "bad.json" not in registry.manifest(registry.get(writer.run_id))


def test_more_values_than_the_store_takes_at_once_all_arrive(registry: Registry, writer: RunWriter) -> None:
    """MLflow takes 1,000 metrics, 100 params and 100 tags in a call."""
    before = registry.get(writer.run_id)
    writer.log_metrics({f"m{i}": float(i) for i in range(1_001)}, 7)
    writer.log_params({f"p{i}": str(i) for i in range(101)})
    writer.tag({f"t{i}": str(i) for i in range(101)})
    run = registry.get(writer.run_id)
    assert run.metrics == {f"m{i}": float(i) for i in range(1_001)}
    assert len(run.params) == len(before.params) + 101
    assert len(run.tags) == len(before.tags) + 101


def test_nan_is_never_a_result(registry: Registry, writer: RunWriter) -> None:
    with pytest.raises(RegistryError, match="test_loss at step 3 is NaN"):
        writer.log_metrics({"test_accuracy": 0.5, "test_loss": math.nan}, 3)
    assert registry.get(writer.run_id).metrics == {}


def test_what_was_not_measured_is_left_out(registry: Registry, writer: RunWriter) -> None:
    writer.log_metrics({"train_loss": None, "lr": 0.1})
    assert registry.get(writer.run_id).metrics == {"lr": 0.1}


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (KeyboardInterrupt(), "KILLED", "interrupted"),
        (SystemExit(0), "FAILED", "SystemExit(0)"),
        (GeneratorExit("theirs"), "FAILED", "GeneratorExit('theirs')"),
        (asyncio.CancelledError(), "FAILED", "CancelledError()"),
        (RewindError("two\nlines"), "FAILED", "two lines"),
        (ValueError("a defect"), "FAILED", "ValueError('a defect')"),
        (RewindError("long " * 1_000), "FAILED", ("long " * 100)),
    ],
    ids=["ctrl-c", "exit", "closed", "cancelled", "refusal", "defect", "long"],
)
def test_the_end_of_a_failed_run_says_why(
    registry: Registry, writer: RunWriter, error: BaseException, status: str, reason: str
) -> None:
    writer.fail(error)
    run = registry.get(writer.run_id)
    assert (run.status, run.tags[ERROR].strip()) == (status, reason.strip())


def test_failing_does_not_hide_the_error_when_the_store_is_gone(store: Path, writer: RunWriter) -> None:
    store.write_bytes(b"ruins" * 1_000)
    writer.fail(ValueError("the real reason"))


def test_nothing_is_left_in_the_temporary_folder(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    spec = dense_spec("resnet8", load_dataset("digits"), 0, iterations=24)
    writer = registry.start(spec, "a run", None, {})
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    writer.seal()
    writer.finish()
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("hours", [-5, 5])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_clock_that_is_set_anew_leaves_no_point_after_the_end(
    registry: Registry, writer: RunWriter, monkeypatch: pytest.MonkeyPatch, hours: int, interrupted: bool
) -> None:
    """During a training, or before another process goes on with it."""
    writer.log_metrics({"test_accuracy": 0.5}, 0)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
    if interrupted:
        writer.resume_file.parent.mkdir(parents=True)
        writer.resume_file.touch()
        writer.fail(KeyboardInterrupt())
        (spec,) = [run.spec for run in registry.search()]
        writer = registry.start(spec, "a run", None, {})
    writer.log_metrics({"test_accuracy": 0.75}, 1)
    writer.seal()
    run = writer.finish()
    times = [time for _, time, _ in sorted(registry.history(run, "test_accuracy"))]
    assert run.started <= times[0] <= times[1] <= run.ended
    assert not [problem for problem in verify(registry, run) if "recorded" in problem or "had ended" in problem]
