"""The laws of a training hold where kernels of our own make its updates; without a GPU these are interpreted."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from trainings import SETTINGS

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import BatchStream, DeviceData
from rewindctl.errors import DivergedError, UsageError
from rewindctl.fused.tiles import Tiles
from rewindctl.fused.trials import FusedTrials
from rewindctl.models import Network, build_network, kernels
from rewindctl.models.network import NetworkConfig
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.fused_step import FusedStepper, constants_of
from rewindctl.training.kernels import reproducible
from rewindctl.training.memory import footprint
from rewindctl.training.records import TrainSettings
from rewindctl.training.step import Stepper

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHORT = replace(SETTINGS, batch_size=6)
UPDATES = 2


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.upload(load_dataset("digits", None), DEVICE)


@pytest.fixture(autouse=True)
def float32() -> Iterator[None]:
    with reproducible(DEVICE, deterministic=True):
        yield


def network(model: str = "resnet8") -> Network:
    return build_network(model, NetworkConfig(1, 10, 0.1, 1e-5), 0)


def initial(model: str = "resnet8") -> TrainState:
    return TrainState.initial(network(model))


def half(model: str = "resnet8") -> Mask:
    draw = torch.Generator().manual_seed(1)
    return Mask(
        {name: torch.rand(kernel.shape, generator=draw) < 0.5 for name, kernel in kernels(network(model)).items()}
    )


def all_of(state: TrainState) -> dict[str, Tensor]:
    """Every tensor of a state."""
    return {
        f"{part} {name}": tensor
        for part in ("parameters", "buffers", "momentum")
        for name, tensor in getattr(state, part).items()
    }


def apart(one: Tensor, other: Tensor) -> float:
    """The norm of the difference beside that of `other`."""
    return float((one.double() - other.double()).norm() / other.double().norm().clamp(min=1e-9))


def equal(one: TrainState, other: TrainState) -> bool:
    """Byte for byte."""
    both = all_of(one), all_of(other)
    return both[0].keys() == both[1].keys() and all(
        torch.equal(value, both[1][name]) for name, value in both[0].items()
    )


@pytest.mark.parametrize(
    ("model", "masked"), [("resnet8", True), ("wrn10_1", False), pytest.param("wrn10_2", True, marks=pytest.mark.slow)]
)
def test_updates_are_those_of_the_reference(data: DeviceData, model: str, masked: bool) -> None:
    """In float32 to 1e-5 of every tensor, counters and all; what is masked is exactly 0 after each."""
    mask = half(model) if masked else None
    reference = Stepper(network(model), data, SHORT, initial(model), mask, capture=False)
    stepper = FusedStepper(network(model), data, SHORT, initial(model), mask)
    for t in range(UPDATES):
        reference.update(t)
        stepper.update(t)
        wanted, state = reference.state(t + 1), stepper.state(t + 1)
        found = all_of(state)
        assert list(found) == list(all_of(wanted))
        for name, value in all_of(wanted).items():
            assert apart(found[name], value) < 1e-5, (t, name)
        for name, kept in (mask.tensors() if mask else {}).items():
            assert not state.parameters[name][~kept].any()
            assert not state.momentum[name][~kept].any()
    assert stepper.mean_loss() == pytest.approx(reference.mean_loss(), rel=1e-6)
    trained = dict(stepper.network_now().named_parameters())
    assert all(torch.equal(trained[name].cpu(), value) for name, value in state.parameters.items())


@pytest.mark.parametrize("model", [pytest.param("resnet8", marks=pytest.mark.slow), "wrn10_1"])
def test_bfloat16_is_as_near_to_float32_as_that_of_pytorch(data: DeviceData, model: str) -> None:
    """The first gradients: rounding turns ReLUs over in a small batch; no further than twice autocast's, and 0.02."""
    low = replace(SHORT, precision="bf16", batch_size=12, weight_decay=0.0)
    exact = Stepper(network(model), data, replace(low, precision="fp32"), initial(model), None, capture=False)
    autocast = Stepper(network(model), data, low, initial(model), None, capture=False)
    stepper = FusedStepper(network(model), data, low, initial(model), None)
    for one in (exact, autocast, stepper):
        one.update(0)
    wanted, usual, found = (one.state(1).momentum for one in (exact, autocast, stepper))
    for name, value in wanted.items():
        assert apart(found[name], value) <= 2 * apart(usual[name], value) + 0.02, name
    assert stepper.mean_loss() == pytest.approx(exact.mean_loss(), rel=2e-2)


