"""Lean passes: fewer operations, the bytes of the plain ones, and the plain ones where a network sees a difference."""

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
import trainings
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import DivergedError
from rewindctl.models import Network, build_network, kernels
from rewindctl.models.network import NetworkConfig
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.lean import Lean, Tally
from rewindctl.training.loop import evaluate
from rewindctl.training.step import Stepper

SETTINGS = replace(trainings.SETTINGS, batch_size=32)
UPDATES = 4


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.upload(load_dataset("digits"), torch.device("cpu"))


class Small(Network):
    """Layers of every kind that another tensor can stand in for: three weights, two biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.second, self.dense = nn.Conv2d(8, 8, 3, padding=1, bias=False, padding_mode="circular"), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.dense(self.after(x).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def after(self, x: Tensor) -> Tensor:
        return self.second(x)  # type: ignore[no-any-return]


class Standardised(Small):
    """Computes with a weight in float32."""

    def after(self, x: Tensor) -> Tensor:
        weight = self.second.weight
        return conv2d(x, (weight - weight.mean(dim=(1, 2, 3), keepdim=True)) * 3, padding=1)


class Penalised(Small):
    """Reads a weight beside its layer, past the gradients."""

    def after(self, x: Tensor) -> Tensor:
        return self.second(x) / self.second.weight.detach().norm()  # type: ignore[no-any-return]


class Twice(Small):
    """Adds two gradients of a weight, and counts two batches."""

    def after(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.second(x)).relu())  # type: ignore[no-any-return]


class Hidden(Twice):
    """Twice, where no gradient of the first update is other than 0: no bytes would tell."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.dense.weight)


