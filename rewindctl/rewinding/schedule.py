"""The piecewise-constant learning rate over the iterations of a training run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LearningRateSchedule:
    """A rate that is multiplied by `factor` at each boundary.

    The first update is iteration 0; iteration b is the first at the lower rate, so with 36,000 the iterations
    0..35,999 use the higher one. Keras keeps the old rate for iteration b as well; we do not.
    Source: the paper, section 3.
    """

    iterations: int
    learning_rate: float
    boundaries: tuple[int, ...]
    factor: float

    def rate(self, iteration: int) -> float:
        """Learning rate of the update at `iteration`, counted from 0."""
        passed = sum(boundary <= iteration for boundary in self.boundaries)
        return float(f"{self.learning_rate * self.factor**passed:.12g}")  # 0.01, not 0.010000000000000002

    def scaled(self, iterations: int) -> "LearningRateSchedule":
        """The same shape over another number of iterations."""
        boundaries = scale_boundaries(self.boundaries, self.iterations, iterations)
        return LearningRateSchedule(iterations, self.learning_rate, boundaries, self.factor)


def scale_boundaries(boundaries: tuple[int, ...], old: int, new: int) -> tuple[int, ...]:
    """Boundaries of a run of `old` iterations moved to one of `new`, rounded, at least 1."""
    return tuple(max(1, round(boundary * new / old)) for boundary in boundaries)
