"""What makes the updates of a training: recorded, kept by a run that is gone on with, refused where it cannot be."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import TINY, Chain, Cli
from torch import Tensor, nn

from rewindctl.fused.trials import FusedTrials
from rewindctl.models import NetworkConfig, models
from rewindctl.pipeline import replays
from rewindctl.pipeline.train_run import RunObserver
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.runs.manifest import FINAL
from rewindctl.training import step as steppers
from rewindctl.training.records import ResumePoint

CAN_COMPILE = shutil.which("g++") is not None and Path(sysconfig.get_path("include"), "Python.h").is_file()
CPU = ("--device", "cpu")
FUSED = ("--update-step", "fused", *CPU)


# Two updates, for here the kernels are interpreted.
SMALL = ("--model", "resnet8", "--dataset", "digits", "--iterations", "2", "--batch-size", "6")
SMALL += ("--evaluate-every", "1", "--rewind-points", "0")


@contextmanager
def able(left_out: str = "") -> Iterator[None]:
    """A machine that makes updates by kernels of our own; `left_out`: one of them that does nothing there."""

    def run(self: FusedTrials) -> None:
        for launch in self.launches:
            if launch.name != left_out:
                launch()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FusedTrials, "run", run)
        for module in (steppers, replays):
            patched.setattr(module, "missing_part", lambda device: "")
        yield


class Linear(nn.Module):
    """A network of one's own."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.in_channels, config.classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.dense(images.mean(dim=(2, 3)))
        return logits


@pytest.fixture
def linear() -> Iterator[None]:
    models.register("linear")(Linear)
    yield
    models._entries.pop("linear")


def interrupted(self: RunObserver, make: Callable[[], ResumePoint]) -> None:
    """In the place of `RunObserver.resumable`: Ctrl-C at the first evaluation after updates."""
    KEPT(self, make)
    if make().state.iteration:
        raise KeyboardInterrupt


KEPT = RunObserver.resumable


def digest(registry: Registry, run: RunRecord) -> str:
    return str(registry.manifest(run)[FINAL]["sha256"])


def how(run: RunRecord) -> tuple[str, str]:
    return run.tags[tag.STEP], run.tags[tag.COMPILED]


def test_the_step_is_recorded_and_decides_not_which_run_is_found(copied_chain: Chain, cli: Cli) -> None:
    registry = copied_chain.registry()
    runs = [registry.get(one) for one in (copied_chain.dense, copied_chain.lr_rewind)]
    assert [how(run) for run in runs] == [("pytorch", "False")] * 2
    assert not {tag.STEP, tag.COMPILED} & set(registry.get(copied_chain.prune).tags)
    for asked in (("--update-step", "pytorch"), ("--compile",), ()):
        assert cli("train-dense", *TINY, *asked, "--tracking-uri", copied_chain.uri).run_id == copied_chain.dense


def test_the_refusal_is_before_a_run_wherever_a_training_would_be_made(
    copied_chain: Chain, cli: Cli, linear: None
) -> None:
    """The device lacks something, or has all and the network is another."""
    registry = copied_chain.registry()
    before = registry.search()
    at, point = ("--tracking-uri", copied_chain.uri), ("--method", "finetune", "--iterations", "3")
    lines: list[tuple[str, ...]] = [
        ("retrain", "--parent", copied_chain.prune, *point),
        ("iterate", "--parent", copied_chain.dense, *point, "--step", "0.5", "--until", "0.5"),
        ("train-dense", *TINY, "--seeds", "1-2", "--jobs", "2"),
        ("reproduce", "fig1", "--scale", "0.01"),
    ]
    for line in lines:
        answer = cli(*line, *FUSED, *at)
        assert (answer.code, answer.out) == (2, ""), line
        assert "--update-step fused: " in answer.err
        assert "use --update-step auto" in answer.err
    with able():
        answer = cli("train-dense", "--model", "linear", *TINY[2:], *FUSED, *at)
    assert answer.code == 2
    assert "--update-step fused: its batch norms are not followed by a ReLU that our kernels know" in answer.err
    assert registry.search() == before


