"""Criteria: what they are given, what their scores are, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rewindctl.errors import UnknownNameError, UsageError
from rewindctl.pruning import Weights, criteria, prune
from rewindctl.pruning.scores import magnitude, random, scores_of
from rewindctl.specs import PruneSpec

SMALL = {"a.weight": (3, 1, 2, 2), "b.weight": (400, 3, 1, 1), "dense.weight": (2, 5)}


def spec(sparsity: float = 0.5, **fields: Any) -> PruneSpec:
    return PruneSpec(**{"parent_fingerprint": "0" * 64, "sparsity": sparsity} | fields)


def kernels() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SMALL.items()}


def test_magnitude_is_the_distance_from_zero() -> None:
    kernel = torch.tensor([[-2.0, 0.0], [0.5, -0.0]])
    assert magnitude(Weights("dense.weight", kernel)).tolist() == [[2.0, 0.0], [0.5, 0.0]]


def test_an_unknown_criterion_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        prune({"dense.weight": torch.randn(2, 5)}, spec(criterion="magnitud"))
    assert caught.value.exit_code == 2
    assert "did you mean 'magnitude'" in caught.value.message
    assert "magnitude" in caught.value.hint


# Random


def removed(**fields: Any) -> dict[str, list[bool]]:
    mask = prune(kernels(), spec(criterion="random", **fields)).mask
    return {name: (~kept).flatten().tolist() for name, kept in mask.kernels.items()}


def test_random_is_of_the_parent_and_the_layer_and_of_nothing_else() -> None:
    first = removed()
    assert removed() == first
    assert removed(parent_fingerprint="1" * 64) != first
    one, other = (random(Weights(name, torch.zeros(4, 9), parent="p")) for name in ("a.weight", "b.weight"))
    assert not torch.equal(one, other)
    assert torch.equal(one, random(Weights("a.weight", torch.ones(4, 9), parent="p")))


def test_a_higher_random_sparsity_of_one_parent_removes_the_same_weights_and_more() -> None:
    less, more = removed(sparsity=0.3), removed(sparsity=0.6)
    assert all(b or not a for name in less for a, b in zip(less[name], more[name], strict=True))


def test_random_channels_of_every_size_are_as_likely_to_go() -> None:
    """A mean of many numbers would be near one half, and those of small channels alone would be low or high."""
    shapes = {"small.weight": (100, 1, 1, 1), "large.weight": (100, 100, 1, 1)}
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    mask = prune(weights, spec(0.5, criterion="random", structure="structured")).mask
    units = {row["layer"]: row["units_kept"] for row in mask.layers()}
    assert 30 < units["small.weight"] < 70
    assert 30 < units["large.weight"] < 70


# What a criterion may not do

WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "old form": (lambda kernel: kernel.abs(), "AttributeError: 'Weights' object has no attribute 'abs'"),
    "old function": (torch.abs, "TypeError: abs"),
    "old identity": (lambda kernel: kernel, "the scores are a Weights, not a tensor"),
    "a number": (lambda weights: 1.0, "the scores are a float, not a tensor"),
    "another shape": (lambda weights: weights.value.flatten(), r"the scores are \(12,\), the kernel is \(3, 1, 2, 2\)"),
    "not a number": (lambda weights: weights.value / 0 * 0, "some scores are NaN or infinite"),
    "too large": (lambda weights: weights.value.double().abs() + 1e300, "some scores are NaN or infinite"),
    "an error": (lambda weights: {}[weights.name], "KeyError: 'a.weight'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_score_is_refused_by_criterion_and_layer(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    criterion, words = WRONG[what]
    monkeypatch.setitem(criteria._entries, "mine", criterion)
    with pytest.raises(UsageError, match=rf"^criterion 'mine', a\.weight: {words}") as caught:
        prune(kernels(), spec(criterion="mine"))
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_kernels_alone_have_no_gradient() -> None:
    with pytest.raises(UsageError, match="not kernels alone"):
        prune(kernels(), spec(criterion="gradient_magnitude"))


def test_scores_of_a_graph_are_taken_without_it() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(criteria._entries, "mine", lambda weights: weights.value.clone().requires_grad_() ** 2)
        assert not scores_of("mine", Weights("a.weight", torch.ones(2, 2))).requires_grad