class Unrounded(Small):
    """A layer that autocast has no part in."""

    def after(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.second(x.float())  # type: ignore[no-any-return]


class Own(torch.autograd.Function):
    """A convolution with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return conv2d(x, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (weight,) = ctx.saved_tensors
        return gradient * 0.3, torch.full_like(weight, 0.3) * gradient.float().sum()


class OwnBackward(Small):
    def after(self, x: Tensor) -> Tensor:
        return Own.apply(x, self.second.weight)  # type: ignore[no-any-return,no-untyped-call]


class Repeated(Small):
    """Repeats a part of its forward pass in the backward one, batches that are counted twice too."""

    def after(self, x: Tensor) -> Tensor:
        return checkpoint(lambda given: self.second(self.norm(given)), x, use_reentrant=False)  # type: ignore[no-any-return]


class Shared(Small):
    """Two layers of one bias; a training refuses it, whose states are of parameters that are one layer's each."""

    def __init__(self) -> None:
        super().__init__()
        self.second.bias = self.first.bias


class Hooked(Small):
    """Halves a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.dense.weight.register_hook(lambda gradient: gradient * 0.51)


class LookedAt(Small):
    """A hook in the backward pass, which may read anything."""

    def __init__(self) -> None:
        super().__init__()
        self.second.register_full_backward_hook(
            lambda layer, given, _: tuple(g * layer.weight.abs().sum() for g in given)  # type: ignore[operator]
        )


class Cumulative(Small):
    """Averages its statistics by the number of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm.momentum = None


class Counting(Small):
    """Reads the counter itself."""

    def after(self, x: Tensor) -> Tensor:
        assert self.norm.num_batches_tracked is not None
        return self.second(x) / (1 + self.norm.num_batches_tracked)  # type: ignore[no-any-return]


class Frozen(Small):
    """No gradient for a weight, none for a layer that is not called, and no batches for a norm that only infers."""

    def __init__(self) -> None:
        super().__init__()
        self.second.weight.requires_grad_(False)
        self.spare = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        self.norm.eval()
        return super().forward(x)


def built(name: str) -> Callable[[], Network]:
    return lambda: build_network(name, NetworkConfig(1, 10, 0.1, 1e-5), 3)


ALL = ["first.weight", "first.bias", "second.weight", "dense.weight", "dense.bias"]
BUT_SECOND = [name for name in ALL if name != "second.weight"]


def steppers(
    data: DeviceData, make: Callable[[], Network], precision: Literal["fp32", "bf16"], masked: bool = False
) -> tuple[Stepper, Stepper]:
    """A lean one and a plain one."""
    torch.manual_seed(0)
    start = TrainState.initial(make())
    draw = torch.Generator().manual_seed(1)
    kept = {name: torch.rand(kernel.shape, generator=draw) < 0.3 for name, kernel in kernels(make()).items()}
    lean, plain = (
        Stepper(make(), data, replace(SETTINGS, precision=precision), start, Mask(kept) if masked else None, lean=lean)
        for lean in (True, False)
    )
    return lean, plain


def same(one: TrainState, other: TrainState) -> bool:
    return all(
        torch.equal(value, getattr(other, part)[name])
        for part in ("parameters", "buffers", "momentum")
        for name, value in getattr(one, part).items()
    )


def go_together(lean: Stepper, plain: Stepper) -> None:
    for t in range(UPDATES):
        lean.update(t)
        plain.update(t)
        assert same(lean.state(t + 1), plain.state(t + 1)), t
    assert lean.mean_loss() == plain.mean_loss()


def stood_in_for(stepper: Stepper) -> list[str]:
    assert stepper._lean
    names = {id(value): name for name, value in stepper.parameters.items()}
    return [names[id(place.tensor)] for place in stepper._lean._weights]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("make", [built("resnet8"), built("wrn10_1"), Small], ids=["resnet8", "wrn10_1", "Small"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_lean_updates_make_the_bytes_of_plain_ones(
    data: DeviceData, make: Callable[[], Network], precision: Literal["fp32", "bf16"], masked: bool
) -> None:
    lean, plain = steppers(data, make, precision, masked)
    go_together(lean, plain)
    layers = [part for part in plain.network.modules() if type(part) in (nn.Conv2d, nn.Linear)]
    weights = [weight for layer in layers for weight in layer.parameters()]
    assert len(stood_in_for(lean)) == (len(weights) if precision == "bf16" else 0)
    assert lean._lean
    assert len(lean._lean._counters) == sum(type(p) is nn.BatchNorm2d for p in plain.network.modules())


@pytest.mark.parametrize(
    ("make", "weights"),
    [
        (Standardised, BUT_SECOND),
        (Penalised, BUT_SECOND),
        (Twice, BUT_SECOND),
        (Hidden, BUT_SECOND),
        (Unrounded, BUT_SECOND),
        (OwnBackward, BUT_SECOND),
        (Repeated, ALL),
        (Hooked, [name for name in ALL if name != "dense.weight"]),
        (LookedAt, []),
        (Cumulative, ALL),
        (Frozen, ALL),
    ],
)
def test_what_is_seen_has_nothing_stand_in_for_it(
    data: DeviceData, make: Callable[[], Network], weights: list[str]
) -> None:
    lean, plain = steppers(data, make, "bf16")
    go_together(lean, plain)
    assert stood_in_for(lean) == weights


def test_nothing_stands_in_for_a_parameter_of_two_layers() -> None:
    value = Shared()
    assert value.first.bias not in {place.tensor for place in Lean(value, "bf16", torch.device("cpu"))._weights}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_that_reads_its_counters_is_updated_plainly(
    data: DeviceData, precision: Literal["fp32", "bf16"]
) -> None:
    lean, plain = steppers(data, Counting, precision)
    go_together(lean, plain)
    assert lean._lean is None


def test_a_norm_counts_as_often_as_it_is_called(data: DeviceData) -> None:
    for make, batches in ((Small, 1), (Twice, 2), (Repeated, 3), (Frozen, 0)):
        lean, _ = steppers(data, make, "fp32")
        for t in range(UPDATES):
            lean.update(t)
        assert lean.network_now().norm.num_batches_tracked == batches * UPDATES  # type: ignore[union-attr]


def test_where_no_graph_is_made_updates_are_plain(data: DeviceData) -> None:
    """There a forward pass may go another way each time."""
    assert Stepper(Small(), data, SETTINGS, TrainState.initial(Small()), None)._lean is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="a graph can be made here")
def test_where_a_graph_fails_updates_are_plain(data: DeviceData) -> None:
    lean, plain = steppers(data, Small, "bf16")
    lean._capture = True
    go_together(lean, plain)
    assert lean.why_eager
    assert lean._lean is None


class Turning(Small):
    """After a while it reads a weight as it did not before."""

    def after(self, x: Tensor) -> Tensor:
        made: Tensor = super().after(x)
        return made * self.second.weight.mean() if getattr(self, "turned", False) else made


def test_a_pass_that_goes_another_way_is_refused_and_the_network_has_its_own_again(data: DeviceData) -> None:
    lean, _ = steppers(data, Turning, "bf16")
    lean.update(0)
    value = lean.network
    before = {name: parameter.detach().clone() for name, parameter in lean.parameters.items()}
    value.turned = True  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="as it did before"):
        lean.update(1)
    assert all(parameter is lean.parameters[name] for name, parameter in value.named_parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in value.named_parameters())
    assert not any(isinstance(buffer, Tally) for buffer in value.buffers())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_between_updates_the_network_is_its_own_with_its_counters_right(
    data: DeviceData, precision: Literal["fp32", "bf16"]
) -> None:
    lean, plain = steppers(data, Small, precision)
    for t in range(UPDATES):
        lean.update(t)
        plain.update(t)
        if t % 2:
            assert evaluate(lean.network_now(), data) == evaluate(plain.network_now(), data)
            assert lean.network.norm.num_batches_tracked == t + 1  # type: ignore[union-attr]
    with closing(lean):
        lean.update(UPDATES)
    plain.update(UPDATES)
    own, other = lean.network.state_dict(), plain.network.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in own.items())
    assert {value.dtype for value in lean.network.parameters()} == {torch.float32}


