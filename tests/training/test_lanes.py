"""Trainings in lanes of one step: the bytes of each are those that it makes alone, whatever its neighbours do."""

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
import torch
from plain_trials import PlainTrials, instead_of_kernels
from trainings import SETTINGS, Keeper, network

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import DivergedError, LimitError
from rewindctl.fused.trials import Constants, FusedTrials
from rewindctl.models import Network, kernels
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training import shared_step
from rewindctl.training.kernels import reproducible
from rewindctl.training.lanes import SharedSteps
from rewindctl.training.loop import train
from rewindctl.training.records import ResumePoint, TrainResult, TrainSettings
from rewindctl.training.shared_step import SharedStep

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Epochs end, the rate drops and checkpoints are due between evaluations.
SHORT = replace(SETTINGS, batch_size=16, step="fused", iterations=20, evaluate_every=6)


@pytest.fixture(scope="module")
def data() -> DeviceData:
    whole = DeviceData.upload(load_dataset("digits", None), DEVICE)
    return replace(
        whole,
        train_images=whole.train_images[:150],
        train_labels=whole.train_labels[:150],
        test_images=whole.test_images[:60],
        test_labels=whole.test_labels[:60],
    )


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch's updates in the rows where kernels would be interpreted; no two trainings compare them before."""
    instead_of_kernels(monkeypatch)
    monkeypatch.setattr("rewindctl.training.agreement.disagreement", lambda *arguments: "")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with reproducible(DEVICE, deterministic=True):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def shared() -> Iterator[SharedSteps]:
    made = SharedSteps(3)
    yield made
    made.close()


def mask_of(seed: int) -> Mask:
    draw = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(kernel.shape, generator=draw) < 0.5 for name, kernel in kernels(network()).items()})


@dataclass
class Trial:
    """A training of a seed, as it went."""

    seed: int
    data: DeviceData
    settings: TrainSettings
    masked: bool = True
    keeper: Keeper = field(default_factory=Keeper)
    resume: ResumePoint | None = None
    result: TrainResult | None = None
    error: BaseException | None = None

    def train(self, shared: SharedSteps | None) -> "Trial":
        settings = replace(self.settings, seed=self.seed)
        mask = mask_of(self.seed) if self.masked else None
        start = TrainState.initial(network())
        try:
            self.result = train(network(), self.data, settings, start, self.keeper, mask, self.resume, shared)
        except BaseException as error:
            self.error = error
        return self

    def begin(self, shared: SharedSteps) -> threading.Thread:
        thread = threading.Thread(target=self.train, args=(shared,), daemon=True)
        thread.start()
        return thread

    @property
    def made(self) -> list[object]:
        """All that it reported and left; byte for byte."""
        states = [*self.keeper.states, *(point.state for point in self.keeper.points)]
        states += [self.result.state] if self.result else []
        kept = [(state.iteration, state.data_position, bytes_of(state)) for state in states]
        sums = [(point.loss_sum, point.loss_count) for point in self.keeper.points]
        return [self.keeper.evaluations, kept, sums]


def bytes_of(state: TrainState) -> list[tuple[str, bytes]]:
    parts = (state.parameters, state.buffers, state.momentum)
    return [(name, tensor.numpy().tobytes()) for part in parts for name, tensor in part.items()]


def together(trials: list[Trial], shared: SharedSteps) -> list[Trial]:
    for thread in [trial.begin(shared) for trial in trials]:
        thread.join()
    return trials


def test_trials_in_lanes_make_the_bytes_that_each_makes_alone(data: DeviceData, shared: SharedSteps) -> None:
    """Masked or not; every evaluation, checkpoint and point, in order; progress grows."""
    alone, lanes = ([Trial(seed, data, SHORT, masked=seed != 1) for seed in range(3)] for _ in range(2))
    for trial in alone:
        trial.train(None)
    together(lanes, shared)
    assert [trial.error for trial in (*alone, *lanes)] == [None] * 6
    assert [trial.made for trial in lanes] == [trial.made for trial in alone]
    assert len(lanes[0].keeper.evaluations) == 5
    for trial in lanes:
        assert trial.keeper.iterations == sorted(trial.keeper.iterations)
        assert trial.keeper.iterations[-1] == SHORT.iterations
    assert [step.in_use for step in shared._steps.values()] == [False]


