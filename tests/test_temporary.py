"""Temporary names say whose they are: what a killed process left goes, what a living one or somebody else has stays."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rewindctl.system.files import replacing
from rewindctl.system.temporary import OLD_SECONDS, sweep, temporary_folder, temporary_name


@pytest.fixture
def dead(tmp_path: Path) -> str:
    """A temporary name of a process that was killed."""
    program = "import os; from rewindctl.system.temporary import temporary_name; print(temporary_name(), flush=True)"
    line = [sys.executable, "-c", f"{program}; os.kill(os.getpid(), 9)"]
    return subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()


def test_what_a_killed_process_left_goes(tmp_path: Path, dead: str) -> None:
    (tmp_path / f".weights-{dead}.safetensors").write_text("half")
    (tmp_path / f".mlflow-{dead}.db-journal").write_text("half")
    (tmp_path / f"rewindctl-{dead}-x" / "deep").mkdir(parents=True)
    with replacing(tmp_path / "other.json") as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


def test_what_a_living_process_has_stays(tmp_path: Path) -> None:
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
        sweep(tmp_path)
        assert temporary.read_text() == "new"


@pytest.mark.parametrize("name", [".hidden", "rewindctl-notes", "{dead}", "my-{dead}.txt", ".git", "rewindctl-1-2-3-4"])
def test_what_was_not_made_here_stays(tmp_path: Path, dead: str, name: str) -> None:
    path = tmp_path / name.format(dead=dead)
    path.write_text("mine")
    sweep(tmp_path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("age", "stays"), [(0.0, True), (OLD_SECONDS + 60, False)], ids=["new", "old"])
def test_a_file_of_another_machine_goes_when_it_is_old(tmp_path: Path, age: float, stays: bool) -> None:
    machine = "0" * 8
    path = tmp_path / f".file-{machine}-{temporary_name().split('-', 1)[1]}"
    path.touch()
    os.utime(path, (time.time() - age,) * 2)
    sweep(tmp_path)
    assert path.exists() == stays


def test_a_folder_is_gone_after_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary_folder() as first, temporary_folder() as second:
        assert first != second
        assert Path(first).parent == tmp_path
    assert list(tmp_path.iterdir()) == []