def test_a_lean_training_goes_on_from_a_state_as_an_unbroken_one(data: DeviceData) -> None:
    lean, plain = steppers(data, Small, "bf16")
    for t in range(UPDATES):
        lean.update(t)
        plain.update(t)
        if t == 1:
            again = Stepper(Small(), data, lean.settings, lean.state(2), None, lean=True)
            again.first_batch = 0
    for t in range(2, UPDATES):
        again.update(t)
    assert same(again.state(UPDATES), plain.state(UPDATES))


def test_a_loss_of_nan_at_the_first_update_is_found_as_ever(data: DeviceData) -> None:
    broken = replace(data, scale=data.scale * float("nan"))
    lean, _ = steppers(broken, Small, "bf16")
    with pytest.raises(DivergedError) as caught:
        lean.update(0)
    assert caught.value.iteration == 0


def test_a_lean_stepper_is_gone_with_its_last_name(data: DeviceData) -> None:
    lean, _ = steppers(data, Small, "bf16")
    lean.update(0)
    seen = weakref.ref(lean)
    gc.disable()
    try:
        del lean
        assert seen() is None
    finally:
        gc.enable()


class Operations(TorchDispatchMode):
    """Counts them by name; additions to counters, which are whole numbers, by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "add_" and args[0].dtype == torch.int64:
            name = "count"
        self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def operations(stepper: Stepper) -> Counter[str]:
    stepper.update(0)
    with Operations() as counted:
        stepper.update(1)
    return counted.seen


def test_a_lean_update_has_fewer_operations(data: DeviceData) -> None:
    lean, plain = map(operations, steppers(data, built("resnet20"), "bf16"))
    norms, weights = 19, 23  # 21 convolutions; the dense layer's kernel and bias
    assert (plain["count"], lean["count"]) == (norms + 1, 1)  # the other is the place in the stream of batches
    assert plain["_to_copy"] - lean["_to_copy"] == 2 * weights
    assert lean["_foreach_copy_"] == 2
    assert lean["_to_copy"] + lean["copy_"] <= 12
    single, plain_single = map(operations, steppers(data, built("resnet20"), "fp32"))
    assert plain_single - single == Counter(count=norms)
