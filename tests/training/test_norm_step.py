"""The laws of a training hold for a network of one's own whose norms with their ReLUs are kernels of our own."""

import gc
import json
import weakref
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from conftest import quickly
from torch import Tensor, nn
from torch.nn.functional import dropout, relu
from trainings import SETTINGS, Keeper

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import DivergedError
from rewindctl.fused.norm_relu import NormRelu, NormThenRelu
from rewindctl.fused.pairs import is_whole, unfit
from rewindctl.models import Network, build_network, kernels
from rewindctl.models.network import NetworkConfig
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.agreement import disagreement
from rewindctl.training.fused_step import NormStepper
from rewindctl.training.kernels import reproducible
from rewindctl.training.loop import evaluate, train
from rewindctl.training.step import Stepper, stepper_for

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHORT = replace(SETTINGS, batch_size=12, iterations=3, evaluate_every=2, checkpoint_at=(), step="fused")
UPDATES = 3


@pytest.fixture(scope="module")
def data() -> DeviceData:
    """Few test images: evaluating is not what is tried here."""
    whole = DeviceData.upload(load_dataset("digits", None), DEVICE)
    return replace(whole, test_images=whole.test_images[:20], test_labels=whole.test_labels[:20])


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with reproducible(DEVICE, deterministic=True):
        yield tmp_path / "rewindctl" / "fused_step.json"


