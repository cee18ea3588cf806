"""Criteria: the shape of the kernel, one number per weight, nothing changed."""

import pytest
import torch

from rewindctl.errors import UnknownNameError
from rewindctl.pruning import criteria, prune
from rewindctl.pruning.scores import magnitude
from rewindctl.specs import PruneSpec


@pytest.mark.parametrize("name", list(criteria))
@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (5, 8)])
def test_a_criterion_scores_every_weight_and_changes_none(name: str, shape: tuple[int, ...]) -> None:
    kernel = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before = kernel.clone()
    scores = criteria[name](kernel)
    assert scores.shape == kernel.shape
    assert bool(scores.isfinite().all())
    assert torch.equal(criteria[name](kernel), scores)
    assert torch.equal(kernel, before)


def test_magnitude_is_the_distance_from_zero() -> None:
    assert magnitude(torch.tensor([[-2.0, 0.0], [0.5, -0.0]])).tolist() == [[2.0, 0.0], [0.5, 0.0]]


def test_an_unknown_criterion_is_refused_with_the_known_ones() -> None:
    spec = PruneSpec(parent_fingerprint="0" * 64, sparsity=0.5, criterion="magnitud")
    with pytest.raises(UnknownNameError) as caught:
        prune({"dense.weight": torch.randn(2, 5)}, spec)
    assert caught.value.exit_code == 2
    assert "did you mean 'magnitude'" in caught.value.message
    assert "magnitude" in caught.value.hint