class StoppedError(Exception):
    """What ends a neighbour."""


@dataclass
class Ends(Keeper):
    """Raises at an evaluation."""

    at: int = 6

    def progressed(self, iteration: int) -> None:
        super().progressed(iteration)
        if iteration >= self.at:
            raise StoppedError


def hot(settings: TrainSettings) -> TrainSettings:
    return replace(settings, constant_lr=1e30)


@pytest.mark.parametrize(
    "neighbour",
    [
        lambda data: Trial(7, data, replace(SHORT, iterations=3)),
        lambda data: Trial(7, data, SHORT, keeper=Ends()),
        lambda data: Trial(7, data, hot(SHORT)),
    ],
    ids=["ends", "fails", "diverges"],
)
def test_neighbours_that_end_fail_diverge_and_join_change_nothing(
    data: DeviceData, shared: SharedSteps, neighbour: Callable[[DeviceData], Trial]
) -> None:
    """Four after each other beside one; the first lanes are taken anew, in the middle of the others' epochs."""
    alone = Trial(0, data, SHORT).train(None)
    others: list[Trial] = []

    def one_after_the_other() -> None:
        for _ in range(4):
            others.append(neighbour(data).train(shared))

    thread = threading.Thread(target=one_after_the_other)
    thread.start()
    lane = Trial(0, data, SHORT).train(shared)
    thread.join()
    assert lane.error is None
    assert lane.made == alone.made
    first, *rest = ([type(one.error), one.keeper.evaluations] for one in others)
    assert all(other == first for other in rest)
    assert first[0] in (type(None), StoppedError, DivergedError)


def test_a_trial_that_diverges_says_where_as_it_does_alone(data: DeviceData, shared: SharedSteps) -> None:
    alone, lane = (Trial(0, data, hot(SHORT)).train(steps) for steps in (None, shared))
    assert isinstance(alone.error, DivergedError)
    assert isinstance(lane.error, DivergedError)
    assert (lane.error.iteration, lane.error.message) == (alone.error.iteration, alone.error.message)
    assert lane.made == alone.made


def test_a_trial_goes_on_from_a_point_in_another_lane_to_the_same_bytes(data: DeviceData, shared: SharedSteps) -> None:
    whole = Trial(0, data, SHORT).train(None)
    point = whole.keeper.points[1]
    beside, resumed = Trial(1, data, SHORT), Trial(0, data, SHORT, resume=point)
    together([beside, resumed], shared)
    assert resumed.result is not None
    assert whole.result is not None
    assert bytes_of(resumed.result.state) == bytes_of(whole.result.state)
    assert resumed.result.evaluations == whole.result.evaluations


@dataclass
class Over(Keeper):
    """The time is over from the second question on."""

    asked: int = 0

    def is_over(self, ahead: float) -> bool:
        self.asked += 1
        return self.asked > 3


def test_the_end_of_the_time_leaves_a_point_that_goes_on_to_the_same_bytes(
    data: DeviceData, shared: SharedSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_step, "LOOK_SECONDS", 0.001)
    whole = Trial(0, data, SHORT).train(None)
    short = Trial(0, data, SHORT, keeper=Over()).train(shared)
    assert isinstance(short.error, LimitError)
    resumed = Trial(0, data, SHORT, resume=short.keeper.points[-1]).train(shared)
    assert resumed.result is not None
    assert whole.result is not None
    assert bytes_of(resumed.result.state) == bytes_of(whole.result.state)
    assert resumed.result.evaluations == whole.result.evaluations


