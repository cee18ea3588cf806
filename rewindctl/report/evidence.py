"""What a few trials can show of a mean effect: exact tests, their intervals, and the effect that n trials detect.

Every test is a permutation test, and every one is held as its *typical values*: the numbers that bound the effect.
A change of signs (or an exchange of trials) raises the mean of `differences - bound` exactly where the mean over the
trials it touches is at most `bound`, so the p-value at any bound is a count of typical values, and the interval is
two of them. Source: Hartigan 1969, "Using subsample values as typical values"; Hemerik and Goeman 2018, "Exact
testing with random permutations" (a group of changes drawn once keeps the test exact).

What is assumed: trials are independent, and a paired difference is as likely to lie x above the true effect as x
below. That holds where both methods' noise has one shape, however skewed; it needs no normal distribution, which
three to ten trials could never show. A t-test would need one; Wilcoxon's test makes the same assumption as ours but
judges ranks, not the mean that the tables print. Where differences themselves are skewed as an exponential
distribution is, a verdict in the direction of the short tail is wrong in up to 10 %, not 2.5 %.
"""

import math
from bisect import bisect_left
from functools import cache
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.05  # of both directions together: each verdict is tested at half of it, as a 95 % interval does
POWER = 0.8
MOST_TRIALS = 1_000
SIGN_BITS = 16  # all 2^n changes of sign up to here; a group of 2^16 of them for more trials
FEWEST_PAIRED = 6  # 2^-6 is the first power of a half within 2.5 %
FEWEST_AGAINST = 5  # likewise 1 / C(8, 3), against three published trials
SIMULATED_PAIRED = 10
AGAINST = (*range(FEWEST_AGAINST, 21), 25, 30, 40)
SIMULATIONS = 4_000
TOLERANCE = 1e-9  # points; accuracies are multiples of 1 / test images, and sums of equal ones must count as equal


def typical_values(differences: Array) -> Array:
    """Means over every non-empty subset of the last axis. (..., n) to (..., 2^min(n, 16) - 1)."""
    values: Array = np.asarray(differences, dtype=float) @ _subsets(np.shape(differences)[-1]).T
    return values


@cache
def _subsets(n: int) -> Array:
    """Rows that take the mean of a subset: code words of a linear code, all of them where n allows."""
    bits = min(n, SIGN_BITS)
    columns = [1 << bit for bit in range(bits)]
    columns += np.random.default_rng(0).integers(1, 2**bits, n - bits).tolist()
    columns_as_bits = (np.array(columns)[None, :] >> np.arange(bits)[:, None]) & 1
    words = (np.arange(1, 2**bits)[:, None] >> np.arange(bits)[None, :]) & 1
    member = words @ columns_as_bits % 2
    rows: Array = member / member.sum(axis=1, keepdims=True)
    return rows


def exchange_values(ours: Array, theirs: Array) -> Array:
    """Typical values of the difference of two independent groups' means: mean of some of ours - of as many of theirs.

    The two-sample permutation test of `mean(ours) - mean(theirs)`: (..., n) and (..., m) to (..., C(n + m, m) - 1).
    Exchange needs equal noise; where our deviation is the smaller one, ours are first stretched about their mean to
    theirs, since the test errs to the safe side only while the larger group is the noisier one. Where the truth is
    half their noise, a verdict is still wrong in up to 7 % (20 trials), not 2.5 %.
    """
    ours, theirs = _stretched(np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)), np.asarray(theirs)
    parts = []
    for size in range(1, min(ours.shape[-1], theirs.shape[-1]) + 1):
        left, right = (
            values[..., np.array(list(combinations(range(values.shape[-1]), size)))].mean(-1)
            for values in (ours, theirs)
        )
        parts.append((left[..., :, None] - right[..., None, :]).reshape(*left.shape[:-1], -1))
    return np.concatenate(parts, axis=-1)


