"""The laws of training where the loop differs: on a GPU. Skipped where there is none."""

import threading
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
import trainings
from trainings import Keeper

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import BatchStream, DeviceData
from rewindctl.errors import DivergedError
from rewindctl.models import Network, build_network, kernels
from rewindctl.models.network import NetworkConfig
from rewindctl.pruning import Mask, prune
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import PruneSpec
from rewindctl.training.agreement import compared
from rewindctl.training.device import environment, resolve_device
from rewindctl.training.fused_step import FusedStepper
from rewindctl.training.gradients import TrainedNetwork
from rewindctl.training.kernels import reproducible
from rewindctl.training.loop import evaluate, train
from rewindctl.training.recipes import LearningRateSchedule
from rewindctl.training.records import TrainResult, TrainSettings
from rewindctl.training.step import Stepper

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

N = 12
SETTINGS = replace(
    trainings.SETTINGS,
    schedule=LearningRateSchedule(N, 0.1, (6, 9), 0.1),
    iterations=N,
    evaluate_every=N,
    checkpoint_at=(),
    seed=0,
)
EVERY = tuple(range(N + 1))


Saved = Callable[[TrainState], bytes]


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.upload(load_dataset("digits", None), resolve_device("cuda"))


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """The bytes of a state's file."""

    def save(state: TrainState) -> bytes:
        state.save(tmp_path / "state")
        return (tmp_path / "state").read_bytes()

    return save


def network() -> Network:
    return build_network("resnet8", NetworkConfig(1, 10, 0.1, 1e-5), 0)


def initial() -> TrainState:
    return TrainState.initial(network())


def run(
    data: DeviceData, settings: TrainSettings, start: TrainState, mask: Mask | None = None
) -> tuple[TrainResult, Keeper]:
    recorder = Keeper()
    return train(network(), data, settings, start, recorder, mask), recorder


def spec(structure: Literal["structured", "unstructured"]) -> PruneSpec:
    return PruneSpec(parent_fingerprint="0" * 64, sparsity=0.8, structure=structure, channel_norm="remove")


def pruned(state: TrainState, structure: Literal["structured", "unstructured"] = "unstructured") -> Mask:
    weights = {name: state.parameters[name] for name in kernels(network())}
    return prune(weights, spec(structure), None, network().norm_after).mask


@pytest.mark.parametrize("structure", ["unstructured", "structured"])
def test_masks_are_those_of_the_cpu(
    tmp_path: Path, data: DeviceData, structure: Literal["structured", "unstructured"]
) -> None:
    weights = {name: p.detach() for name, p in kernels(network()).items()}
    there = {name: p.to(data.device) for name, p in weights.items()}
    prune(weights, spec(structure)).mask.save(tmp_path / "cpu")
    prune(there, spec(structure)).mask.save(tmp_path / "cuda")
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "cuda").read_bytes()


