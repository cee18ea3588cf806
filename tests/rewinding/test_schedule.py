"""The rate of every iteration, and its shape over another length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewindctl.training.recipes import LearningRateSchedule, scale_boundaries

RESNET = LearningRateSchedule(72_000, 0.1, (36_000, 54_000), 0.1)
WRN = LearningRateSchedule(80_000, 0.1, (32_000, 48_000, 64_000), 0.2)


@pytest.mark.parametrize(
    ("schedule", "first", "last", "rate"),
    [
        (RESNET, 0, 35_999, 0.1),
        (RESNET, 36_000, 53_999, 0.01),
        (RESNET, 54_000, 71_999, 0.001),
        (WRN, 0, 31_999, 0.1),
        (WRN, 32_000, 47_999, 0.02),
        (WRN, 48_000, 63_999, 0.004),
        (WRN, 64_000, 79_999, 0.0008),
    ],
)
def test_rates_are_those_of_the_paper(schedule: LearningRateSchedule, first: int, last: int, rate: float) -> None:
    assert {schedule.rate(iteration) for iteration in (first, (first + last) // 2, last)} == {rate}


@pytest.mark.parametrize("schedule", [RESNET, WRN])
@pytest.mark.parametrize("divisor", [2, 10, 100, 1_000])
def test_a_scaled_schedule_keeps_the_shape(schedule: LearningRateSchedule, divisor: int) -> None:
    scaled = schedule.scaled(schedule.iterations // divisor)
    assert scaled.iterations == schedule.iterations // divisor
    for iteration in range(0, scaled.iterations, max(1, scaled.iterations // 500)):
        assert scaled.rate(iteration) == schedule.rate(iteration * divisor)


@given(st.integers(1, 10_000), st.sampled_from([RESNET, WRN]))
def test_every_length_starts_at_the_first_rate_and_only_falls(iterations: int, schedule: LearningRateSchedule) -> None:
    scaled = schedule.scaled(iterations)
    assert scaled.rate(0) == schedule.learning_rate
    assert len(scaled.boundaries) == len(schedule.boundaries)
    assert list(scaled.boundaries) == sorted(scaled.boundaries)
    assert all(1 <= boundary <= iterations for boundary in scaled.boundaries)
    around = sorted({i for b in scaled.boundaries for i in (b - 1, b, b + 1)})
    rates = [scaled.rate(i) for i in around]
    assert rates == sorted(rates, reverse=True)


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_boundary_moves_with_the_length_to_within_half_an_iteration(old: int, new: int) -> None:
    for boundary in (1, (old + 1) // 2, old):
        (moved,) = scale_boundaries((boundary,), old, new)
        assert moved == 1 or abs(moved - boundary * new / old) <= 0.5


def test_the_same_length_is_the_same_schedule() -> None:
    assert RESNET.scaled(72_000) == RESNET
    assert WRN.scaled(80_000) == WRN
