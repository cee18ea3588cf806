"""The laws of training: what decides the bytes, rewinding, pruned weights, the update itself, what is reported."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import trainings
from rewinding.test_methods import plan as plan_for
from torch import Tensor
from torch.nn.functional import cross_entropy
from trainings import Keeper

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import BatchStream, DeviceData
from rewindctl.errors import DivergedError, IntegrityError, UsageError
from rewindctl.models import Network, build_network, kernels
from rewindctl.models.network import NetworkConfig
from rewindctl.pruning import Mask, prune
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.rewinding.methods import RetrainPlan
from rewindctl.specs import PruneSpec
from rewindctl.training.loop import evaluate, train
from rewindctl.training.recipes import LearningRateSchedule
from rewindctl.training.records import TrainResult, TrainSettings

N = 12  # more than the 10 batches of an epoch
SETTINGS = replace(
    trainings.SETTINGS,
    schedule=LearningRateSchedule(N, 0.1, (6, 9), 0.1),
    iterations=N,
    evaluate_every=N,
    checkpoint_at=(),
    seed=0,
)


@dataclass(frozen=True)
class Dense:
    """A finished run of N iterations with every state on the way."""

    start: TrainState
    states: list[TrainState]
    result: TrainResult


def network(seed: int = 0) -> Network:
    return build_network("resnet8", NetworkConfig(1, 10, 0.1, 1e-5), seed)


def run(
    data: DeviceData, settings: TrainSettings, start: TrainState, mask: Mask | None = None
) -> tuple[TrainResult, Keeper]:
    recorder = Keeper()
    return train(network(), data, settings, start, recorder, mask), recorder


def planned(plan: RetrainPlan) -> TrainSettings:
    schedule = SETTINGS.schedule.scaled(plan.schedule_iterations)
    return replace(
        SETTINGS,
        schedule=schedule,
        clock_start=plan.clock_start,
        iterations=plan.iterations,
        constant_lr=plan.constant_lr,
    )


def pruned(state: TrainState, structure: str = "unstructured") -> Mask:
    names = list(kernels(network()))
    spec = PruneSpec.model_validate(
        {"parent_fingerprint": "0" * 64, "sparsity": 0.8, "structure": structure, "channel_norm": "remove"}
    )
    return prune({name: state.parameters[name] for name in names}, spec, None, network().norm_after).mask


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.upload(load_dataset("digits", None), torch.device("cpu"))


@pytest.fixture(scope="module")
def dense(data: DeviceData) -> Dense:
    start = TrainState.initial(network())
    result, recorder = run(data, replace(SETTINGS, checkpoint_at=tuple(range(N + 1))), start)
    return Dense(start, recorder.states, result)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[TrainState], bytes]:
    """The bytes of a state's file."""

    def save(state: TrainState) -> bytes:
        state.save(tmp_path / "state")
        return (tmp_path / "state").read_bytes()

    return save


Saved = Callable[[TrainState], bytes]


def test_the_same_seed_gives_the_same_bytes(data: DeviceData, dense: Dense, saved: Saved) -> None:
    """Whatever PyTorch's own generator holds, which training leaves alone, and whatever the network held before."""
    value = network(seed=7)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    result = train(value, data, SETTINGS, dense.start, Keeper())
    assert torch.equal(torch.get_rng_state(), before)
    assert saved(result.state) == saved(dense.result.state)
    assert result.evaluations == dense.result.evaluations


@pytest.mark.parametrize("change", ["order", "start"])
def test_another_seed_gives_other_bytes(data: DeviceData, dense: Dense, saved: Saved, change: str) -> None:
    settings = replace(SETTINGS, seed=1) if change == "order" else SETTINGS
    start = TrainState.initial(network(seed=1)) if change == "start" else dense.start
    assert saved(run(data, settings, start)[0].state) != saved(dense.result.state)


def test_looking_changes_nothing(data: DeviceData, dense: Dense, saved: Saved) -> None:
    """The dense run was saved at every iteration and evaluated at its ends; this one the other way round."""
    result, recorder = run(data, replace(SETTINGS, evaluate_every=1), dense.start)
    assert len(recorder.evaluations) == N + 1
    assert saved(result.state) == saved(dense.result.state)


def test_the_start_is_only_read(data: DeviceData, dense: Dense, saved: Saved) -> None:
    start = dense.states[5]
    before = saved(start)
    run(data, SETTINGS, start, pruned(dense.result.state))
    assert saved(start) == before


