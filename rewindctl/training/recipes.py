"""Training recipes by name (every number of a dense run but the seed), and the learning-rate schedule."""

from dataclasses import dataclass

from rewindctl.catalog import Catalog


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


LARGEST_SCALED_MOMENTUM = 0.1  # PyTorch's default


@dataclass(frozen=True)
class Recipe:
    """A full-length recipe; iteration counts scale together when a run is given another length.

    `norm_momentum` is PyTorch's (1 - decay). `weight_decay` is PyTorch's, twice the paper's L2 coefficient, which
    has no factor 1/2. `first_rewind_point` doubles up to the end: 500, 1,000, 2,000, ...
    """

    iterations: int
    batch_size: int
    learning_rate: float
    lr_boundaries: tuple[int, ...]
    lr_factor: float
    weight_decay: float
    norm_momentum: float
    norm_epsilon: float
    crop_padding: int
    horizontal_flip: bool
    evaluate_every: int
    first_rewind_point: int
    momentum: float = 0.9
    nesterov: bool = True


recipes: Catalog[Recipe] = Catalog("recipe")

# Source: the paper, section 3; batch size, norm epsilon and evaluation interval from the authors' configuration.
RESNET = recipes.register("resnet")(
    Recipe(
        iterations=72_000,
        batch_size=128,
        learning_rate=0.1,
        lr_boundaries=(36_000, 54_000),
        lr_factor=0.1,
        weight_decay=2e-4,
        norm_momentum=0.003,
        norm_epsilon=1e-5,
        crop_padding=4,
        horizontal_flip=True,
        evaluate_every=2_000,
        first_rewind_point=500,
    )
)

WRN = recipes.register("wrn")(
    Recipe(
        iterations=80_000,
        batch_size=128,
        learning_rate=0.1,
        lr_boundaries=(32_000, 48_000, 64_000),
        lr_factor=0.2,
        weight_decay=4e-4,
        norm_momentum=0.1,
        norm_epsilon=1e-3,
        crop_padding=4,
        horizontal_flip=True,
        evaluate_every=2_000,
        first_rewind_point=500,
    )
)

# For the embedded digits: our own, not the paper's. Statistics of 300 iterations need a faster norm average.
DIGITS = recipes.register("digits")(
    Recipe(
        iterations=300,
        batch_size=64,
        learning_rate=0.1,
        lr_boundaries=(150, 225),
        lr_factor=0.1,
        weight_decay=2e-4,
        norm_momentum=0.1,
        norm_epsilon=1e-5,
        crop_padding=1,
        horizontal_flip=False,
        evaluate_every=30,
        first_rewind_point=15,
    )
)


def default_recipe(model: str, dataset: str) -> str:
    """`digits` for the digits, else the recipe of the network's family."""
    if dataset == "digits":
        return "digits"
    return "wrn" if model.startswith("wrn") else "resnet"


def recipes_with_larger_batches(images: int) -> list[str]:
    """The recipes that a data set of so few training images cannot be trained with as they are."""
    return [name for name in recipes if recipes[name].batch_size > images]


def rewind_points(iterations: int, first: int) -> tuple[int, ...]:
    """0, then doublings of `first` below `iterations`, then `iterations`."""
    points = [0]
    while first < iterations:
        points.append(first)
        first *= 2
    return (*points, iterations)


def norm_momentum(recipe: Recipe, iterations: int) -> float:
    """The recipe's, or, in a shorter run, the one that averages over the same share of the run, but at most 0.1.

    With 0.003 the running statistics remember 333 iterations: nothing in 72,000, a third of a run of 1,000, whose
    test accuracy would then be that of statistics long gone. Our choice; the paper has full-length runs only.
    """
    if iterations >= recipe.iterations:
        return recipe.norm_momentum
    scaled = 1 - (1 - recipe.norm_momentum) ** (recipe.iterations / iterations)
    return float(f"{max(recipe.norm_momentum, min(scaled, LARGEST_SCALED_MOMENTUM)):.6g}")


def evaluation_interval(recipe: Recipe, iterations: int) -> int:
    """The recipe's share of the run, but at most ten evaluations where the run is shorter than the recipe's."""
    if iterations >= recipe.iterations:
        return recipe.evaluate_every
    return max(round(recipe.evaluate_every * iterations / recipe.iterations), -(-iterations // 10))