def test_a_training_goes_on_to_the_same_bytes(data: DeviceData) -> None:
    """From a state between: every later state, counters and losses are those of the unbroken one."""
    whole = FusedStepper(network(), data, SHORT, initial(), half())
    for t in range(2):
        whole.update(t)
        if t == 0:
            point = whole.point(1, (), 0.0, 0.0)
    begun = FusedStepper(network(), data, SHORT, point.state, half())
    begun.first_batch = 0
    begun.losses.go_on_from(point.loss_sum, point.loss_count)
    begun.update(1)
    assert equal(whole.state(2), begun.state(2))
    assert whole.mean_loss() == begun.mean_loss()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_trial_among_others_makes_the_bytes_that_it_makes_alone(data: DeviceData, precision: str) -> None:
    """In whatever place, whatever the others' weights, masks, batches and rates are."""
    settings = [replace(SHORT, seed=seed, precision=precision) for seed in range(2)]  # type: ignore[arg-type]
    together = several(data, settings)
    together.run()
    alone = FusedStepper(network(), data, settings[1], initial(), half())
    alone.trials.rate.fill_(float(together.rate[1]))
    alone.stream.seek(0)
    alone.trials.run()
    for part in ("parameters_of", "momentum_of", "running_of"):
        found, wanted = getattr(together, part)(1), getattr(alone.trials, part)(0)
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert torch.equal(together.loss_sum[1], alone.trials.loss_sum[0])
    assert not torch.equal(*together.weights)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet8", "wrn16_1"])
def test_a_norm_that_its_reader_makes_is_that_of_a_kernel_of_its_own(data: DeviceData, model: str) -> None:
    """Byte for byte, with fewer kernels."""
    settings, usual = replace(SHORT, precision="bf16"), Tiles.usual(DEVICE, torch.bfloat16)
    both = [
        FusedStepper(network(model), data, settings, initial(model), half(model), tiles=replace(usual, fold=fold))
        for fold in (False, True)
    ]
    for stepper in both:
        stepper.update(0)
    assert equal(both[0].state(1), both[1].state(1))
    assert both[0].mean_loss() == both[1].mean_loss()
    alone, folded = (len(stepper.trials.launches) for stepper in both)
    # The first norm of each block of a ResNet; of a WRN the second, and the first where the shortcut passes it by.
    assert alone - folded == {"resnet8": 3, "wrn16_1": 6 + 3}[model]


def several(data: DeviceData, settings: list[TrainSettings]) -> FusedTrials:
    """Trials of other seeds, at the beginning of their first epoch."""
    trials = FusedTrials(network(), data, constants_of(settings[0]), len(settings))
    for trial, own in enumerate(settings):
        trials.load(trial, initial(), half())
        trials.rate[trial] = 0.01 * (trial + 1)
        draws = trials.draws.of(trial)
        kept_in = (draws, trials.position[trial : trial + 1])
        BatchStream(data, own.batch_size, own.crop_padding, own.horizontal_flip, own.seed, kept_in).seek(0)
    return trials


@pytest.mark.slow
def test_a_training_that_diverges_says_where_and_stays_there(data: DeviceData) -> None:
    stepper = FusedStepper(network(), data, replace(SHORT, constant_lr=1e30), initial(), None)
    for t in range(2):
        stepper.update(t)
    kept = stepper.trials.weights.clone()
    stepper.update(2)
    assert torch.equal(stepper.trials.weights, kept)
    with pytest.raises(DivergedError, match="iteration 1"):
        stepper.mean_loss()
    with pytest.raises(DivergedError):
        stepper.state(3)


def test_launches_and_memory_are_known(data: DeviceData) -> None:
    """ResNet-20 on images as CIFAR-10's: as many kernels whatever the number of trials; bytes of each trial."""
    images = torch.zeros(256, 32, 32, 3, dtype=torch.uint8, device=DEVICE)
    labels, channel = torch.zeros(256, dtype=torch.int64, device=DEVICE), torch.zeros(3, device=DEVICE)
    small = DeviceData(images, labels, images, labels, channel, channel)
    model = build_network("resnet20", NetworkConfig(3, 10, 0.1, 1e-5), 0)
    constants = constants_of(replace(SETTINGS, batch_size=128, precision="bf16"))
    one, two = (FusedTrials(model, small, constants, count, Tiles()) for count in (1, 2))
    # The batch; 19 times convolution, statistics, norm, and the same back; 2 projections each way; head, update.
    assert len(one.launches) == len(two.launches) == 1 + 3 * 19 + 2 + 1 + 1 + 3 * 19 + 2 + 1
    assert one.memory.bytes_per_trial == two.memory.bytes_per_trial < 160e6
    # What `--jobs` reckons with, of either step.
    assert one.memory.bytes_per_trial < footprint(model, (3, 32, 32), len(images)).on_device(128)
    for mine, both in zip(one.launches, two.launches, strict=True):
        assert (both.reads, both.writes, both.operations) == (2 * mine.reads, 2 * mine.writes, 2 * mine.operations)
        assert both.constants == mine.constants


def test_a_batch_that_no_tensor_can_hold_is_refused() -> None:
    images = torch.empty(1, 1, 1, 3, dtype=torch.uint8, device=DEVICE).expand(2**16, 256, 256, 3)
    labels, channel = torch.zeros(1, dtype=torch.int64, device=DEVICE).expand(2**16), torch.zeros(3, device=DEVICE)
    huge = DeviceData(images, labels, images, labels, channel, channel)
    model = build_network("resnet8", NetworkConfig(3, 10, 0.1, 1e-5), 0)
    with pytest.raises(UsageError, match="batch size 65536 is too large"):
        FusedTrials(model, huge, constants_of(replace(SETTINGS, batch_size=2**16)), 1)