@pytest.mark.parametrize("k", [0, 5, 11])
def test_weight_rewinding_without_pruning_is_the_unbroken_run(
    data: DeviceData, dense: Dense, tmp_path: Path, saved: Saved, k: int
) -> None:
    """Weights, statistics, momentum, clock and data of iteration K, from its file, under a mask that keeps all."""
    dense.states[k].save(tmp_path / "rewind-point")
    start = TrainState.load(tmp_path / "rewind-point")
    plan = plan_for("weight_rewind", N, k=k)
    result, _ = run(data, planned(plan), start, Mask.ones(kernels(network())))
    assert (result.state.iteration, result.state.data_position) == (N - k, N)
    assert saved(replace(result.state, iteration=N)) == saved(dense.result.state)
    assert result.test_accuracy == dense.result.test_accuracy


@pytest.mark.parametrize("left_out", ["momentum", "clock", "buffers", "data"])
def test_each_part_of_the_rewind_point_matters(data: DeviceData, dense: Dense, saved: Saved, left_out: str) -> None:
    """So that the law above cannot hold by accident."""
    point = dense.states[5]
    start = {
        "momentum": replace(point, momentum=dense.start.momentum),
        "buffers": replace(point, buffers=dense.start.buffers),
        "data": replace(point, data_position=0),
    }.get(left_out, point)
    settings = replace(SETTINGS, iterations=7, clock_start=0 if left_out == "clock" else 5)
    result, _ = run(data, settings, start)
    assert saved(replace(result.state, iteration=N, data_position=N)) != saved(dense.result.state)


def test_rewind_to_the_end_under_a_clock_at_0_is_learning_rate_rewinding(
    data: DeviceData, dense: Dense, saved: Saved
) -> None:
    """In bytes, and not those of a run with other weights or another clock."""
    mask = pruned(dense.result.state)
    plans = [
        plan_for("lr_rewind", N),
        plan_for("rewind", N, weights_k=N, lr_k=0),
        plan_for("rewind", N, weights_k=N, lr_k=6),
        plan_for("rewind", N, weights_k=5, lr_k=0),
    ]
    ends = []
    for plan in plans:
        start = replace(dense.states[plan.weights_iteration], momentum=dense.start.momentum, data_position=0)
        ends.append(saved(run(data, planned(plan), start, mask)[0].state))
    assert ends[0] == ends[1]
    assert len(set(ends)) == 3


