"""Losses that nobody waits for: the first that is not finite is found, and all that a GPU does of it holds here too."""

import math

import pytest
import torch

from rewindctl.training.course import Losses

NAN, INF = math.nan, math.inf


def seen(values: list[float], start: int = 0) -> Losses:
    losses = Losses(torch.device("cpu"))
    losses.iteration.fill_(start)
    for value in values:
        loss = torch.tensor(value)
        losses.add(loss)
        losses.stop_if_bad(loss)
        losses.count += 1
    return losses


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("after", [[], [1.0], [NAN, 2.0], [INF], [-INF, -INF]])
@pytest.mark.parametrize("before", [[], [0.5], [3e38, -3e38, 0.0]])
def test_the_first_that_is_not_finite_is_kept_with_its_iteration(
    before: list[float], bad: float, after: list[float]
) -> None:
    losses = seen([*before, bad, *after], start=7)
    found = losses.first_bad()
    assert found is not None
    assert found[0] == 7 + len(before)
    assert repr(found[1]) == repr(bad)
    assert losses.stopped.item() == 1.0  # PyTorch skips its update where it is exactly that


def test_finite_losses_stop_nothing_and_are_averaged_once() -> None:
    losses = seen([1.0, 3e38, 2.0])
    assert losses.first_bad() is None
    assert (losses.stopped.item(), losses.iteration.item()) == (0.0, 3.0)
    assert losses.take_mean() == (1.0 + float(torch.tensor(3e38)) + 2.0) / 3
    assert losses.take_mean() is None
