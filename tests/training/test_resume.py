"""A training that goes on from any of its resume points ends as the unbroken one did."""

from pathlib import Path

import pytest
import torch
from trainings import SETTINGS, Keeper, network

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
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