@pytest.mark.parametrize("structure", ["unstructured", "structured"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_pruned_weights_and_their_momentum_are_0_after_every_update(
    data: DeviceData, dense: Dense, structure: str, nesterov: bool
) -> None:
    """From a point with momentum, under a strong weight decay; survivors start as they were there, and move."""
    point, mask = dense.states[5], pruned(dense.result.state, structure)
    settings = replace(SETTINGS, nesterov=nesterov, weight_decay=0.1, checkpoint_at=tuple(range(N + 1)))
    result, recorder = run(data, settings, point, mask)
    assert [state.iteration for state in recorder.states] == list(range(N + 1))
    assert structure == "unstructured" or not all(bool(m.all()) for m in mask.norms.values())
    for state in (*recorder.states, result.state):
        for name, kept in mask.tensors().items():
            assert not state.parameters[name][~kept].any(), (state.iteration, name)
            assert not state.momentum[name][~kept].any(), (state.iteration, name)
    first = recorder.states[0]
    for name, value in point.parameters.items():
        kept = mask.tensors().get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(first.parameters[name][kept], value[kept])
        assert torch.equal(first.momentum[name][kept], point.momentum[name][kept])
        assert not torch.equal(result.state.parameters[name][kept], value[kept]), name
    assert all(torch.equal(first.buffers[name], value) for name, value in point.buffers.items())


def test_the_masked_gradient_reaches_the_survivors_whole(data: DeviceData, dense: Dense) -> None:
    """One update under a mask is the update of a network whose pruned weights are 0, where they are not pruned."""
    mask, settings = pruned(dense.result.state), replace(SETTINGS, iterations=1)
    zeroed = {name: p.clone() for name, p in dense.start.parameters.items()}
    mask.apply_(zeroed)
    masked, _ = run(data, settings, dense.start, mask)
    free, _ = run(data, settings, replace(dense.start, parameters=zeroed))
    for name, value in free.state.parameters.items():
        kept = mask.tensors().get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(masked.state.parameters[name][kept], value[kept])


def gradients(data: DeviceData, state: TrainState, settings: TrainSettings, position: int) -> dict[str, Tensor]:
    """The gradient of the loss at `state` over batch `position`, computed in the plain memory format."""
    value = network()
    state.load_into(value)
    images, labels = BatchStream(
        data, settings.batch_size, settings.crop_padding, settings.horizontal_flip, settings.seed
    ).batch(position)
    cross_entropy(value.train()(images.contiguous()), labels).backward()
    return {name: p.grad for name, p in value.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("nesterov", "momentum"), [(True, 0.9), (False, 0.9), (False, 0.0)])
def test_an_update_is_sgd_by_the_book(data: DeviceData, dense: Dense, nesterov: bool, momentum: float) -> None:
    """g = grad + decay w; v = m v + g; w -= lr (g + m v), without Nesterov lr v; for every parameter alike."""
    point = dense.states[3]
    settings = replace(SETTINGS, iterations=1, momentum=momentum, nesterov=nesterov, weight_decay=0.05)
    after = run(data, settings, point)[0].state
    for name, gradient in gradients(data, point, settings, 3).items():
        w, v = point.parameters[name], point.momentum[name]
        g = gradient + 0.05 * w
        v = momentum * v + g
        step = g + momentum * v if nesterov else v
        torch.testing.assert_close(after.parameters[name], w - 0.1 * step, rtol=1e-5, atol=1e-6)
        if momentum:
            torch.testing.assert_close(after.momentum[name], v, rtol=1e-4, atol=1e-5)


def test_a_run_is_that_of_pytorchs_own_optimiser(data: DeviceData, dense: Dense) -> None:
    """Four updates over a drop of the rate, against torch.optim.SGD with one plain loop."""
    settings = replace(SETTINGS, schedule=LearningRateSchedule(4, 0.1, (2,), 0.1), iterations=4, weight_decay=0.05)
    value = network().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        value.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05, foreach=True
    )
    batches = BatchStream(data, 100, 1, True, 0)
    for position in range(4):
        optimizer.param_groups[0]["lr"] = 0.1 if position < 2 else 0.01
        images, labels = batches.batch(position)
        optimizer.zero_grad()
        cross_entropy(value(images), labels).backward()
        optimizer.step()
    state = run(data, settings, dense.start)[0].state
    for name, parameter in value.named_parameters():
        torch.testing.assert_close(state.parameters[name], parameter.detach(), rtol=1e-5, atol=1e-6)
        buffer = optimizer.state[parameter]["momentum_buffer"]
        torch.testing.assert_close(state.momentum[name], buffer, rtol=1e-4, atol=1e-5)
    for name, buffer in value.named_buffers():
        torch.testing.assert_close(state.buffers[name], buffer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tested", [1, 499, 500, 501, 797])
def test_accuracy_and_loss_are_over_the_whole_test_set(data: DeviceData, dense: Dense, tested: int) -> None:
    """Correct / total, not a mean over batches, of which the last is short."""
    part = replace(data, test_images=data.test_images[:tested], test_labels=data.test_labels[:tested])
    value = network()
    dense.result.state.load_into(value)
    loss, accuracy = evaluate(value, part)
    assert value.training
    assert all(torch.equal(b, dense.result.state.buffers[name]) for name, b in value.named_buffers())
    pixels = part.test_images.permute(0, 3, 1, 2).double() / 255
    mean, std = (data.train_images.double() / 255).mean(), (data.train_images.double() / 255).std(correction=0)
    with torch.no_grad():
        logits = value.eval()(((pixels - mean) / std).float())
    correct = [int(row.argmax()) == int(label) for row, label in zip(logits, part.test_labels, strict=True)]
    assert accuracy == sum(correct) / tested
    assert loss == pytest.approx(float(cross_entropy(logits, part.test_labels)), rel=1e-4)
    if tested == 501:
        assert accuracy != (sum(correct[:500]) / 500 + correct[500]) / 2


def test_the_observer_sees_the_start_each_interval_and_the_end(data: DeviceData, dense: Dense) -> None:
    settings = replace(SETTINGS, iterations=10, evaluate_every=4, checkpoint_at=(0, 3, 10))
    result, recorder = run(data, settings, dense.states[2])
    assert [e.iteration for e in recorder.evaluations] == [0, 4, 8, 10]
    assert result.evaluations == tuple(recorder.evaluations)
    assert recorder.iterations == list(range(11))
    assert [(s.iteration, s.data_position) for s in recorder.states] == [(0, 2), (3, 5), (10, 12)]
    assert all(torch.equal(result.state.parameters[n], p) for n, p in recorder.states[-1].parameters.items())


def test_the_reported_rate_is_that_of_the_update_before(data: DeviceData, dense: Dense) -> None:
    def rates(settings: TrainSettings) -> list[float]:
        return [e.lr for e in run(data, replace(settings, evaluate_every=1), dense.start)[0].evaluations]

    assert rates(SETTINGS) == [0.1] * 7 + [0.01] * 3 + [0.001] * 3
    assert rates(replace(SETTINGS, iterations=4, clock_start=7)) == [0.01] * 3 + [0.001] * 2
    assert rates(replace(SETTINGS, iterations=2, constant_lr=0.05)) == [0.05] * 3


def test_the_training_loss_is_the_mean_since_the_last_evaluation(data: DeviceData, dense: Dense) -> None:
    def losses(every: int) -> list[float | None]:
        return [e.train_loss for e in run(data, replace(SETTINGS, evaluate_every=every), dense.start)[0].evaluations]

    start, *each = losses(1)
    assert start is None
    single = [loss for loss in each if loss is not None]
    assert len(single) == N
    assert losses(5) == [
        None,
        pytest.approx(sum(single[:5]) / 5),
        pytest.approx(sum(single[5:10]) / 5),
        pytest.approx(sum(single[10:]) / 2),
    ]


def test_the_result_is_the_last_accuracy_and_the_best_is_only_noted(data: DeviceData, dense: Dense) -> None:
    """A rate that wrecks the network at the end: the last is not the best."""
    settings = replace(SETTINGS, schedule=LearningRateSchedule(N, 0.05, (10,), 40.0), evaluate_every=1)
    result, recorder = run(data, settings, dense.start)
    accuracies = [e.test_accuracy for e in recorder.evaluations]
    assert accuracies[-1] < max(accuracies)
    assert (result.test_accuracy, result.test_accuracy_best) == (accuracies[-1], max(accuracies))


def test_a_loss_of_nan_stops_before_its_update(data: DeviceData, dense: Dense) -> None:
    broken = replace(data, scale=data.scale * float("nan"))
    value, start = network(), dense.states[3]
    with pytest.raises(DivergedError) as caught:
        train(value, broken, replace(SETTINGS, clock_start=6), start, Keeper())
    assert (caught.value.iteration, caught.value.learning_rate) == (0, 0.01)
    assert all(torch.equal(p, start.parameters[name]) for name, p in value.named_parameters())


@pytest.mark.parametrize("every", [1, N])
def test_a_diverged_run_keeps_the_weights_from_before_the_bad_update(
    data: DeviceData, dense: Dense, every: int
) -> None:
    """Rate 1e30 from iteration 4: whenever the loss goes, the parameters are those of the last state handed over."""
    schedule = LearningRateSchedule(N, 0.1, (4,), 1e31)
    settings = replace(SETTINGS, schedule=schedule, evaluate_every=every, checkpoint_at=tuple(range(N + 1)))
    value, recorder = network(), Keeper()
    with pytest.raises(DivergedError) as caught:
        train(value, data, settings, dense.start, recorder)
    error = caught.value
    assert error.exit_code == 1
    assert 5 <= error.iteration < N
    assert error.learning_rate == pytest.approx(1e30)
    assert str(error.iteration) in error.message
    assert recorder.iterations[-1] == error.iteration
    last = recorder.states[-1]
    assert last.iteration == error.iteration
    for name, parameter in value.named_parameters():
        assert torch.equal(parameter.nan_to_num(), last.parameters[name].nan_to_num())


def test_a_last_update_that_diverges_gives_no_result(data: DeviceData, dense: Dense) -> None:
    """No training loss comes after it; what it made of the network is seen on the test set."""
    settings = replace(SETTINGS, schedule=LearningRateSchedule(5, 0.1, (4,), 1e31), iterations=5, checkpoint_at=(5,))
    recorder = Keeper()
    with pytest.raises(DivergedError) as caught:
        train(network(), data, settings, dense.start, recorder)
    assert caught.value.iteration == 5
    assert [evaluation.iteration for evaluation in recorder.evaluations] == [0]
    assert not recorder.states


def test_an_observer_can_stop_the_training(data: DeviceData, dense: Dense) -> None:
    class Stop(Keeper):
        def progressed(self, iteration: int) -> None:
            super().progressed(iteration)
            if iteration == 3:
                raise KeyboardInterrupt

    observer = Stop()
    with pytest.raises(KeyboardInterrupt):
        train(network(), data, SETTINGS, dense.start, observer)
    assert observer.iterations == [0, 1, 2, 3]


def test_a_start_of_another_network_is_refused(data: DeviceData, dense: Dense) -> None:
    momentum = {**dense.start.momentum, "dense.bias": torch.zeros(3)}
    parameters = {name: p for name, p in dense.start.parameters.items() if name != "stem.weight"}
    for start, name in [
        (replace(dense.start, momentum=momentum), r"momentum dense\.bias"),
        (replace(dense.start, parameters=parameters), r"parameter stem\.weight"),
    ]:
        with pytest.raises(IntegrityError, match=name):
            run(data, SETTINGS, start)


def test_batches_that_the_data_cannot_give_are_refused(data: DeviceData, dense: Dense) -> None:
    for settings in (replace(SETTINGS, batch_size=1_001), replace(SETTINGS, crop_padding=8)):
        with pytest.raises(UsageError):
            run(data, settings, dense.start)
