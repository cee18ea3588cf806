"""bfloat16 and rehearsed steps: what they may change, and what they must not."""

import gc
import threading
import weakref
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from trainings import SETTINGS, Keeper, network

from rewindctl.arithmetic import ASKED, AUTO, Arithmetic, Precision
from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import UsageError
from rewindctl.models import build_network, kernels
from rewindctl.models.network import NetworkConfig
from rewindctl.pruning import Mask, prune
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import PruneSpec
from rewindctl.training.graph import alone, rehearse
from rewindctl.training.loop import train
from rewindctl.training.precision import WORTH_CONVERTING, choose, missing_unit, multiply_adds
from rewindctl.training.recipes import LearningRateSchedule
from rewindctl.training.records import TrainResult
from rewindctl.training.step import Stepper

CPU = torch.device("cpu")
BF16 = replace(SETTINGS, precision="bf16")
EVERY = tuple(range(SETTINGS.iterations + 1))


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.upload(load_dataset("digits"), CPU)


@pytest.fixture(scope="module")
def start() -> TrainState:
    return TrainState.initial(network())


@pytest.fixture(scope="module")
def mask(start: TrainState) -> Mask:
    weights = {name: start.parameters[name] for name in kernels(network())}
    return prune(weights, PruneSpec(parent_fingerprint="0" * 64, sparsity=0.8)).mask


def run(data: DeviceData, settings: object, start: TrainState, mask: Mask | None = None) -> tuple[TrainResult, Keeper]:
    keeper = Keeper()
    return train(network(), data, settings, start, keeper, mask), keeper  # type: ignore[arg-type]


def equal(one: TrainState, other: TrainState) -> bool:
    parts = zip(
        (one.parameters, one.buffers, one.momentum), (other.parameters, other.buffers, other.momentum), strict=True
    )
    return all(torch.equal(mine[name], yours[name]) for mine, yours in parts for name in mine)


def test_what_is_asked_for_is_chosen_and_auto_only_where_it_pays() -> None:
    assert get_args(Precision) == ASKED[1:]
    for asked in get_args(Precision):
        assert choose(asked, CPU, lambda: 0).precision == choose(asked, CPU, lambda: 1e15).precision == asked
    assert choose(AUTO, CPU, lambda: WORTH_CONVERTING - 1).precision == "fp32"
    large = choose(AUTO, CPU, lambda: WORTH_CONVERTING)
    assert large.precision == ("fp32" if missing_unit(CPU) else "bf16")
    with pytest.raises(UsageError, match="unknown precision 'fp16'"):
        Arithmetic("fp16")


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "wrn16_1"])
def test_multiply_adds_are_those_that_pytorch_counts(name: str) -> None:
    value = build_network(name, NetworkConfig(3, 10, 0.1, 1e-5), 0).train()
    before = {name: buffer.clone() for name, buffer in value.named_buffers()}
    found = multiply_adds(value, (3, 16, 16))
    assert value.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in value.named_buffers())
    assert not any(module._forward_hooks for module in value.modules())
    with FlopCounterMode(display=False) as counter:
        value(torch.zeros(1, 3, 16, 16))
    assert 2 * found == counter.get_total_flops() > 0


@pytest.mark.slow
def test_bf16_has_its_own_bytes_again_and_again(data: DeviceData, start: TrainState) -> None:
    (one, _), (again, _), (single, _) = (run(data, settings, start) for settings in (BF16, BF16, SETTINGS))
    assert equal(one.state, again.state)
    assert not equal(one.state, single.state)
    state = one.state
    assert {t.dtype for part in (state.parameters, state.momentum) for t in part.values()} == {torch.float32}


def test_a_step_in_bf16_is_a_rounded_step(data: DeviceData, start: TrainState) -> None:
    """The first update goes the same way: roundings of 2^-8 add up over the layers, most at the first."""
    ends = [run(data, replace(settings, iterations=1), start)[0].state for settings in (SETTINGS, BF16)]
    for name, exact in ends[0].momentum.items():
        off = (ends[1].momentum[name] - exact).norm()
        assert 0 < off <= 0.3 * exact.norm(), name


