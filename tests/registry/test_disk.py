"""Disks that are full or read-only, stores and runs that were cut off: one clear error, and the same again works."""

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Chain
from started import Started

from rewindctl.datasets import load_dataset
from rewindctl.errors import DiskError, RewindError
from rewindctl.models import build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.pipeline.requests import dense_spec
from rewindctl.registry import Registry, RunWriter
from rewindctl.registry.records import OWNER
from rewindctl.registry.store.failures import StoreError
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import DenseSpec
from rewindctl.system.files import disk_error, of_the_disk

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def registry(store: Path) -> Registry:
    return Registry(f"sqlite:///{store}")


@pytest.fixture
def spec() -> DenseSpec:
    return dense_spec("resnet8", load_dataset("digits"), 0, iterations=24)


def start(registry: Registry, spec: DenseSpec) -> RunWriter:
    return registry.start(spec, "a run", None, {})


# What is said


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "make it writable"),
        (errno.EACCES, "make it writable"),
        (errno.EIO, "check its disk"),
    ],
)
def test_the_error_names_the_path_and_what_to_do(number: int, advice: str) -> None:
    told = disk_error(OSError(number, os.strerror(number)), Path("/some/file"))
    assert told.message == f"/some/file cannot be written: {os.strerror(number)}"
    assert told.hint.startswith(advice)
    assert told.hint.endswith("then the same command goes on")


@pytest.mark.parametrize("number", [errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG])
def test_a_path_that_cannot_be_one_is_not_the_disks_fault(number: int) -> None:
    assert not of_the_disk(OSError(number, "wrong"))


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may have more than 1,000 bytes: a full disk for any user."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_without_room_says_so(tmp_path: Path, small_files: None) -> None:
    state = TrainState.initial(build_network("resnet8", NetworkConfig(1, 10, 0.1, 1e-5), seed=0))
    with pytest.raises(OSError, match="File too large") as caught:
        state.save(tmp_path / "weights.safetensors")
    assert caught.value.errno == errno.EFBIG


def test_others_may_read_a_checkpoint_and_nothing_is_beside_it(tmp_path: Path) -> None:
    state = TrainState.initial(build_network("resnet8", NetworkConfig(1, 10, 0.1, 1e-5), seed=0))
    state.save(tmp_path / "weights.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "weights.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert len(list(tmp_path.iterdir())) == 2


def test_an_artifact_without_room_is_named(registry: Registry, spec: DenseSpec) -> None:
    writer = start(registry, spec)
    with (
        pytest.raises(DiskError, match=r"plots/a\.png cannot be written: No space left"),
        writer.artifact("plots/a.png"),
    ):
        raise FULL
    writer.fail(KeyboardInterrupt())


# What is kept


@pytest.mark.parametrize("error", [DiskError("full"), StoreError("gone")], ids=["disk", "store"])
def test_what_is_not_the_stages_fault_keeps_its_resume_point(
    registry: Registry, spec: DenseSpec, error: RewindError
) -> None:
    writer = start(registry, spec)
    writer.resume_file.parent.mkdir(parents=True)
    writer.resume_file.touch()
    writer.fail(error)
    assert registry.get(writer.run_id).status == "KILLED"
    again = start(registry, spec)
    assert again.run_id == writer.run_id
    again.fail(ValueError("a defect"))
    assert not again.resume_file.exists()


def test_half_an_upload_goes_when_the_run_goes_on(registry: Registry, spec: DenseSpec) -> None:
    writer = start(registry, spec)
    writer.resume_file.parent.mkdir(parents=True)
    writer.resume_file.touch()
    folder = Path(registry.get(writer.run_id).artifact_uri.removeprefix("file://"))
    (folder / ".artifact.uploading.abc").write_text("half")
    writer.fail(KeyboardInterrupt())
    again = start(registry, spec)
    assert [path.name for path in folder.iterdir()] == ["spec.json"]
    again.fail(ValueError("a defect"))


def test_a_report_that_was_killed_is_closed_by_the_next(registry: Registry) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    dead, living = (registry.start_report(name, "") for name in ("dead", "living"))
    registry.client.set_tag(dead.run_id, OWNER, f"{socket.gethostname()}:{process.pid}")
    last = registry.start_report("last", "")
    found = [registry.get(writer.run_id).status for writer in (dead, living, last)]
    assert found == ["KILLED", "RUNNING", "RUNNING"]
    for writer in (dead, living, last):
        writer.fail(KeyboardInterrupt())


# Processes of their own.


@pytest.mark.slow
def test_a_store_whose_making_was_cut_off_is_made_again(tmp_path: Path) -> None:
    process = Started("init")

    def is_half_made() -> bool:
        with suppress(FileNotFoundError):  # renamed in that moment
            return any(path.stat().st_size > 100_000 for path in tmp_path.glob(".mlflow-*.db"))
        return False

    process.until(is_half_made, every=0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "mlflow.db").exists()
    assert Started("init").wait() == 0
    assert sorted(path.name for path in tmp_path.iterdir() if "mlflow" in path.name) == [".mlflow.db.lock", "mlflow.db"]


READ_ONLY = """
import shutil, sys
from pathlib import Path
from conftest import settle
from soak import disks
source, target, tests = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
if reason := disks.enter():
    sys.exit(f"no read-only disk can be made here: {reason}")
disks.mount(target, 1 << 28)
shutil.copytree(source, target, dirs_exist_ok=True)
settle(target / "mlflow.db")
disks.resize(target, 1 << 28, read_only=True)
from rewindctl.cli import run
uri = f"sqlite:///{target}/mlflow.db"
print([run([*line.split(), "--tracking-uri", uri]) for line in tests], file=sys.stderr)
"""


@pytest.mark.slow
def test_a_read_only_store_can_be_read_and_not_written(chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    reads = ["list", f"show {chain.dense}", f"lineage {chain.finetune}", f"verify {chain.prune}", "compare"]
    write = f"prune --parent {chain.dense} --compression 3"
    line = [sys.executable, "-c", READ_ONLY, str(chain.store.parent), str(tmp_path / "disk"), *reads, write]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    done = subprocess.run(line, check=False, capture_output=True, text=True, env=environment)
    assert done.stderr.splitlines()[-1] == "[0, 0, 0, 0, 0, 1]", done.stderr
    assert "readonly database" in done.stderr
    assert "hint: make it writable" in done.stderr
