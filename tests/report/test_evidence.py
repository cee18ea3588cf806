"""Error rates and power are those stated, on trials whose truth is known; tests agree with their definitions."""

import math
from collections.abc import Callable
from itertools import combinations, product

import numpy as np
import pytest

from rewindctl.report.evidence import (
    AGAINST,
    FEWEST_AGAINST,
    FEWEST_PAIRED,
    LEVEL,
    MOST_TRIALS,
    POWER,
    _subsets,
    exchange_values,
    holm,
    interval,
    needed_against,
    needed_paired,
    p_above,
    p_below,
    smallest_against,
    standard_effect,
    typical_values,
)

EXPERIMENTS = 2_000
EACH = LEVEL / 2
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
NOISE: dict[str, Draw] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "skewed": lambda random, shape: random.exponential(size=shape),
    "heavy and skewed": lambda random, shape: random.lognormal(sigma=1.0, size=shape),
    "in steps, with ties": lambda random, shape: np.round(random.standard_normal(shape)),
}


def tolerance(rate: float, experiments: int = EXPERIMENTS) -> float:
    """Four standard deviations of a rate seen in so many experiments."""
    return 4 * math.sqrt(rate * (1 - rate) / experiments)


def rates(differences: np.ndarray, bound: float) -> tuple[float, float]:
    """How often experiments (rows) show an effect above, and below, the bound; few at a time, for memory."""
    counts = np.zeros(2)
    for some in np.array_split(differences, max(1, len(differences) * len(_subsets(differences.shape[1])) // 2**23)):
        values = typical_values(some)
        counts += [(p(values, bound) <= EACH).sum() for p in (p_above, p_below)]
    return counts[0] / len(differences), counts[1] / len(differences)


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("n", [3, 6, 10, 20])
def test_at_the_bound_each_direction_is_wrongly_shown_at_most_at_its_level(n: int, noise: str) -> None:
    random, draw = np.random.default_rng(n), NOISE[noise]
    baselines = 100 * random.standard_normal((EXPERIMENTS, n))
    ours, theirs = (baselines + draw(random, (EXPERIMENTS, n)) for _ in range(2))
    for rate in rates(ours - theirs - 0.1, -0.1):
        assert rate <= EACH + tolerance(EACH)
        assert n >= FEWEST_PAIRED or rate == 0


@pytest.mark.parametrize("n", [6, 10, 20])
def test_differences_that_are_skewed_themselves_are_wrong_as_often_as_the_docstring_says(n: int) -> None:
    skewed = np.random.default_rng(n).exponential(size=(EXPERIMENTS, n)) - 1
    assert max(rates(skewed, 0.0)) <= 0.1 + tolerance(0.1)


@pytest.mark.parametrize("n", [2, 3, 5, 6, 10])
def test_interval_covers_the_truth_as_often_as_it_says_and_agrees_with_the_tests(n: int) -> None:
    values = typical_values(np.random.default_rng(n).standard_normal((EXPERIMENTS, n)) + 0.3)
    low, high, confidence = interval(values)
    assert ((low <= 0.3) & (high >= 0.3)).mean() >= confidence - tolerance(confidence)
    assert confidence == min(0.95, 1 - 2 / 2**n)
    if n >= FEWEST_PAIRED:
        assert ((p_above(values, 0.0) <= EACH) == (low > 0)).all()
        assert ((p_below(values, 0.0) <= EACH) == (high < 0)).all()


def test_interval_of_three_trials_is_their_range_at_75_percent() -> None:
    low, high, confidence = interval(typical_values(np.array([0.4, -0.1, 0.2])))
    assert (low, high, confidence) == (pytest.approx(-0.1), pytest.approx(0.4), 0.75)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("bound", [0.0, -0.3])
def test_p_values_are_those_of_all_changes_of_sign(n: int, bound: float) -> None:
    differences = np.round(np.random.default_rng(n).standard_normal(n), 1)
    centred = differences - bound
    means = [float(np.mean(centred * np.array(signs))) for signs in product((1, -1), repeat=n)]
    values = typical_values(differences)
    assert p_above(values, bound) == np.mean([mean >= centred.mean() - 1e-9 for mean in means])
    assert p_below(values, bound) == np.mean([mean <= centred.mean() + 1e-9 for mean in means])


def test_beyond_sixteen_trials_the_changes_of_sign_are_still_a_group() -> None:
    members = {tuple(row) for row in (_subsets(19) > 0).astype(int).tolist()} | {(0,) * 19}
    assert len(members) == 2**16
    some = sorted(members)[:: len(members) // 40]
    assert all(tuple(a ^ b for a, b in zip(one, other, strict=True)) in members for one in some for other in some)
    assert all(any(column) for column in zip(*members, strict=True))


@pytest.mark.parametrize("n", [6, 7, 8, 10, 12, 16, 20])
def test_the_smallest_effect_is_shown_with_the_power_stated(n: int) -> None:
    random = np.random.default_rng(100 + n)
    deviation = 0.2
    differences = deviation * (random.standard_normal((EXPERIMENTS, n)) + standard_effect(n))
    assert rates(differences, 0.0)[0] == pytest.approx(POWER, abs=0.015 + tolerance(POWER))


def test_too_few_trials_show_no_effect_however_large() -> None:
    for n in range(1, FEWEST_PAIRED):
        assert standard_effect(n) == math.inf
        assert p_above(typical_values(np.full(n, 50.0)), 0.0) > EACH
    assert p_above(typical_values(np.full(FEWEST_PAIRED, 50.0)), 0.0) <= EACH


@pytest.mark.parametrize("distance", [2.0, 1.2, 1.0, 0.7, 0.5, 0.3, 0.1])
def test_the_trials_needed_are_the_fewest_that_show_the_effect(distance: float) -> None:
    needed = needed_paired(0.2 * distance, 0.2)
    assert isinstance(needed, int)
    assert standard_effect(needed) <= distance
    assert needed == FEWEST_PAIRED or standard_effect(needed - 1) > distance


def test_no_number_of_trials_shows_what_is_not_there() -> None:
    assert needed_paired(0.0, 0.2) == math.inf
    assert needed_paired(0.001, 0.2) == math.inf
    assert needed_paired(1.0, 0.0) == FEWEST_PAIRED
    assert needed_paired(2.81 * 0.2 / math.sqrt(MOST_TRIALS - 2), 0.2) <= MOST_TRIALS


# Against three published trials.


def against(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    values = exchange_values(ours, theirs)
    return (p_above(values, 0.0) <= EACH).mean(), (p_below(values, 0.0) <= EACH).mean()


@pytest.mark.parametrize("noise", ["normal", "skewed"])
@pytest.mark.parametrize("ratio", [1.0, 1.4, 2.0])
@pytest.mark.parametrize("n", [3, 5, 6, 10, 20])
def test_against_published_trials_the_level_holds_where_ours_are_as_noisy_or_noisier(
    n: int, ratio: float, noise: str
) -> None:
    random, draw = np.random.default_rng(n), NOISE[noise]
    mean = 1.0 if noise == "skewed" else 0.0
    ours, theirs = ratio * (draw(random, (EXPERIMENTS, n)) - mean), draw(random, (EXPERIMENTS, 3)) - mean
    limit = EACH if noise == "normal" or ratio == 1 else 0.05
    for rate in against(ours, theirs):
        assert rate <= limit + tolerance(limit)
        assert n >= FEWEST_AGAINST or rate == 0


@pytest.mark.parametrize("n", [5, 10, 20])
def test_where_ours_are_half_as_noisy_the_rate_is_the_one_of_the_docstring(n: int) -> None:
    random = np.random.default_rng(n)
    ours, theirs = 0.5 * random.standard_normal((EXPERIMENTS, n)), random.standard_normal((EXPERIMENTS, 3))
    assert max(against(ours, theirs)) <= 0.07 + tolerance(0.07)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_published_levels_sorted_into_trials_keep_the_level_whatever_ties_them(correlation: float) -> None:
    """Of published trials only smallest, median and largest of each level are known, not which trial they are of."""
    random, n, levels = np.random.default_rng(7), 6, 8

    def averages(trials: int, ordered: bool) -> np.ndarray:
        shared = random.standard_normal((EXPERIMENTS, 1, trials))
        own = random.standard_normal((EXPERIMENTS, levels, trials))
        noise = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
        return (np.sort(noise, axis=-1) if ordered else noise).mean(axis=1)

    for rate in against(averages(n, False), averages(3, True)):
        assert rate <= EACH + tolerance(EACH)


def test_p_values_against_others_are_those_of_all_exchanges() -> None:
    theirs, ours = np.array([-0.3, 0.1, 0.2]), np.array([0.3, 0.9, 0.5, -0.2, 0.0])
    for bound in (0.0, 0.2):
        pool = np.concatenate([ours - bound, theirs])
        means = [
            pool[list(chosen)].mean() - np.delete(pool, chosen).mean() for chosen in combinations(range(len(pool)), 5)
        ]
        observed = (ours - bound).mean() - theirs.mean()
        assert p_above(exchange_values(ours, theirs), bound) == np.mean([mean >= observed - 1e-9 for mean in means])


@pytest.mark.parametrize("n", [5, 6, 10, 20])
@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.4])
def test_the_smallest_difference_from_published_trials_is_shown_with_the_power_stated(n: int, ratio: float) -> None:
    random, theirs = np.random.default_rng(n), np.array([-1.0, 0.0, 1.0])
    effect = smallest_against(n, ratio, theirs)
    ours = ratio * random.standard_normal((EXPERIMENTS, n)) + effect
    assert against(ours, random.standard_normal((EXPERIMENTS, 3)))[0] == pytest.approx(
        POWER, abs=0.02 + tolerance(POWER)
    )


def test_the_trials_needed_against_published_ones() -> None:
    theirs = np.array([-0.2, 0.0, 0.2])
    for distance in (0.6, 0.45, 0.4):
        at = AGAINST.index(int(needed_against(distance, 0.2, theirs)))
        assert smallest_against(AGAINST[at], 0.2, theirs) <= distance
        assert at == 0 or smallest_against(AGAINST[at - 1], 0.2, theirs) > distance
    assert needed_against(0.3, 0.2, theirs) == math.inf  # 2.8 * 0.2 / sqrt(3) = 0.32: theirs alone hide it
    assert smallest_against(FEWEST_AGAINST - 1, 0.2, theirs) == math.inf


def test_holm_keeps_the_rate_of_any_false_one_and_is_never_below_the_p_value() -> None:
    p_values = np.random.default_rng(0).uniform(size=(EXPERIMENTS, 8))
    adjusted = np.array([holm(row) for row in p_values.tolist()])
    assert (adjusted.min(axis=1) <= EACH).mean() <= EACH + tolerance(EACH)
    assert (adjusted >= p_values).all()
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