@pytest.mark.slow
def test_bf16_learns_what_fp32_learns(data: DeviceData, start: TrainState) -> None:
    settings = replace(
        SETTINGS, iterations=120, evaluate_every=120, schedule=LearningRateSchedule(120, 0.1, (60, 90), 0.1)
    )
    exact, rounded = (run(data, replace(settings, precision=p), start)[0] for p in get_args(Precision))
    assert exact.test_accuracy > 0.9
    assert abs(rounded.test_accuracy - exact.test_accuracy) < 0.02


def test_pruned_weights_stay_0_in_bf16(data: DeviceData, start: TrainState, mask: Mask) -> None:
    _, keeper = run(data, replace(BF16, weight_decay=0.1, checkpoint_at=EVERY), start, mask)
    assert len(keeper.states) == len(EVERY)
    for state in keeper.states:
        for name, kept in mask.tensors().items():
            assert not state.parameters[name][~kept].any()
            assert not state.momentum[name][~kept].any()


def test_going_on_in_bf16_is_the_unbroken_run(data: DeviceData, start: TrainState) -> None:
    result, keeper = run(data, BF16, start)
    for point in (keeper.points[0], keeper.points[-1]):
        again = train(network(), data, BF16, start, Keeper(), None, point)
        assert equal(again.state, result.state)
        assert again.evaluations == result.evaluations


@pytest.mark.parametrize("at", [0, 9, 17])
def test_rehearsed_steps_are_taken_back(data: DeviceData, start: TrainState, mask: Mask, at: int) -> None:
    """Everything that outlives a step is as it was, and the training goes on as if there had been none."""
    unbroken, rehearsed = (Stepper(network(), data, SETTINGS, start, mask) for _ in range(2))
    for t in range(SETTINGS.iterations):
        unbroken.update(t)
        if t == at:
            before = [tensor.clone() for tensor in tensors(rehearsed)]
            rehearse(rehearsed._step, rehearsed.changed())
            assert all(torch.equal(a, b) for a, b in zip(before, tensors(rehearsed), strict=True))
        rehearsed.update(t)
    assert equal(unbroken.state(SETTINGS.iterations), rehearsed.state(SETTINGS.iterations))
    assert unbroken.mean_loss() == rehearsed.mean_loss()


def test_a_rehearsal_that_fails_is_taken_back_too(data: DeviceData, start: TrainState) -> None:
    stepper = Stepper(network(), data, SETTINGS, start, None)
    before = [tensor.clone() for tensor in tensors(stepper)]

    def step() -> None:
        stepper._step()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        rehearse(step, stepper.changed())
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(stepper), strict=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a graph can be made here: test_cuda has this law")
def test_where_no_graph_can_be_made_the_updates_are_made_without_one_and_why_is_told(
    data: DeviceData, start: TrainState
) -> None:
    plain, tried = (Stepper(network(), data, SETTINGS, start, None) for _ in range(2))
    tried._capture = True
    for t in range(3):
        plain.update(t)
        tried.update(t)
    assert equal(plain.state(3), tried.state(3))
    assert (plain.captured, plain.why_eager, tried.captured) == (False, "", False)
    assert tried.why_eager


def test_captures_and_evaluations_on_a_gpu_are_one_at_a_time_and_a_cpu_waits_for_none() -> None:
    gpu, told = torch.device("cuda", 0), []

    def evaluate() -> None:
        with alone(gpu):
            told.append("evaluated")

    with alone(gpu), alone(CPU):
        other = threading.Thread(target=evaluate)
        other.start()
        told.append("captured")
    other.join()
    assert told == ["captured", "evaluated"]


def test_a_stepper_is_gone_with_its_last_name(data: DeviceData, start: TrainState) -> None:
    """Not when the garbage collector comes by: what it and its graph hold of a GPU is another training's by then."""
    stepper = Stepper(network(), data, SETTINGS, start, None)
    stepper.update(0)
    seen = weakref.ref(stepper)
    gc.disable()
    try:
        del stepper
        assert seen() is None
    finally:
        gc.enable()


def tensors(stepper: Stepper) -> list[torch.Tensor]:
    """All that a stepper, its network and its stream hold, found by looking and not by its own list."""
    found = [*stepper.network.state_dict().values()]
    for holder in (stepper, stepper.losses, stepper.stream, stepper.stream._draws):
        for held in vars(holder).values():
            found += [
                value for value in (held.values() if isinstance(held, dict) else [held]) if torch.is_tensor(value)
            ]
    return found
