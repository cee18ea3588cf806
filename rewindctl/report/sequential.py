"""Paired comparisons that are looked at after every trial: the stated error rate holds however the trials were stopped.

Who looks at a fixed test after each trial and stops when it shows something is wrong more often than it says. Here the
level of a direction is spent over the looks (alpha spending, Lan and DeMets 1983): by look n at most `share(n)` of it.
Each look rejects as many of the changes of sign of its trials, those with the largest sums that no earlier look has
rejected, as the share allows, so that the rate is a count over their joint distribution, as in `evidence`, and exact
under the same assumption: a difference is as likely to lie x above the true effect as x below, given those before.
The share depends on the number of trials alone, never on a planned maximum: a study may stop at any trial, for any
reason, and go on later. Source: Lan and DeMets 1983, "Discrete sequential boundaries for clinical trials"; Jennison
and Turnbull 1999, "Group sequential methods", chapters 7 (spending) and 9 (repeated confidence intervals).
"""

import math
from functools import cache
from itertools import count
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rewindctl.report.evidence import LEVEL, POWER, SIGN_BITS, TOLERANCE, Array

EACH = LEVEL / 2  # of one direction, as the fixed tests
HORIZON = 12  # the most trials that the paper spent on a cell
BY_HORIZON = 0.8  # of the level is spent by then; the rest is for those who go on
SIMULATIONS = 500
PLAN_BITS = 11  # 2048 changes of sign are enough for the power of a simulated study
MOST_PLANNED = 40
STEPS = 20  # of a bisection: a millionth of where it began
NEAREST = NormalDist().inv_cdf(1 - EACH) + NormalDist().inv_cdf(POWER)  # deviations of a mean
LARGE = 4.0  # deviations: every study shows it at the first look that can


def share(n: int) -> float:
    """The part of a direction's level that may be spent by look n: in equal parts up to the horizon, then slower."""
    return BY_HORIZON * n / HORIZON if n <= HORIZON else 1 - (1 - BY_HORIZON) * HORIZON / n


FEWEST = next(n for n in count(1) if EACH * share(n) * 2**n >= 1)  # the first look that can show anything


def shown_above(differences: Array, bound: float = 0.0, bits: int = SIGN_BITS) -> tuple[NDArray[np.int64], Array]:
    """At which look "the effect is above `bound`" is shown (0: at none), and its p-value, for each study.

    `differences` are (studies, n), or (n,) for one, in the order of the looks. The p-value is the part of the changes
    of sign that an earlier look rejected, or that are as extreme at this one (Tsiatis, Rosner and Mehta 1984), over
    the share: at most `EACH` exactly where the effect is shown, and then that of the look that showed it.
    """
    differences = np.atleast_2d(np.asarray(differences, dtype=float)) - bound
    shown, p_values = np.zeros(len(differences), dtype=np.int64), np.ones(len(differences))
    left = np.arange(len(differences))
    sums, alive = np.zeros((len(left), 1)), np.ones((len(left), 1), dtype=bool)
    spent = np.zeros(len(left), dtype=np.int64)
    for look, column in enumerate(differences.T, start=1):
        new = column[left, None]
        if look <= bits:
            sums, alive = np.hstack([sums + new, sums - new]), np.hstack([alive, alive])
            spent = 2 * spent
        else:
            sums = sums + np.where(_turned(look, bits), -new, new)
        ranked = np.where(alive, sums, -np.inf)
        as_high = spent + (ranked >= sums[:, :1] - TOLERANCE).sum(axis=1)
        p_values[left] = np.minimum(1, as_high / (sums.shape[1] * share(look)))
        allowed = np.floor(EACH * share(look) * sums.shape[1] + TOLERANCE).astype(np.int64) - spent
        rejected = alive & (sums > _ranked_after(ranked, np.maximum(allowed, 0))[:, None] + TOLERANCE)
        shown[left[rejected[:, 0]]] = look  # the first of the changes is none: the study itself
        on = ~rejected[:, 0]
        left, sums, alive = left[on], sums[on], (alive & ~rejected)[on]
        spent = (spent + rejected.sum(axis=1))[on]
        if not len(left):
            break
    return shown, p_values