def test_lanes_change_places_and_keep_their_bytes(
    data: DeviceData, shared: SharedSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane that waits is taken out of the rows that are worked on, and comes back."""
    moved: list[tuple[int, int]] = []
    exchange = PlainTrials.exchange

    def seen(self: PlainTrials, one: int, other: int) -> None:
        moved.append((one, other))
        exchange(self, one, other)

    monkeypatch.setattr("rewindctl.fused.trials.FusedTrials.exchange", seen)
    gate = threading.Event()

    @dataclass
    class Waits(Keeper):
        def evaluated(self, evaluation: object) -> None:
            super().evaluated(evaluation)  # type: ignore[arg-type]
            gate.wait(0.5)

    alone = [Trial(seed, data, SHORT).train(None) for seed in range(3)]
    lanes = [Trial(seed, data, SHORT, keeper=Waits() if seed == 0 else Keeper()) for seed in range(3)]
    together(lanes, shared)
    assert [trial.made for trial in lanes] == [trial.made for trial in alone]
    assert moved


def test_rows_are_added_under_trainings_that_go_on_to_the_same_bytes(
    data: DeviceData, shared: SharedSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one to three; where there is no memory for more, who wanted one fails alone."""
    monkeypatch.setattr(shared_step, "FIRST_ROWS", 1)
    alone, lanes = ([Trial(seed, data, SHORT) for seed in range(3)] for _ in range(2))
    for trial in alone:
        trial.train(None)
    together(lanes, shared)
    assert [trial.made for trial in lanes] == [trial.made for trial in alone]
    (step,) = shared._steps.values()
    assert step.trials.count == 3
    others, made, halves = SharedSteps(3), FusedTrials.__init__, list[weakref.ref[FusedTrials]]()

    def too_many(self: FusedTrials, network: Network, given: DeviceData, constants: Constants, trials: int) -> None:
        assert [half() for half in halves] == [None] * len(halves), "memory for both would be taken"
        made(self, network, given, constants, trials)
        if trials > 1:
            halves.append(weakref.ref(self))
            raise MemoryError("no room")

    monkeypatch.setattr(FusedTrials, "__init__", too_many)
    first, second = together([Trial(0, data, SHORT), Trial(1, data, SHORT)], others)
    others.close()
    assert halves
    failed, whole = sorted((first, second), key=lambda trial: trial.error is None)
    assert isinstance(failed.error, MemoryError)
    assert whole.made == alone[whole.seed].made


def test_what_ends_the_step_ends_its_trials_and_the_next_one_begins_anew(
    data: DeviceData, shared: SharedSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = PlainTrials.run

    def breaks(self: PlainTrials, count: int | None = None) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(PlainTrials, "run", breaks)
    rows, make = list[weakref.ref[FusedTrials]](), SharedStep._make

    def noted(self: SharedStep, count: int) -> FusedTrials:
        made = make(self, count)
        rows.append(weakref.ref(made))
        return made

    monkeypatch.setattr(SharedStep, "_make", noted)
    lanes = together([Trial(seed, data, SHORT) for seed in range(2)], shared)
    assert [(type(trial.error), str(trial.error)) for trial in lanes] == [(MemoryError, "no room")] * 2
    assert lanes[0].error is not lanes[1].error
    assert [one() for one in rows] == [None] * len(rows), "the memory is given back"
    monkeypatch.setattr(PlainTrials, "run", run)
    assert Trial(0, data, SHORT).train(shared).made == Trial(0, data, SHORT).train(None).made


def test_trainings_of_other_kinds_have_steps_of_their_own(data: DeviceData, shared: SharedSteps) -> None:
    """And one that nobody uses gives its memory back when another kind begins."""
    lanes = [Trial(0, data, replace(SHORT, batch_size=size)) for size in (16, 20)]
    together(lanes, shared)
    assert [trial.error for trial in lanes] == [None, None]
    Trial(0, data, replace(SHORT, batch_size=12)).train(shared)
    assert len(shared._steps) == 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kernels_make_the_same_bytes_in_lanes(
    data: DeviceData, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels themselves, interpreted without a GPU: beside one that ends, in whichever lane."""
    monkeypatch.undo()
    monkeypatch.setattr("rewindctl.training.agreement.disagreement", lambda *arguments: "")
    settings = replace(
        *(SHORT,),
        batch_size=6,
        iterations=3,
        evaluate_every=2,
        checkpoint_at=(1,),
        precision=precision,  # type: ignore[arg-type]
    )
    steps = SharedSteps(2)
    alone = Trial(1, data, settings).train(None)
    lanes = [Trial(0, data, replace(settings, iterations=1)), Trial(1, data, settings)]
    together(lanes, steps)
    steps.close()
    assert lanes[1].error is None
    assert lanes[1].made == alone.made