class Own(Network):
    """A stem, a block with a shortcut, a norm that no ReLU follows, and a pre-activation part."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.first, self.second = (nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
        self.third, self.norm3 = nn.Conv2d(16, 32, 1), nn.BatchNorm2d(16)
        self.norm4, self.dense = nn.BatchNorm2d(32), nn.Linear(32, 10)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm2(self.second(self.relu(self.norm1(self.first(x)))))
        y += x
        return self.end(self.norm3(self.relu(y)))

    def end(self, x: Tensor) -> Tensor:
        return self.dense(relu(self.norm4(self.third(x))).mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Dropping(Own):
    def end(self, x: Tensor) -> Tensor:
        return super().end(dropout(x, 0.3, self.training))


class Scaled(Own):
    def end(self, x: Tensor) -> Tensor:
        return super().end(2 * x)


def network(kind: type[Own] = Own) -> Network:
    torch.manual_seed(3)
    return kind()


def initial() -> TrainState:
    return TrainState.initial(network())


def half() -> Mask:
    draw = torch.Generator().manual_seed(1)
    return Mask({name: torch.rand(kernel.shape, generator=draw) < 0.5 for name, kernel in kernels(network()).items()})


def all_of(state: TrainState) -> dict[str, Tensor]:
    """Every tensor of a state."""
    return {
        f"{part} {name}": tensor
        for part in ("parameters", "buffers", "momentum")
        for name, tensor in getattr(state, part).items()
    }


def equal(one: TrainState, other: TrainState) -> bool:
    """Byte for byte."""
    mine, others = all_of(one), all_of(other)
    return list(mine) == list(others) and all(torch.equal(value, others[name]) for name, value in mine.items())


def apart(one: Tensor, other: Tensor) -> float:
    """The norm of the difference beside that of `other`, which may be rounding alone: of a bias before a norm."""
    return float((one.double() - other.double()).norm() / other.double().norm().clamp(min=0.03))


def made_by_kernels(stepper: NormStepper) -> int:
    return sum(isinstance(module, NormThenRelu) for module in stepper.forward.modules())


@pytest.mark.parametrize("masked", [quickly(masked, True) for masked in (False, True)])
def test_updates_are_those_of_the_reference(data: DeviceData, masked: bool) -> None:
    """In float32 to 1e-5 of every tensor, counters and all; what is masked is exactly 0; evaluation is not touched."""
    mask = half() if masked else None
    reference = Stepper(network(), data, SHORT, initial(), mask, capture=False)
    stepper = NormStepper(network(), data, SHORT, initial(), mask)
    assert made_by_kernels(stepper) == 4
    for t in range(UPDATES):
        reference.update(t)
        stepper.update(t)
        state, wanted = stepper.state(t + 1), all_of(reference.state(t + 1))
        found = all_of(state)
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            assert apart(found[name], value) < 1e-5, (t, name)
        for name, kept in (mask.tensors() if mask else {}).items():
            assert not state.parameters[name][~kept].any()
            assert not state.momentum[name][~kept].any()
    assert stepper.mean_loss() == pytest.approx(reference.mean_loss(), rel=1e-6)
    assert type(stepper.network_now()) is Own
    plain = network()
    state.load_into(plain)
    plain.to(DEVICE).to(memory_format=torch.channels_last)
    assert evaluate(stepper.network_now(), data) == evaluate(plain, data)
    assert equal(stepper.state(UPDATES), state)


@pytest.mark.parametrize("precision", [quickly(precision, "bf16") for precision in ("fp32", "bf16")])
def test_lean_updates_make_the_bytes_of_plain_ones(data: DeviceData, precision: Literal["fp32", "bf16"]) -> None:
    settings = replace(SHORT, precision=precision)
    lean, plain = (NormStepper(network(), data, settings, initial(), half(), False, lean) for lean in (True, False))
    for t in range(2):
        lean.update(t)
        plain.update(t)
        assert equal(lean.state(t + 1), plain.state(t + 1))
    assert lean._lean
    assert len(lean._lean._counters) == 5
    assert len(lean._lean._weights) == (7 if precision == "bf16" else 0)


def test_a_training_goes_on_to_the_same_bytes(data: DeviceData) -> None:
    whole = NormStepper(network(), data, SHORT, initial(), half())
    for t in range(3):
        whole.update(t)
        if t == 0:
            point = whole.point(1, (), 0.0, 0.0)
    begun = NormStepper(network(), data, SHORT, point.state, half())
    begun.first_batch = 0
    begun.losses.go_on_from(point.loss_sum, point.loss_count)
    for t in range(1, 3):
        begun.update(t)
    assert equal(whole.state(3), begun.state(3))
    assert whole.mean_loss() == begun.mean_loss()


def test_a_training_that_diverges_says_where(data: DeviceData) -> None:
    stepper = NormStepper(network(), data, replace(SHORT, constant_lr=1e30), initial(), None)
    stepper.update(0)
    with pytest.raises(DivergedError, match="iteration 1"):  # on a CPU before it, on a GPU when it is asked
        stepper.update(1) or stepper.mean_loss()


@pytest.mark.parametrize(
    ("kind", "precision"),
    [(Own, "fp32"), pytest.param(Own, "bf16", marks=pytest.mark.slow), (Dropping, "bf16")],
)
def test_it_is_taken_where_it_agrees(
    data: DeviceData, kind: type[Own], precision: Literal["fp32", "bf16"], own_folder: Path
) -> None:
    """Compared before it, also where a layer draws at random; each structure by itself."""
    settings = replace(SHORT, precision=precision)
    assert not is_whole(network(kind))
    assert unfit(network(kind)) == ""
    with closing(stepper_for(network(kind), data, settings, initial(), half())) as stepper:
        assert (stepper.step, stepper.note) == ("fused", "")
    assert disagreement(NormStepper, network(Scaled), data, settings, initial(), half()) == ""
    assert list(json.loads(own_folder.read_text()).values()) == ["", ""]


def test_a_wrong_kernel_is_seen_and_not_trained_with(data: DeviceData, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = NormRelu.backward
    monkeypatch.setattr(NormRelu, "backward", staticmethod(lambda ctx, dy: whole(ctx, 1.1 * dy)))
    with closing(stepper_for(network(), data, SHORT, initial(), None)) as stepper:
        assert stepper.step == "pytorch"
        assert stepper.note.startswith("on this device they make the gradient of ")


def test_one_that_cannot_be_traced_here_is_trained_and_says_why(data: DeviceData) -> None:
    """A run that began with kernels, and whose network has a hook now."""
    changed = network()
    changed.register_forward_hook(lambda *_: None)
    with closing(stepper_for(changed, data, SHORT, initial(), None)) as stepper:
        assert (stepper.step, stepper.note) == ("pytorch", "it has hooks")


@pytest.mark.slow
def test_a_resnet_of_somebody_elses_class(data: DeviceData) -> None:
    """A built-in network under another class goes this way: a whole training, and its evaluations."""
    built = build_network("resnet8", NetworkConfig(1, 10, 0.1, 1e-5), 0)
    built.__class__ = type("Mine", (type(built),), {})
    start = TrainState.initial(built)
    keeper, usual = Keeper(), Keeper()
    found = train(built, data, SHORT, start, keeper)
    wanted = train(built, data, replace(SHORT, step="pytorch"), start, usual)
    assert (found.step, found.note, wanted.step) == ("fused", "", "pytorch")
    for name, value in wanted.state.parameters.items():
        torch.testing.assert_close(found.state.parameters[name], value, rtol=1e-4, atol=1e-6)


def test_a_stepper_is_gone_with_its_last_name(data: DeviceData) -> None:
    stepper = NormStepper(network(), data, SHORT, initial(), None)
    stepper.update(0)
    seen = weakref.ref(stepper), weakref.ref(stepper.network)
    gc.disable()
    try:
        del stepper
        assert [found() for found in seen] == [None, None]
    finally:
        gc.enable()
