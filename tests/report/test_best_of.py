"""The best of several settings is judged by an interval that holds for all of them."""

import numpy as np
import pytest

from rewindctl.report import evidence
from rewindctl.report.best_of import _distances, half_width, verdict_on
from rewindctl.report.paired import FIRST, SECOND

SETTINGS, REPEATS = 9, 400


def trials(rng: np.random.Generator, n: int, truth: object) -> evidence.Array:
    """Differences of settings that share half of their noise, as pairs with one opponent do."""
    return np.asarray(truth) + 0.2 * (rng.standard_normal((n, SETTINGS)) + rng.standard_normal((n, 1)))


@pytest.mark.parametrize("n", [6, 8, 12])
@pytest.mark.parametrize("truth", [0.0, np.array([0.0] * 4 + [-10.0] * 5)], ids=["equal", "some are hopeless"])
def test_settings_that_are_no_better_are_called_better_in_at_most_5_percent(n: int, truth: object) -> None:
    """However many there are to choose from; the largest mean alone would be above 0 nearly always."""
    rng, wrong, naive = np.random.default_rng(0), 0, 0
    for _ in range(REPEATS):
        drawn = trials(rng, n, truth)
        best = int(drawn.mean(axis=0).argmax())
        wrong += verdict_on(drawn, best).get("verdict") == FIRST
        naive += bool(evidence.p_above(evidence.typical_values(drawn[:, best]), 0.0) <= evidence.LEVEL / 2)
    assert wrong / REPEATS <= 0.05
    assert naive / REPEATS > wrong / REPEATS, "without allowing for the choice there are more"


def test_the_interval_holds_for_all_settings_at_once() -> None:
    rng, truth = np.random.default_rng(1), np.linspace(-1, 1, SETTINGS)
    held = 0
    for _ in range(REPEATS):
        drawn = trials(rng, 8, truth)
        width, confidence = half_width(_distances(drawn))
        assert confidence == 0.95
        held += bool((np.abs(drawn.mean(axis=0) - truth) <= width).all())
    assert held / REPEATS >= 0.95


def test_a_large_effect_is_found_in_either_direction_from_six_trials_on() -> None:
    rng = np.random.default_rng(2)
    better, worse = np.array([0.0] * 8 + [3.0]), np.full(SETTINGS, -3.0)
    for n in (2, 3, 5):
        found = verdict_on(trials(rng, n, better), 8)
        assert (found["verdict"], found["remark"]) == ("not decided", "needs at least 6 trials")
    for n in (6, 7, 20):
        found = verdict_on(trials(rng, n, better), 8)
        assert found["verdict"] == FIRST
        assert found["low"] > 0
        drawn = trials(rng, n, worse)
        found = verdict_on(drawn, int(drawn.mean(axis=0).argmax()))
        assert found["verdict"] == SECOND
        assert found["high"] < 0
    close = verdict_on(trials(rng, 6, 0.1), 0)
    assert close["verdict"] == "not decided"
    assert close["remark"].startswith("needs ")
    assert close["smallest_effect"] > close["effect"]


def test_one_trial_has_no_interval() -> None:
    found = verdict_on(np.ones((1, SETTINGS)), 0)
    assert (found["n"], found["effect"], found["remark"]) == (1, 1.0, "needs at least 6 trials")
