"""An evaluation by kernels of our own is that of PyTorch, and each trial's is its own, byte for byte."""

from dataclasses import replace

import pytest
import torch
from fused.fused_parts import DEVICE
from torch import Tensor
from torch.nn.functional import cross_entropy

from rewindctl.datasets.batches import DeviceData
from rewindctl.fused.evaluation import FusedEvaluation
from rewindctl.fused.lane_memory import META
from rewindctl.fused.tiles import Tiles
from rewindctl.fused.trials import Constants, FusedTrials
from rewindctl.models import Network, build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.graph import captured
from rewindctl.training.loop import evaluate

CONSTANTS = Constants(4, 0, 0.9, True, 3e-4, torch.float32)
GPU = Tiles.evaluating(torch.device("cuda"))


def data(test_size: int, height: int = 6, width: int = 5, channels: int = 3) -> DeviceData:
    """Of training images nothing is read."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (test_size, height, width, channels), dtype=torch.uint8, generator=draw).to(DEVICE)
    labels = torch.randint(10, (test_size,), generator=draw).to(DEVICE)
    scale, shift = (torch.rand(channels, generator=draw).to(DEVICE) for _ in range(2))
    return DeviceData(images[:4] * 0, labels[:4] * 0, images, labels, scale / 60, -2 * shift)


def network(model: str = "resnet8", seed: int = 0) -> Network:
    """As if it had been trained: statistics, scales and shifts are not those of the beginning."""
    torch.manual_seed(seed)
    made = build_network(model, NetworkConfig(3, 10, 0.1, 1e-5), seed)
    with torch.no_grad():
        for name, tensor in (*made.named_parameters(), *made.named_buffers()):
            if "norm" in name and tensor.dim():
                tensor.uniform_(0.5, 1.5) if "weight" in name or "var" in name else tensor.normal_(0, 0.5)
        made.dense.bias.normal_()  # type: ignore[operator, union-attr]
    return made.to(DEVICE)


def several(given: DeviceData, networks: list[Network], constants: Constants = CONSTANTS) -> FusedTrials:
    trials = FusedTrials(networks[0], given, constants, len(networks))
    for trial, own in enumerate(networks):
        trials.load(trial, TrainState.initial(own), None)
    return trials


def poisoned(trials: FusedTrials, batch_size: int | None = None, tiles: Tiles | None = None) -> FusedEvaluation:
    """Everything that its kernels are to write is NaN before, or no number that may come out."""
    made = FusedEvaluation(trials, batch_size, tiles)
    for tensor in made.memory.tensors.values():
        tensor.fill_(torch.nan if tensor.is_floating_point() else -99)
    return made


def scores(evaluation: FusedEvaluation, trial: int) -> tuple[float, int]:
    return float(evaluation.loss_sum[trial]), int(evaluation.correct[trial])


def assert_as_pytorch(evaluation: FusedEvaluation, networks: list[Network]) -> None:
    """The loss to 1e-5 of it, the accuracy exactly."""
    evaluation.run()
    for trial, own in enumerate(networks):
        loss, accuracy = evaluate(own, evaluation.trials.data)
        found_loss, found_accuracy = evaluation.result(trial)
        assert found_loss == pytest.approx(loss, rel=1e-5)
        assert found_accuracy == accuracy
        loss_sum, correct = scores(evaluation, trial)
        assert loss_sum == pytest.approx(found_loss * evaluation.total, rel=1e-12)
        assert correct == round(accuracy * evaluation.total)


@pytest.mark.parametrize("model", ["resnet8", "wrn10_1", pytest.param("wrn16_2", marks=pytest.mark.slow)])
def test_loss_and_accuracy_are_those_of_pytorch(model: str) -> None:
    """Of batches of which the last is not full; trained in bfloat16, evaluated in float32 of the master weights."""
    networks = [network(model, seed) for seed in range(2)]
    trials = several(data(11), networks, replace(CONSTANTS, dtype=torch.bfloat16))
    evaluation = poisoned(trials, batch_size=4)
    assert (evaluation.batches, evaluation.batch_size) == (3, 4)
    assert_as_pytorch(evaluation, networks)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet14", "wrn16_1"])
@pytest.mark.parametrize("tiles", [GPU, replace(GPU, fold=True, split=False)], ids=["split", "fold"])
def test_it_is_that_of_pytorch_however_it_is_cut(model: str, tiles: Tiles) -> None:
    networks = [network(model, seed) for seed in range(2)]
    assert_as_pytorch(poisoned(several(data(7, 8, 8), networks), 4, tiles), networks)


def test_again_after_the_weights_have_changed() -> None:
    """The second run begins anew, with the statistics of then; a batch size changes nothing but rounding."""
    one, other = network(), network(seed=1)
    trials = several(data(5), [one])
    evaluation = poisoned(trials)
    assert evaluation.batches == 1
    evaluation.run()
    trials.load(0, TrainState.initial(other), None)
    assert_as_pytorch(evaluation, [other])


def test_a_trial_has_the_bytes_that_it_has_alone() -> None:
    """In whatever place, however many are evaluated, NaN beside it; trials that are not evaluated keep their sums."""
    given, networks = data(7), [network(seed=seed) for seed in range(3)]
    together = several(given, networks)
    together.weights[0].fill_(torch.nan)
    evaluation = poisoned(together, 4)
    evaluation.run(2)
    alone = poisoned(several(given, networks[1:2]), 4)
    alone.run()
    assert scores(evaluation, 1) == scores(alone, 0)
    assert evaluation.loss_sum.isnan().tolist() == [True, False, True]
    assert evaluation.correct[2] == evaluation.position[2] == -99
    first = scores(evaluation, 1)
    together.exchange(0, 1)
    evaluation.run(1)
    assert scores(evaluation, 0) == first == scores(evaluation, 1)


INF, NAN = float("inf"), float("nan")
LOGITS = [
    *([0.0] * 10, [1.0, 3.0, 3.0] + [0.0] * 6 + [3.0], [-INF] * 9 + [2.0], [-1e30] * 9 + [30.0]),
    *([NAN] * 10, [5.0, NAN, INF, NAN] + [0.0] * 6, [INF, NAN] + [0.0] * 8, [INF, 1.0, INF] + [0.0] * 7, [-INF] * 10),
]


def test_ties_and_what_is_no_number_are_as_in_pytorch() -> None:
    """Logits of each trial are its bias; each class is the label of some image, the right one of two."""
    given, single = data(11, 2, 2), network()
    given.test_labels.copy_(torch.arange(11) % 10)
    trials = several(given, [single] * len(LOGITS))
    place = trials.layout.places
    wanted = torch.tensor(LOGITS, device=DEVICE)
    for row, logits in zip(trials.weights, wanted, strict=True):
        place["dense.weight"].put(torch.zeros(10, 64, device=DEVICE), row)
        place["dense.bias"].put(logits, row)
    evaluation = poisoned(trials, 4)
    last = next(launch for launch in evaluation.launches if launch.name == "score").arguments[0]
    assert isinstance(last, Tensor)
    last.zero_()
    evaluation.starts[0]()
    for _ in range(evaluation.batches):
        for launch in evaluation.launches[-2:]:
            launch()
    for trial, logits in enumerate(wanted):
        rows = logits.expand(11, 10)
        loss = cross_entropy(rows.double(), given.test_labels, reduction="sum")
        correct = int((rows.argmax(1) == given.test_labels).sum())
        found_loss, found_correct = scores(evaluation, trial)
        assert found_loss == pytest.approx(float(loss), rel=1e-12, nan_ok=True), LOGITS[trial]
        assert found_correct == correct, LOGITS[trial]


def on_meta(model: str, trials: int, test_size: int = 10_000) -> FusedEvaluation:
    """Of images as CIFAR-10's, on a GPU."""
    images = torch.empty(test_size, 32, 32, 3, dtype=torch.uint8, device=META)
    labels, channel = torch.empty(test_size, dtype=torch.int64, device=META), torch.empty(3, device=META)
    given = DeviceData(images, labels, images, labels, channel, channel)
    made = build_network(model, NetworkConfig(3, 10, 0.1, 1e-5), 0)
    usual = Tiles.usual(torch.device("cuda"), torch.float32)
    return FusedEvaluation(FusedTrials(made, given, CONSTANTS, trials, usual), tiles=GPU)