def _stretched(ours: Array, theirs: Array) -> Array:
    if ours.shape[-1] < 2:
        return ours
    deviation = np.maximum(ours.std(axis=-1, ddof=1, keepdims=True), TOLERANCE)
    factor = np.maximum(1, theirs.std(axis=-1, ddof=1, keepdims=True) / deviation)
    mean = ours.mean(axis=-1, keepdims=True)
    stretched: Array = mean + (ours - mean) * factor
    return stretched


def p_above(values: Array, bound: float) -> Any:
    """One-sided p-value of "the effect is above `bound`": exact where the truth is `bound`, from typical values."""
    return (1 + (values <= bound + TOLERANCE).sum(axis=-1)) / (values.shape[-1] + 1)


def p_below(values: Array, bound: float) -> Any:
    """One-sided p-value of "the effect is below `bound`"."""
    return p_above(-values, -bound)


def interval(values: Array) -> tuple[Any, Any, float]:
    """The effects that neither test rejects (lower, upper), and the confidence, which is 0.95 where that is reachable.

    Fewer than 6 paired trials cannot reach 95 %: theirs is the widest interval that there is, with its own
    confidence (3 trials: smallest to largest difference, 75 %).
    """
    count = values.shape[-1] + 1
    rank = max(1, math.floor(LEVEL / 2 * count + TOLERANCE))
    ordered = np.partition(values, [rank - 1, count - 1 - rank], axis=-1)
    return ordered[..., rank - 1], ordered[..., count - 1 - rank], min(1 - LEVEL, 1 - 2 / count)


@cache
def standard_effect(n: int) -> float:
    """The effect that n paired trials show with 80 % power, in standard deviations of their (normal) differences.

    Simulated for few trials, where a t-test's formula promises too much (6 trials: 1.8, not 1.4); beyond, Guenther's
    (1981) normal approximation, which then agrees. Infinite where no result of n trials reaches the level.
    """
    if n < FEWEST_PAIRED:
        return math.inf
    if n <= SIMULATED_PAIRED:
        noise = np.random.default_rng(0).standard_normal((SIMULATIONS, n))
        return float(np.quantile(-interval(typical_values(noise))[0], POWER))
    return _Z / math.sqrt(n - _Z_LEVEL**2 / 2)


_Z_LEVEL = NormalDist().inv_cdf(1 - LEVEL / 2)
_Z = _Z_LEVEL + NormalDist().inv_cdf(POWER)


def needed_paired(distance: float, deviation: float) -> float:
    """Fewest paired trials that show an effect `distance` away from the bound with 80 % power; infinite over 1,000."""
    if distance <= 0:
        return math.inf
    for n in range(FEWEST_PAIRED, SIMULATED_PAIRED + 1):
        if standard_effect(n) * deviation <= distance:
            return n
    n = math.ceil((_Z * deviation / distance) ** 2 + _Z_LEVEL**2 / 2)
    return max(n, SIMULATED_PAIRED + 1) if n <= MOST_TRIALS else math.inf


def smallest_against(n: int, deviation: float, theirs: Array) -> float:
    """The difference from a published group that n trials of `deviation` show with 80 % power; simulated, normal."""
    if math.comb(n + len(theirs), n) < 2 / LEVEL:
        return math.inf
    random = np.random.default_rng(0)
    draws = SIMULATIONS if n <= 20 else SIMULATIONS // 10
    ours = deviation * random.standard_normal((draws, n))
    others = float(np.std(theirs, ddof=1)) * random.standard_normal((draws, len(theirs)))
    return float(np.quantile(-interval(exchange_values(ours, others))[0], POWER))


def needed_against(distance: float, deviation: float, theirs: Array) -> float:
    """Fewest trials of `AGAINST` that show a difference from a published group.

    Infinite where 40 do not: more of ours hardly help then, since the published trials' own noise hides it.
    """
    at = bisect_left(AGAINST, True, key=lambda n: smallest_against(n, deviation, theirs) <= distance)
    return AGAINST[at] if at < len(AGAINST) else math.inf


def holm(p_values: list[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given."""
    order = np.argsort(p_values)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