def test_gradients_are_those_of_the_cpu_and_the_same_bytes_twice(data: DeviceData) -> None:
    here = DeviceData.upload(load_dataset("digits", None), torch.device("cpu"))
    expected, first, again = (TrainedNetwork(network(), d, 0).gradients for d in (here, data, data))
    for name, gradient in expected.items():
        assert torch.equal(first[name], again[name])
        assert first[name].device.type == "cpu"
        torch.testing.assert_close(first[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("structure", ["unstructured", "structured"])
def test_random_masks_are_those_of_the_cpu(data: DeviceData, structure: Literal["structured", "unstructured"]) -> None:
    weights = {name: p.detach() for name, p in kernels(network()).items()}
    there = {name: p.to(data.device) for name, p in weights.items()}
    asked = spec(structure).model_copy(update={"criterion": "random", "channel_norm": "keep"})
    masks = prune(weights, asked).mask, prune(there, asked).mask
    assert all(torch.equal(masks[1].kernels[name], kept) for name, kept in masks[0].kernels.items())


def test_batches_are_those_of_the_cpu(data: DeviceData) -> None:
    """The same samples, crops and flips; the standardisation may round otherwise."""
    here = DeviceData.upload(load_dataset("digits", None), torch.device("cpu"))
    streams = [BatchStream(d, 100, 1, True, 0) for d in (here, data)]
    for position in (0, 9, 10):
        (images, labels), (images_there, labels_there) = (s.batch(position) for s in streams)
        assert torch.equal(labels, labels_there.cpu())
        torch.testing.assert_close(images_there.cpu(), images, rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_bytes(data: DeviceData, saved: Saved) -> None:
    torch.manual_seed(99)
    first, _ = run(data, SETTINGS, initial())
    second, _ = run(data, replace(SETTINGS, evaluate_every=1, checkpoint_at=EVERY), initial())
    other, _ = run(data, replace(SETTINGS, seed=1), initial())
    assert saved(first.state) == saved(second.state) != saved(other.state)


def test_no_operation_of_the_loop_is_known_to_be_random(data: DeviceData) -> None:
    """PyTorch only warns of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*deterministic.*")
        run(data, replace(SETTINGS, iterations=2), initial())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_graph_makes_the_bytes_of_the_reference_path(
    data: DeviceData, saved: Saved, precision: Literal["fp32", "bf16"], masked: bool
) -> None:
    """Every update of the two, over epochs and drops of the rate."""
    settings = replace(SETTINGS, precision=precision, iterations=30)
    mask = pruned(initial()) if masked else None
    with reproducible(data.device, deterministic=True):
        steppers = [Stepper(network(), data, settings, initial(), mask, capture) for capture in (True, False)]
        for t in range(30):
            for stepper in steppers:
                stepper.update(t)
            one, other = (saved(stepper.state(t + 1)) for stepper in steppers)
            assert one == other, t
        assert [stepper.captured for stepper in steppers] == [True, False]
        assert len({stepper.mean_loss() for stepper in steppers}) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("masked", [False, True])
def test_lean_updates_make_the_bytes_of_plain_ones(
    data: DeviceData, saved: Saved, precision: Literal["fp32", "bf16"], masked: bool
) -> None:
    """In a graph as a training has it, beside a graph and single operations that are plain."""
    settings = replace(SETTINGS, precision=precision, iterations=30)
    mask = pruned(initial()) if masked else None
    with reproducible(data.device, deterministic=True):
        lean = Stepper(network(), data, settings, initial(), mask)
        plain = [Stepper(network(), data, settings, initial(), mask, capture, lean=False) for capture in (True, False)]
        for t in range(30):
            for stepper in (lean, *plain):
                stepper.update(t)
            if t % 3 == 2:
                assert len({saved(stepper.state(t + 1)) for stepper in (lean, *plain)}) == 1, t
                assert len({evaluate(stepper.network_now(), data) for stepper in (lean, *plain)}) == 1, t
        assert lean.captured
        assert lean._lean is not None
        layers = sum(isinstance(part, torch.nn.Conv2d) for part in lean.network.modules())
        assert len(lean._lean._weights) == (layers + 2 if precision == "bf16" else 0)
        assert len({stepper.mean_loss() for stepper in (lean, *plain)}) == 1
        lean.close()
        own, other = lean.network.state_dict(), plain[0].network.state_dict()
        assert all(torch.equal(value, other[name]) for name, value in own.items())


@pytest.mark.parametrize("own_streams", [True, False])
def test_trainings_captured_and_replayed_at_once_are_those_made_in_turn(
    data: DeviceData, saved: Saved, own_streams: bool
) -> None:
    """Four threads that begin together, each on a stream of its own as the engine has them, or all on the default."""
    together = threading.Barrier(4)
    settings = [replace(SETTINGS, seed=seed, iterations=120, evaluate_every=40) for seed in range(4)]

    def begin(chosen: TrainSettings) -> TrainResult:
        together.wait(60)
        with torch.cuda.stream(torch.cuda.Stream(data.device) if own_streams else None):
            return run(data, chosen, initial())[0]

    in_turn = [run(data, chosen, initial())[0] for chosen in settings]
    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(begin, settings))
    assert [result.why_eager for result in at_once] == [""] * 4
    assert all(result.captured for result in at_once)
    assert [saved(result.state) for result in at_once] == [saved(result.state) for result in in_turn]
    assert [result.evaluations for result in at_once] == [result.evaluations for result in in_turn]


class Waiting(torch.nn.Module):
    """Waits for the device, as no graph can; where that is refused says so in words of its own."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        try:
            float(images.sum())
        except RuntimeError:
            raise RuntimeError("it cannot wait\nhere") from None
        return super().forward(images)  # type: ignore[no-any-return,misc]


@pytest.mark.parametrize("own_stream", [True, False])
def test_a_network_that_waits_for_the_device_is_trained_without_a_graph_on_the_stream_it_came_on(
    data: DeviceData, saved: Saved, own_stream: bool
) -> None:
    value = network()
    value.__class__ = type("WaitingNetwork", (Waiting, type(value)), {})
    with torch.cuda.stream(torch.cuda.Stream(data.device) if own_stream else None):
        before = torch.cuda.current_stream(data.device)
        result = train(value, data, SETTINGS, initial(), Keeper())
        assert torch.cuda.current_stream(data.device) == before
        assert (result.captured, result.why_eager) == (False, "it cannot wait")
        expected, _ = run(data, SETTINGS, initial())
    assert expected.captured
    assert saved(result.state) == saved(expected.state)


def test_a_graph_goes_with_its_training(data: DeviceData) -> None:
    stepper = Stepper(network(), data, SETTINGS, initial(), None)
    stepper.update(0)
    assert stepper.captured
    graph = weakref.ref(stepper._replay.__self__)  # type: ignore[union-attr]
    stepper.close()
    assert graph() is None


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_graph_is_made_on_the_device_of_the_data_whichever_is_current(saved: Saved) -> None:
    there = DeviceData.upload(load_dataset("digits", None), torch.device("cuda", 1))
    settings = replace(SETTINGS, iterations=30)
    with reproducible(there.device, deterministic=True):
        replayed, eager = (Stepper(network(), there, settings, initial(), None, capture) for capture in (True, False))
        for t in range(30):
            replayed.update(t)
            eager.update(t)
        assert replayed.captured
        assert saved(replayed.state(30)) == saved(eager.state(30))


def test_bf16_is_near_fp32_and_its_own_bytes(data: DeviceData, saved: Saved) -> None:
    settings = replace(
        SETTINGS, iterations=120, evaluate_every=120, schedule=LearningRateSchedule(120, 0.1, (60, 90), 0.1)
    )
    exact, _ = run(data, settings, initial())
    rounded, _ = run(data, replace(settings, precision="bf16"), initial())
    again, _ = run(data, replace(settings, precision="bf16"), initial())
    assert saved(rounded.state) == saved(again.state) != saved(exact.state)
    assert abs(rounded.test_accuracy - exact.test_accuracy) < 0.02


def test_without_determinism_it_learns_all_the_same(data: DeviceData) -> None:
    settings = replace(
        SETTINGS, iterations=120, evaluate_every=120, schedule=LearningRateSchedule(120, 0.1, (60, 90), 0.1)
    )
    result, _ = run(data, replace(settings, deterministic=False), initial())
    assert result.test_accuracy > 0.9


def test_global_switches_are_as_before(data: DeviceData) -> None:
    before = (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)
    run(data, replace(SETTINGS, iterations=1), initial())
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


def test_two_updates_are_close_to_those_of_the_cpu(data: DeviceData) -> None:
    here = DeviceData.upload(load_dataset("digits", None), torch.device("cpu"))
    settings = replace(SETTINGS, iterations=2, weight_decay=0.05)
    there, cpu = (run(d, settings, initial())[0].state for d in (data, here))
    for name, value in cpu.parameters.items():
        torch.testing.assert_close(there.parameters[name], value, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("structure", ["unstructured", "structured"])
def test_pruned_weights_and_their_momentum_are_0_after_every_update(
    data: DeviceData, structure: Literal["structured", "unstructured"]
) -> None:
    dense, recorder = run(data, replace(SETTINGS, checkpoint_at=(5,)), initial())
    mask = pruned(dense.state, structure)
    settings = replace(SETTINGS, weight_decay=0.1, checkpoint_at=EVERY)
    result, masked = run(data, settings, recorder.states[0], mask)
    for state in (*masked.states, result.state):
        for name, kept in mask.tensors().items():
            assert not state.parameters[name][~kept].any(), (state.iteration, name)
            assert not state.momentum[name][~kept].any(), (state.iteration, name)
    for name, kept in mask.tensors().items():
        point = recorder.states[0].parameters[name]
        assert torch.equal(masked.states[0].parameters[name][kept], point[kept])
        assert not torch.equal(result.state.parameters[name][kept], point[kept])


@pytest.mark.parametrize("k", [0, 5, 11])
def test_weight_rewinding_without_pruning_is_the_unbroken_run(
    data: DeviceData, tmp_path: Path, saved: Saved, k: int
) -> None:
    dense, recorder = run(data, replace(SETTINGS, checkpoint_at=(k,)), initial())
    recorder.states[0].save(tmp_path / "rewind-point")
    start = TrainState.load(tmp_path / "rewind-point")
    settings = replace(SETTINGS, iterations=N - k, clock_start=k)
    result, _ = run(data, settings, start, Mask.ones(kernels(network())))
    assert saved(replace(result.state, iteration=N)) == saved(dense.state)


def test_a_loss_of_nan_makes_no_update(data: DeviceData) -> None:
    """Found at the evaluation, N updates later: the iteration is the first, the weights are those of the start."""
    broken, value, start = replace(data, scale=data.scale * float("nan")), network(), initial()
    recorder = Keeper()
    with pytest.raises(DivergedError) as caught:
        train(value, broken, replace(SETTINGS, clock_start=3), start, recorder)
    assert (caught.value.iteration, caught.value.learning_rate) == (0, 0.1)
    assert [evaluation.iteration for evaluation in recorder.evaluations] == [0]
    assert all(torch.equal(p.cpu(), start.parameters[name]) for name, p in value.named_parameters())


def test_divergence_is_found_at_the_evaluation_with_its_iteration_and_its_weights(data: DeviceData) -> None:
    """Rate 1e30 from iteration 4: evaluated always or only at the end, the same iteration and the same weights."""
    settings = replace(SETTINGS, schedule=LearningRateSchedule(N, 0.1, (4,), 1e31))
    found: dict[int, tuple[int, dict[str, torch.Tensor]]] = {}
    states: list[TrainState] = []
    for every, saved_at in ((1, EVERY), (N, EVERY[:0])):
        value, recorder = network(), Keeper()
        chosen = replace(settings, evaluate_every=every, checkpoint_at=saved_at)
        with pytest.raises(DivergedError) as caught:
            train(value, data, chosen, initial(), recorder)
        states += recorder.states
        error = caught.value
        assert error.learning_rate == pytest.approx(1e30)
        assert recorder.evaluations[-1].iteration == (error.iteration if every == 1 else 0)
        found[every] = (error.iteration, {name: p.cpu().nan_to_num() for name, p in value.named_parameters()})
    iteration, weights = found[N]
    assert 5 <= iteration < N
    assert found[1][0] == iteration
    assert states[-1].iteration == iteration
    for name, weight in weights.items():
        assert torch.equal(found[1][1][name], weight)
        assert torch.equal(states[-1].parameters[name].nan_to_num(), weight)


def test_no_checkpoint_of_a_diverged_run_is_handed_over(data: DeviceData) -> None:
    broken, recorder = replace(data, scale=data.scale * float("nan")), Keeper()
    with pytest.raises(DivergedError):
        train(network(), broken, replace(SETTINGS, checkpoint_at=(0, 3, 6)), initial(), recorder)
    assert [state.iteration for state in recorder.states] == [0]


def test_accuracy_is_that_of_the_cpu(data: DeviceData) -> None:
    here = DeviceData.upload(load_dataset("digits", None), torch.device("cpu"))
    state = run(data, SETTINGS, initial())[0].state
    value = network()
    state.load_into(value)
    loss, accuracy = evaluate(value, here)
    loss_there, accuracy_there = evaluate(value.to(data.device), data)
    assert loss_there == pytest.approx(loss, rel=1e-2)
    assert abs(accuracy_there - accuracy) <= 3 / len(here.test_labels)


def test_an_evaluation_is_in_whole_float32_with_the_same_bytes_alone_and_beside_a_training(data: DeviceData) -> None:
    """The kernels of an evaluation are no training's: with cuDNN's own choice TF32 would be on, and the fastest kernel
    another each time."""
    value, seen = network().to(data.device).to(memory_format=torch.channels_last), []

    def look(*_: object) -> None:
        backends = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision  # type: ignore[attr-defined]
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, *backends))

    value.register_forward_hook(look)
    alone = evaluate(value, data)
    for deterministic in (True, False):
        with reproducible(data.device, deterministic):
            assert evaluate(value, data) == alone
    torch.set_float32_matmul_precision("high")
    try:
        assert evaluate(value, data) == alone
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {(True, False, "ieee", "ieee")}


def test_the_environment_names_the_gpu_and_its_software(data: DeviceData) -> None:
    record = environment(data.device)
    assert record["device"] == torch.cuda.get_device_name(data.device)
    assert record["cuda"] == torch.version.cuda
    assert record["cudnn"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["resnet8", "wrn10_2"])
def test_a_graph_of_own_kernels_makes_the_bytes_of_their_launches(
    data: DeviceData, saved: Saved, precision: Literal["fp32", "bf16"], model: str
) -> None:
    """Over epochs and drops of the rate, masked; and two graphs make the same."""
    settings = replace(SETTINGS, precision=precision, iterations=30)

    def made() -> Network:
        return build_network(model, NetworkConfig(1, 10, 0.1, 1e-5), 0)

    draw = torch.Generator().manual_seed(0)
    mask = Mask({name: torch.rand(kernel.shape, generator=draw) < 0.3 for name, kernel in kernels(made()).items()})
    with reproducible(data.device, deterministic=True):
        steppers = [
            FusedStepper(made(), data, settings, TrainState.initial(made()), mask, capture)
            for capture in (True, True, False)
        ]
        for t in range(30):
            for stepper in steppers:
                stepper.update(t)
        first, *others = (saved(stepper.state(30)) for stepper in steppers)
    assert all(other == first for other in others)
    assert [stepper.captured for stepper in steppers] == [True, True, False]
    assert len({stepper.mean_loss() for stepper in steppers}) == 1


def test_own_kernels_agree_with_the_reference_on_this_device(data: DeviceData) -> None:
    """As they are asked before they train."""
    for precision in ("fp32", "bf16"):
        settings = replace(SETTINGS, precision=precision, step="fused")
        with reproducible(data.device, deterministic=True):
            assert compared(FusedStepper, network(), data, settings, initial(), None) == ""