@pytest.mark.parametrize("model", ["resnet20", "wrn16_8"])
def test_launches_and_memory_are_known(model: str) -> None:
    """As many kernels, cut alike, whatever the number of trials; a few activations are all that is kept."""
    one, three = on_meta(model, 1), on_meta(model, 3)
    for mine, all_three in zip(one.starts + one.launches, three.starts + three.launches, strict=True):
        assert (mine.constants, mine.grid[:2]) == (all_three.constants, all_three.grid[:2])
        assert (3 * mine.reads, 3 * mine.writes) == (all_three.reads, all_three.writes)
    given = [argument for launch in one.starts + one.launches for argument in launch.arguments]
    assert all(argument.device == META for argument in given if isinstance(argument, Tensor))
    assert one.bytes_per_trial == three.bytes_per_trial < 60e6
    assert one.bytes_per_trial == sum(tensor.nbytes for tensor in one.memory.tensors.values())
    slots = [tensor for name, tensor in one.memory.tensors.items() if name.startswith("slot")]
    assert len(slots) == 3
    assert one.batch_size * one.batches >= one.total > one.batch_size * (one.batches - 1)


def test_more_layers_take_no_more_activations() -> None:
    each = [on_meta(model, 1) for model in ("resnet20", "resnet56")]
    stats = [sum(tensor.nbytes for name, tensor in one.memory.tensors.items() if name.endswith("stat")) for one in each]
    assert each[0].bytes_per_trial - stats[0] == each[1].bytes_per_trial - stats[1]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_batch_can_be_replayed() -> None:
    """One graph for all batches: the bytes of kernels that are started one by one."""
    evaluation = poisoned(several(data(11), [network(seed=seed) for seed in range(2)]), 4)
    evaluation.run()
    wanted = [scores(evaluation, trial) for trial in range(2)]
    evaluation.start()
    replay = captured(evaluation.batch, evaluation.changed(), DEVICE)
    for _ in range(evaluation.batches):
        replay()
    assert [scores(evaluation, trial) for trial in range(2)] == wanted
