"""Looks after every trial: the stated error rate holds, the naive test's does not, and realistic effects are found."""

import math

import numpy as np
import pytest

from rewindctl.report.evidence import p_above, typical_values
from rewindctl.report.sequential import EACH, FEWEST, LARGE, looked_at, planned, share, shown_above, standard_effect

STUDIES, MOST = 3_000, 12
NOISE = {
    "normal": lambda random: random.standard_normal((STUDIES, MOST)),
    "heavy tails": lambda random: random.standard_t(3, (STUDIES, MOST)),
    "in steps, with ties": lambda random: np.round(random.standard_normal((STUDIES, MOST))),
    "each trial noisier": lambda random: random.standard_normal((STUDIES, MOST)) * np.arange(1, MOST + 1),
}


@pytest.mark.parametrize("noise", NOISE)
def test_with_looks_after_every_trial_each_direction_is_wrong_at_most_at_its_level(noise: str) -> None:
    differences = NOISE[noise](np.random.default_rng(1)) - 0.1
    wrong = [(shown_above(sign * differences, -0.1 * sign)[0] > 0).mean() for sign in (1, -1)]
    assert max(wrong) <= EACH + 4 * math.sqrt(EACH * (1 - EACH) / STUDIES)


def test_the_fixed_test_at_every_look_would_be_wrong_more_often_than_it_says() -> None:
    differences = np.random.default_rng(1).standard_normal((STUDIES, MOST))
    naive = np.zeros(STUDIES, dtype=bool)
    for n in range(2, MOST + 1):
        naive |= p_above(typical_values(differences[:, :n]), 0.0) <= EACH
    assert naive.mean() > 1.5 * EACH


@pytest.mark.parametrize(("effect", "deviation", "power"), [(0.2, 0.2, 0.7), (0.3, 0.25, 0.85), (0.5, 0.3, 0.97)])
def test_realistic_effects_are_found_within_the_papers_most_trials(
    effect: float, deviation: float, power: float
) -> None:
    noise = np.random.default_rng(2).standard_normal((1_000, MOST))
    shown = shown_above(effect + deviation * noise)[0]
    assert (shown > 0).mean() >= power
    assert shown[shown > 0].min() == FEWEST
    assert (shown_above(-(effect + deviation * noise))[0] > 0).mean() <= 0.005


def test_the_share_grows_with_the_trials_alone_and_is_never_all() -> None:
    shares = [share(n) for n in range(1, 1_000)]
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] < 1
    assert EACH * share(FEWEST) * 2**FEWEST >= 1 > EACH * share(FEWEST - 1) * 2 ** (FEWEST - 1)


def test_what_was_shown_stays_shown_and_later_trials_change_no_earlier_look() -> None:
    differences = 0.3 + 0.25 * np.random.default_rng(3).standard_normal((300, MOST))
    whole, p_values = shown_above(differences)
    for n in range(FEWEST, MOST):
        part, _ = shown_above(differences[:, :n])
        assert (part == np.where(whole <= n, whole, 0)).all()
    assert ((p_values <= EACH) == (whole > 0)).all()


def test_the_first_look_that_decides_is_that_of_all_changes_of_sign() -> None:
    low = shown_above(np.full((1, FEWEST - 1), 9.0))
    assert low[0][0] == 0
    shown, p = shown_above(np.array([[1.0, 2, 3, 4, 5, 6, 7]]))
    assert (shown[0], p[0]) == (FEWEST, 2**-FEWEST / share(FEWEST))


def test_beyond_all_changes_of_sign_a_group_of_them_keeps_the_rate() -> None:
    differences = np.random.default_rng(4).standard_normal((1_500, 24))
    wrong = (shown_above(differences, bits=9)[0] > 0).mean()
    assert wrong <= EACH + 4 * math.sqrt(EACH * (1 - EACH) / 1_500)


def test_the_interval_agrees_with_the_test_and_holds_the_truth_at_all_looks() -> None:
    random, missed = np.random.default_rng(5), 0
    for _ in range(60):
        differences = 0.3 + 0.2 * random.standard_normal(9)
        seen = looked_at(differences)
        assert seen.low is not None
        assert seen.high is not None
        assert (seen.low > 0) == (seen.p_above <= EACH)
        assert (seen.high < 0) == (seen.p_below <= EACH)
        missed += not seen.low <= 0.3 <= seen.high
    assert missed <= 0.05 * 60 + 4 * math.sqrt(0.05 * 0.95 * 60)
    assert looked_at(differences[: FEWEST - 1])[2:] == (None, None)


def test_what_is_planned_is_what_happens() -> None:
    plan = planned(1.3)
    shown = shown_above(1.3 + np.random.default_rng(6).standard_normal((1_000, MOST)))[0]
    decided = (shown > 0) & (shown <= plan.worst)
    assert decided.mean() == pytest.approx(0.8, abs=0.12)
    assert FEWEST <= plan.expected <= plan.worst
    assert math.isinf(planned(0.1).worst)
    assert planned(LARGE).worst == FEWEST
    assert math.isinf(standard_effect(FEWEST - 1))
    assert standard_effect(12) < standard_effect(8)
