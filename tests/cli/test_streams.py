"""Streams that are closed, folders that are gone, files that are none: one line, and nothing is replaced or lost."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, Chain, Cli

from rewindctl.models import models, register_model
from rewindctl.registry import Registry

ROOT = str(Path(__file__).parents[2])


def shell(line: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m rewindctl {line}"
    environment = os.environ | {"PYTHONPATH": ROOT}
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)


def test_a_working_folder_that_is_gone_is_named() -> None:
    """In a process of its own, which may lose its folder."""
    Path("lost").mkdir()
    os.chdir("lost")
    Path.cwd().rmdir()
    done = shell("list")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-2:] == [
        "error: the working folder was deleted",
        "hint: cd to an existing folder",
    ]


def test_a_closed_stdout_is_said_before_anything_is_done(tmp_path: Path) -> None:
    done = shell("train-dense --model resnet8 --dataset digits >&-")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 2)
    assert "stdout is closed" in done.stderr
    assert not (tmp_path / "mlflow.db").exists()


def test_a_closed_stderr_costs_nothing() -> None:
    done = shell("data list 2>&-")
    assert (done.returncode, "digits" in done.stdout) == (0, True)


def test_talk_that_nobody_reads_costs_no_run(store: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-m", "rewindctl", "train-dense", *TINY, "--seed", "3"]
    done = subprocess.run(
        line, stdout=subprocess.PIPE, stderr=writing, env=os.environ | {"PYTHONPATH": ROOT}, check=False, text=True
    )
    os.close(writing)
    assert done.returncode == 0
    assert Registry(f"sqlite:///{store}").get(done.stdout.strip()).finished


# Files that are none

ODD: dict[str, Callable[[Path], object]] = {
    "a symbolic link": lambda path: path.symlink_to("elsewhere"),
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(path.name),
}


@pytest.mark.parametrize("kind", ODD)
def test_nothing_but_a_file_is_replaced(chain: Chain, cli: Cli, tmp_path: Path, kind: str) -> None:
    (tmp_path / "elsewhere").write_text("somebody's")
    at = ("--tracking-uri", chain.uri)
    for path, line in {
        "out.bundle": ("registry", "export", "out.bundle", "--overwrite", *at),
        "plots/runs.csv": ("compare", "--output", "plots", *at),
    }.items():
        place = tmp_path / path
        place.parent.mkdir(exist_ok=True)
        os.chdir(place.parent)
        ODD[kind](Path(place.name))
        os.chdir(tmp_path)
        before = place.lstat()
        answer = cli(*line)
        assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 2), answer
        assert f"is {kind}" in answer.err
        assert place.lstat().st_ino == before.st_ino
    assert (tmp_path / "elsewhere").read_text() == "somebody's"


# Plug-ins that end the command

ENDS = ["SystemExit(0)", "GeneratorExit()", "asyncio.CancelledError()"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("jobs", [(), ("--seeds", "0-1", "--jobs", "1")])
def test_an_exit_of_a_plugin_is_a_failure_with_its_reason(
    store: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, end: str, jobs: tuple[str, ...]
) -> None:
    import asyncio

    from torch import Tensor, nn

    calls: list[None] = []

    class Ending(nn.Module):
        def __init__(self, config: object) -> None:
            super().__init__()
            self.stem = nn.Conv2d(1, 8, 3, padding=1)
            self.head = nn.Linear(8, 10)

        def forward(self, images: Tensor) -> Tensor:
            if self.training and len(images) > 2:
                calls.append(None)
                raise eval(end, {"asyncio": asyncio})
            return self.head(self.stem(images).relu().mean(dim=(2, 3)))  # type: ignore[no-any-return]

    register_model("ending")(Ending)
    try:
        answer = cli("train-dense", "--model", "ending", *TINY[2:], *jobs)
    finally:
        models._entries.pop("ending")
    assert calls, answer
    assert (answer.code, answer.out) == (1, "")
    assert end.partition("(")[0].rpartition(".")[2] in answer.err
    runs = Registry(f"sqlite:///{store}").search()
    assert {run.status for run in runs} == {"FAILED"}
    assert end.partition("(")[0].rpartition(".")[2] in runs[0].tags["rewindctl.error"]
