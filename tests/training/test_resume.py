"""A training that goes on from any of its resume points ends as the unbroken one did."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trainings import SETTINGS, Keeper, network

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import LimitError
from rewindctl.models import kernels
from rewindctl.pruning import Mask, prune
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import PruneSpec
from rewindctl.training.loop import train
from rewindctl.training.records import ResumePoint, TrainResult


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.upload(load_dataset("digits"), torch.device("cpu"))


def train_from(
    data: DeviceData, start: TrainState, mask: Mask | None, resume: ResumePoint | None = None
) -> tuple[TrainResult, Keeper]:
    keeper = Keeper()
    return train(network(), data, SETTINGS, start, keeper, mask, resume), keeper


def saved(state: TrainState, path: Path) -> bytes:
    state.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("masked", [False, True])
def test_going_on_from_any_point_ends_in_the_same_bytes(data: DeviceData, tmp_path: Path, masked: bool) -> None:
    fresh = network()
    start = TrainState.initial(fresh)
    spec = PruneSpec(parent_fingerprint="", sparsity=0.8)
    mask = prune({name: k.detach() for name, k in kernels(fresh).items()}, spec).mask if masked else None
    whole, seen = train_from(data, start, mask)
    assert [point.state.iteration for point in seen.points] == [0, 6, 12, 18, 20]
    for point in seen.points:
        rest, later = train_from(data, start, mask, point)
        at = point.state.iteration
        assert saved(rest.state, tmp_path / "a") == saved(whole.state, tmp_path / "b")
        assert rest.evaluations == whole.evaluations
        assert rest.duration_seconds >= point.wall_seconds >= point.training_seconds
        assert later.evaluations == [evaluation for evaluation in seen.evaluations if evaluation.iteration > at]
        assert [s.iteration for s in later.states] == [s.iteration for s in seen.states if s.iteration > at]


class Hurried(Keeper):
    """Has no time left after so many updates, or for an evaluation at all."""

    def __init__(self, updates: int, evaluations: bool = True) -> None:
        super().__init__()
        self.updates, self.may_evaluate, self.over = updates, evaluations, False

    def is_over(self, ahead: float) -> bool:
        late = ahead > 0 and not self.may_evaluate
        self.over = late or self.iterations[-1] == self.updates
        return self.over

    def resumable(self, make: Callable[[], ResumePoint]) -> None:
        if self.over:
            super().resumable(make)


@pytest.mark.parametrize("at", [0, 6, 14])
def test_a_training_whose_time_is_over_keeps_its_very_last_update(data: DeviceData, tmp_path: Path, at: int) -> None:
    """Between two evaluations too: the mean of the losses from one to the next is that of the unbroken training."""
    start = TrainState.initial(network())
    whole, _ = train_from(data, start, None)
    hurried = Hurried(at)
    with pytest.raises(LimitError, match=f"at iteration {at}$"):
        train(network(), data, SETTINGS, start, hurried)
    (point,) = hurried.points
    assert (point.state.iteration, point.loss_count) == (at, at % SETTINGS.evaluate_every)
    rest, later = train_from(data, start, None, point)
    assert saved(rest.state, tmp_path / "a") == saved(whole.state, tmp_path / "b")
    assert rest.evaluations == whole.evaluations
    assert later.iterations == list(range(at, SETTINGS.iterations + 1))


def test_no_evaluation_is_begun_that_time_does_not_do_for(data: DeviceData) -> None:
    hurried = Hurried(100, evaluations=False)
    with pytest.raises(LimitError):
        train(network(), data, SETTINGS, TrainState.initial(network()), hurried)
    assert [evaluation.iteration for evaluation in hurried.evaluations] == [0]
    assert hurried.points[-1].state.iteration == SETTINGS.evaluate_every - 1
