"""Recipes: the paper's numbers, and what follows from a run's length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewindctl.training.recipes import (
    LARGEST_SCALED_MOMENTUM,
    default_recipe,
    evaluation_interval,
    norm_momentum,
    recipes,
    rewind_points,
)

# The paper, section 3: the loss has `coefficient` * sum of w^2, whose gradient is twice that times w.
PAPER = [
    ("resnet", 72_000, 0.1, (36_000, 54_000), 1e-4, 0.997, 1e-5),
    ("wrn", 80_000, 0.2, (32_000, 48_000, 64_000), 2e-4, 0.9, 1e-3),
]
names = st.sampled_from(sorted(recipes))


@pytest.mark.parametrize(("name", "n", "factor", "boundaries", "coefficient", "decay", "epsilon"), PAPER)
def test_numbers_are_those_of_the_paper(
    name: str, n: int, factor: float, boundaries: tuple[int, ...], coefficient: float, decay: float, epsilon: float
) -> None:
    recipe = recipes[name]
    assert (recipe.iterations, recipe.lr_boundaries, recipe.lr_factor) == (n, boundaries, factor)
    assert (recipe.learning_rate, recipe.batch_size, recipe.momentum, recipe.nesterov) == (0.1, 128, 0.9, True)
    assert recipe.weight_decay == 2 * coefficient
    assert recipe.norm_momentum == pytest.approx(1 - decay)
    assert recipe.norm_epsilon == epsilon
    assert (recipe.crop_padding, recipe.horizontal_flip) == (4, True)
    assert recipe.first_rewind_point == 500


@pytest.mark.parametrize("name", list(recipes))
def test_every_recipe_can_be_followed(name: str) -> None:
    recipe = recipes[name]
    assert recipe.lr_boundaries[0] > 0
    assert list(recipe.lr_boundaries) == sorted(set(recipe.lr_boundaries))
    assert recipe.lr_boundaries[-1] < recipe.iterations
    assert 0 < recipe.first_rewind_point < recipe.iterations
    assert recipe.iterations % recipe.evaluate_every == 0
    assert 0 < recipe.lr_factor < 1


@pytest.mark.parametrize(
    ("model", "dataset", "recipe"),
    [
        ("resnet20", "cifar10", "resnet"),
        ("wrn16_8", "cifar10", "wrn"),
        ("resnet56", "cifar100", "resnet"),
        ("resnet8", "digits", "digits"),
        ("wrn10_1", "digits", "digits"),
    ],
)
def test_a_network_is_trained_by_the_recipe_of_its_family(model: str, dataset: str, recipe: str) -> None:
    assert default_recipe(model, dataset) == recipe
    assert recipe in recipes


def test_the_paper_length_has_the_rewind_points_of_the_contract() -> None:
    assert rewind_points(72_000, 500) == (0, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 72_000)


@given(st.integers(1, 10**6), st.integers(1, 10**4))
def test_rewind_points_start_at_0_double_and_end_at_the_end(iterations: int, first: int) -> None:
    points = rewind_points(iterations, first)
    assert (points[0], points[-1]) == (0, iterations)
    assert list(points) == sorted(set(points))
    assert list(points[1:-1]) == [first * 2**i for i in range(len(points) - 2)]
    assert first * 2 ** (len(points) - 2) >= iterations


@given(names, st.integers(1, 10**6))
def test_the_norm_average_covers_the_same_share_of_the_run(name: str, iterations: int) -> None:
    """What is left of the first iteration's statistics at the end is the same, unless the cap is reached."""
    recipe = recipes[name]
    momentum = norm_momentum(recipe, iterations)
    assert recipe.norm_momentum <= momentum <= max(LARGEST_SCALED_MOMENTUM, recipe.norm_momentum)
    if iterations >= recipe.iterations:
        assert momentum == recipe.norm_momentum
    elif recipe.norm_momentum < momentum < LARGEST_SCALED_MOMENTUM:
        share = iterations / recipe.iterations
        assert (1 - momentum) ** share == pytest.approx(1 - recipe.norm_momentum, rel=1e-5)


@given(names, st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_shorter_run_never_averages_longer(name: str, one: int, other: int) -> None:
    recipe = recipes[name]
    assert norm_momentum(recipe, min(one, other)) >= norm_momentum(recipe, max(one, other))


@given(names, st.integers(1, 10**6))
def test_a_shorter_run_is_evaluated_at_most_ten_times(name: str, iterations: int) -> None:
    recipe = recipes[name]
    interval = evaluation_interval(recipe, iterations)
    assert interval >= 1
    if iterations >= recipe.iterations:
        assert interval == recipe.evaluate_every
    else:
        assert -(-iterations // interval) <= 10
