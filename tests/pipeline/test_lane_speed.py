"""How many trials of one set of kernels at once are fastest: measured, kept, and chosen from."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rewindctl.arithmetic import Arithmetic
from rewindctl.checks import lane_speed
from rewindctl.checks.lane_speed import (
    COUNTS,
    LEAST_GAIN,
    NEAR_BEST,
    NO_GAIN,
    NO_MEMORY,
    LaneCurve,
    LaneKind,
    best_lanes,
    lane_curve,
    measured_curve,
)
from rewindctl.checks.speed import noise
from rewindctl.datasets.batches import DeviceData
from rewindctl.datasets.inventory import facts_of
from rewindctl.models import models
from rewindctl.models.network import NetworkConfig
from rewindctl.pipeline.requests import dense_spec
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training import agreement
from rewindctl.training.fused_step import FusedStepper

CPU = torch.device("cpu")
curves = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=len(COUNTS)).map(
    lambda speeds: LaneCurve(dict(zip(COUNTS, speeds, strict=False)))
)


def kind(precision: str = "fp32", batch_size: int = 4, model: str = "resnet8") -> LaneKind:
    facts = facts_of("digits", None)
    return LaneKind(dense_spec(model, facts, 0, batch_size=batch_size), facts, CPU, Arithmetic(precision))


# Choosing


@given(curves, st.integers(-1, 40))
def test_no_fewer_are_as_fast_and_what_is_chosen_is_near_the_best(curve: LaneCurve, most: int) -> None:
    chosen = best_lanes(curve, most)
    assert 1 <= chosen <= max(1, most)
    possible = [count for count in curve.speeds if count <= most]
    assert all(curve.at(chosen) >= NEAR_BEST * curve.speeds[count] for count in possible)
    assert all(curve.speeds[count] < curve.at(chosen) / NEAR_BEST for count in possible if count < chosen)
    assert chosen in curve.speeds or chosen == most


@given(curves, st.integers(1, 40))
def test_more_room_never_makes_fewer(curve: LaneCurve, most: int) -> None:
    assert best_lanes(curve, most) <= best_lanes(curve, most + 1)


@given(curves, st.integers(1, 40))
def test_between_two_that_were_measured_it_is_no_faster_than_both(curve: LaneCurve, count: int) -> None:
    assert min(curve.speeds.values()) * 0.999 <= curve.at(count) <= max(curve.speeds.values()) * 1.001
    assert curve.at(max(curve.speeds) + count) == curve.speeds[max(curve.speeds)]


def test_where_more_gain_as_many_as_there_are() -> None:
    linear = LaneCurve({count: 10.0 * count for count in COUNTS})
    assert [best_lanes(linear, most) for most in (0, 1, 3, 5, 32, 50)] == [1, 1, 3, 5, 32, 32]
    flat = LaneCurve(dict.fromkeys(COUNTS, 10.0))
    assert [best_lanes(flat, most) for most in (1, 3, 50)] == [1, 1, 1]
    assert best_lanes(LaneCurve({1: 1.0, 2: 1.04}), 8) == 1
    assert best_lanes(LaneCurve({1: 1.0, 2: 1.06}), 8) == 2


# Measuring


def test_speeds_are_measured_of_real_updates() -> None:
    """Interpreted, where there is no GPU."""
    curve = measured_curve(kind(), (1, 2), seconds=0.0)
    assert list(curve.speeds) == [1, 2]
    assert all(speed > 0 for speed in curve.speeds.values())


def pretend(monkeypatch: pytest.MonkeyPatch, speeds: dict[int, float]) -> list[int]:
    """As if the device were so fast; what is not there does not fit. Returns what was measured."""
    measured: list[int] = []

    def speed(kind: LaneKind, data: DeviceData, count: int, seconds: float) -> float:
        measured.append(count)
        if count not in speeds:
            raise torch.OutOfMemoryError
        return speeds[count]

    monkeypatch.setattr(lane_speed, "_speed", speed)
    return measured


def test_it_ends_where_more_gain_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = pretend(monkeypatch, {1: 10.0, 2: 20.0, 4: 20.0 * LEAST_GAIN * 0.99, 8: 1e9})
    curve = measured_curve(kind())
    assert (measured, list(curve.speeds), curve.ended) == ([1, 2, 4], [1, 2, 4], NO_GAIN)


def test_it_ends_where_memory_does_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is computed, or as it turns out; a single trial is always tried."""
    measured = pretend(monkeypatch, {1: 10.0, 2: 20.0})
    assert measured_curve(kind()) == LaneCurve({1: 10.0, 2: 20.0}, NO_MEMORY)
    room = int(kind().memory.of(2) / 0.9) - 1
    assert measured_curve(kind(), free=lambda place: room) == LaneCurve({1: 10.0}, NO_MEMORY)
    assert measured == [1, 2, 4, 1]
    pretend(monkeypatch, {})
    with pytest.raises(torch.OutOfMemoryError):
        measured_curve(kind())