@pytest.mark.slow
def test_an_interrupted_run_keeps_its_step(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ends as the unbroken one, byte for byte."""
    registry, command = Registry(f"sqlite:///{store}"), ("train-dense", *SMALL, "--checkpoint-every", "0")
    with monkeypatch.context() as here:
        here.setattr(RunObserver, "resumable", interrupted)
        with able():
            assert cli(*command, *FUSED).code == 130
    (left,) = registry.search()
    assert how(left) == ("fused", "False")
    elsewhere = cli(*command, *CPU)
    assert elsewhere.code == 1
    assert f"run {left.run_id} began with it" in elsewhere.err
    with able():
        answer = cli(*command, "--update-step", "pytorch", *CPU)
        unbroken = cli(*command, *FUSED, "--force").run_id
    assert "from iteration 1" in answer.err
    assert (answer.run_id, how(registry.get(answer.run_id))) == (left.run_id, ("fused", "False"))
    assert digest(registry, registry.get(unbroken)) == digest(registry, registry.get(left.run_id))


@pytest.mark.slow
def test_a_replay_is_made_in_the_step_of_its_training(cli: Cli, store: Path) -> None:
    registry = Registry(f"sqlite:///{store}")
    with able():
        dense = cli("train-dense", *SMALL, *FUSED).run_id
    line = ("replay", "--parent", dense, "--iteration", "1", *CPU)
    answer = cli(*line)
    assert answer.code == 2
    assert "cannot be recomputed here: its updates were computed by the fused kernels: " in answer.err
    with able():
        assert how(registry.get(cli(*line, "--compile").run_id)) == ("fused", "False")


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["", "blocks.1.norm2"])
def test_a_run_says_what_made_its_updates_after_all(cli: Cli, store: Path, left_out: str) -> None:
    """Where the kernels do what they do elsewhere, and where one of them does nothing."""
    with able(left_out):
        answer = cli("train-dense", *SMALL, *FUSED, "--precision", "bf16")
    taken = "pytorch" if left_out else "fused"
    assert how(Registry(f"sqlite:///{store}").get(answer.run_id)) == (taken, "False")
    assert ("not with the fused kernels: on this device they make a loss of " in answer.err) == bool(left_out)


@pytest.mark.slow
def test_no_compiler_is_one_line(tmp_path: Path) -> None:
    """In a process of its own, since PyTorch looks for a compiler once."""
    world = os.environ | {
        "CXX": str(tmp_path / "none"),
        "PATH": str(tmp_path),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
    }
    line = (sys.executable, "-m", "rewindctl", "bench", "--model", "resnet8", "--seconds", "0", "--device", "cpu")
    done = subprocess.run([*line, "--compile", "--quiet"], env=world, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: PyTorch's compiler does not work here: ")
    assert hint.startswith("hint: leave out --compile")


@pytest.mark.slow
@pytest.mark.skipif(not CAN_COMPILE, reason="needs g++ and the headers of Python")
def test_a_compiled_run_that_is_gone_on_with_is_the_unbroken_one(
    cli: Cli, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    registry, command = Registry(f"sqlite:///{store}"), ("train-dense", *TINY, "--checkpoint-every", "0", *CPU)
    with monkeypatch.context() as here:
        here.setattr(RunObserver, "resumable", interrupted)
        assert cli(*command, "--compile").code == 130
    gone_on = registry.get(cli(*command).run_id)
    unbroken = registry.get(cli(*command, "--compile", "--force").run_id)
    assert how(gone_on) == how(unbroken) == ("pytorch", "True")
    assert gone_on.run_id != unbroken.run_id
    assert digest(registry, gone_on) == digest(registry, unbroken)
    plain = registry.get(cli(*command, "--force").run_id)
    assert digest(registry, plain) != digest(registry, unbroken)
