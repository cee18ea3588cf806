"""A step whose passes PyTorch's compiler makes follows the step as it is written."""

import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from trainings import SETTINGS

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.models import Network
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.kernels import reproducible
from rewindctl.training.step import Stepper

UPDATES = 4
CAN_COMPILE = shutil.which("g++") is not None and Path(sysconfig.get_path("include"), "Python.h").is_file()


class Small(Network):
    """Small, for each layer is a second of compiling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.dense = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.dense(self.norm(self.conv(images)).relu().mean(dim=(2, 3)))
        return made


def follows(device: torch.device) -> Stepper:
    """The compiled one of two steppers that make equal updates, but for last bits."""
    data = DeviceData.upload(load_dataset("digits"), device)
    start, settings = TrainState.initial(Small()), replace(SETTINGS, batch_size=32)
    plain = Stepper(Small(), data, settings, start, None, capture=False)
    compiled = Stepper(Small(), data, settings, start, None, compiled=True)
    for t in range(UPDATES):
        plain.update(t)
        compiled.update(t)
    one, other = plain.state(UPDATES), compiled.state(UPDATES)
    for part in ("parameters", "buffers", "momentum"):
        torch.testing.assert_close(getattr(other, part), getattr(one, part), rtol=1e-4, atol=1e-5)
    assert compiled.mean_loss() == pytest.approx(plain.mean_loss(), rel=1e-5)
    return compiled


@pytest.mark.slow
@pytest.mark.skipif(not CAN_COMPILE, reason="needs g++ and the headers of Python")
def test_compiled_updates_follow_those_that_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    follows(torch.device("cpu"))


@pytest.mark.slow
def test_each_of_many_trainings_of_a_process_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch keeps eight compilations of one code and then makes no more: later trainings would have other bytes."""
    made, plain = [], torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(plain, backend=backend))
    data = DeviceData.upload(load_dataset("digits"), torch.device("cpu"))
    for size in range(16, 26):
        stepper = Stepper(
            Small(), data, replace(SETTINGS, batch_size=size), TrainState.initial(Small()), None, compiled=True
        )
        for t in range(2):
            stepper.update(t)
    assert len(made) == 10


@pytest.mark.slow
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_compiled_update_is_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    device = torch.device("cuda", 0)
    with reproducible(device, deterministic=True):
        compiled = follows(device)
    assert (compiled.captured, compiled.why_eager) == (True, "")