def test_networks_without_such_kernels_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind().unfit == "they need a CUDA device"
    monkeypatch.setattr(lane_speed, "missing_part", lambda device: "")
    assert kind().unfit == ""

    def normed(config: NetworkConfig) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))

    monkeypatch.setitem(models._entries, "normed", normed)
    assert kind(model="normed").unfit == "kernels of our own make a part of its updates alone"
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    monkeypatch.setitem(models._entries, "plain", lambda config: plain)
    assert "batch norms" in kind(model="plain").unfit


def test_kernels_that_disagreed_with_pytorchs_operations_train_nothing(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    """As the comparison before a training left it."""
    monkeypatch.setattr(lane_speed, "missing_part", lambda device: "")
    network, settings = kind().recipe
    data = DeviceData.upload(noise(kind().facts, 4), CPU)
    monkeypatch.setattr(agreement, "compared", lambda *given: "another loss")
    given = (FusedStepper, network, data, settings, TrainState.initial(network), None)
    assert agreement.disagreement(*given) == "another loss"
    assert kind().unfit == "on this device they make another loss"
    assert kind(batch_size=8).unfit == ""


# Keeping


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "rewindctl" / "lane_speed.json"


def test_what_was_measured_is_kept_for_the_same_kind_alone(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    said: list[str] = []
    measured = pretend(monkeypatch, {1: 10.0, 2: 10.0})
    first = lane_curve(kind(), say=said.append)
    assert (first, measured) == (LaneCurve({1: 10.0, 2: 10.0}, NO_GAIN), [1, 2])
    assert said == ["measuring resnet8 by kernels of our own, several trials at once ..."]
    assert lane_curve(kind(), say=said.append) == first
    assert (len(measured), len(said)) == (2, 1)
    for other in (kind("bf16"), kind(batch_size=8), kind(model="resnet14")):
        lane_curve(other)
    assert len(measured) == 8
    assert len(json.loads(file.read_text())) == 4
    lane_curve(kind(), anew=True)
    assert len(measured) == 10


DAMAGED = (
    *("{", "[]", "{}", '{"speeds": {}}', '{"speeds": {"2": 1.0}}', '{"speeds": {"1": -1}}', '{"speeds": {"1": NaN}}'),
    *('{"speeds": {"one": 1}}', '{"speeds": {"1": null}}', '{"speeds": [1]}', "null"),
)


@pytest.mark.parametrize("content", DAMAGED)
def test_what_is_damaged_is_measured_anew(monkeypatch: pytest.MonkeyPatch, file: Path, content: str) -> None:
    """The file, or what it has of a kind."""
    measured = pretend(monkeypatch, {1: 10.0, 2: 10.0})
    wanted = lane_curve(kind())
    file.write_text(content)
    assert lane_curve(kind()) == wanted
    file.write_text(f'{{"{kind().key}": {content if content != "{" else 1}}}')
    assert lane_curve(kind()) == wanted
    assert len(measured) == 6
    assert lane_curve(kind()) == wanted
    assert len(measured) == 6


def test_where_nothing_can_be_kept_it_is_measured_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder would be")
    measured = pretend(monkeypatch, {1: 10.0, 2: 10.0})
    assert lane_curve(kind()) == lane_curve(kind())
    assert len(measured) == 4


def test_what_ended_for_memory_holds_until_there_is_more(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    measured = pretend(monkeypatch, {1: 10.0, 2: 20.0, 4: 20.0})
    little, much = int(kind().memory.of(2) / 0.9) - 1, 10**12
    assert lane_curve(kind(), free=lambda place: little).ended == NO_MEMORY
    assert lane_curve(kind(), free=lambda place: little).ended == NO_MEMORY
    assert measured == [1]
    assert lane_curve(kind(), free=lambda place: much) == LaneCurve({1: 10.0, 2: 20.0, 4: 20.0}, NO_GAIN)
    assert lane_curve(kind(), free=lambda place: little).ended == NO_GAIN
    assert measured == [1, 1, 2, 4]