def _ranked_after(values: Array, places: NDArray[np.int64]) -> Array:
    """In each row the largest value after the `places` largest ones."""
    at = values.shape[1] - 1 - places
    ordered = np.partition(values, np.unique(at), axis=1)
    found: Array = np.take_along_axis(ordered, at[:, None], axis=1)[:, 0]
    return found


@cache
def _turned(look: int, bits: int) -> NDArray[np.bool_]:
    """Which of 2^bits changes of sign turn the trial of a look beyond them: with it they are still a group."""
    column = int(np.random.default_rng(look).integers(1, 2**bits))
    turned: NDArray[np.bool_] = np.bitwise_count(np.arange(2**bits) & column) % 2 == 1
    return turned


class Evidence(NamedTuple):
    """What the looks at one comparison show of the effect: one-sided p-values, and the interval (None: no bounds yet).

    The interval is a repeated confidence interval: it holds the true effect at all looks together with 95 %.
    """

    p_above: float
    p_below: float
    low: float | None
    high: float | None


def looked_at(differences: Array, bound: float = 0.0) -> Evidence:
    """One comparison, its trials in the order in which they were looked at."""
    _, above = shown_above(differences, bound)
    _, below = shown_above(-differences, -bound)
    if len(differences) < FEWEST:
        return Evidence(float(above[0]), float(below[0]), None, None)
    return Evidence(float(above[0]), float(below[0]), _lower(differences), -_lower(-differences))


def _lower(differences: Array) -> float:
    """The largest effect that the looks show the true one to be above."""
    low, high = float(differences.min()) - 1e-6, float(differences.max()) + 1e-6
    for _ in range(STEPS):
        middle = (low + high) / 2
        if shown_above(differences, middle)[0][0]:
            low = middle
        else:
            high = middle
    return low


class Planned(NamedTuple):
    """Trials until a decision: on average, and the number by which 4 of 5 studies are decided (infinite: over 40)."""

    expected: float
    worst: float


@cache
def planned(effect: float) -> Planned:
    """What an effect so many deviations from the bound needs, looked at after every trial; simulated, normal."""
    if effect * math.sqrt(MOST_PLANNED) < NEAREST:  # no fixed test of so many trials would show it
        return Planned(math.inf, math.inf)
    shown = _simulated(effect, MOST_PLANNED)
    decided = [((shown > 0) & (shown <= n)).mean() for n in range(1, MOST_PLANNED + 1)]
    worst = next((n for n, part in enumerate(decided, start=1) if part >= POWER), math.inf)
    if math.isinf(worst):
        return Planned(math.inf, math.inf)
    return Planned(float(np.where((shown > 0) & (shown <= worst), shown, worst).mean()), worst)


@cache
def standard_effect(n: int) -> float:
    """The effect that n trials, looked at one by one, show with 80 % power, in standard deviations; simulated, normal.

    Infinite where n trials show none.
    """
    if n < FEWEST:
        return math.inf
    low, high = 0.0, LARGE
    for _ in range(8):
        middle = (low + high) / 2
        enough = (_simulated(middle, min(n, MOST_PLANNED)) > 0).mean() >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def _simulated(effect: float, n: int) -> NDArray[np.int64]:
    noise = np.random.default_rng(0).standard_normal((SIMULATIONS, MOST_PLANNED))[:, :n]
    return shown_above(noise + effect, bits=PLAN_BITS)[0]


def plan_for(distance: float, deviation: float) -> Planned:
    """What a comparison `distance` away from its bound needs, its trials' effects having a standard deviation."""
    if distance <= 0:
        return Planned(math.inf, math.inf)
    effect = min(distance / deviation, LARGE) if deviation > 0 else LARGE
    return planned(round(effect, 1 if effect > 1 else 2))


def needed(distance: float, deviation: float) -> float:
    """Trials by which 4 of 5 studies decide a comparison; infinite where 40 do not."""
    return plan_for(distance, deviation).worst
