"""Laws of every criterion of the catalog, over a network with data, in both structures and both scopes."""

import shlex
from functools import cache

import pytest
import torch
from conftest import Chain, Cli
from torch import Tensor

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.models import build_network, kernels
from rewindctl.models.network import NetworkConfig
from rewindctl.pruning import Mask, Weights, criteria, prune
from rewindctl.pruning.scores import scores_of
from rewindctl.registry import records as tag
from rewindctl.specs import PruneSpec, Scope, Structure
from rewindctl.training.gradients import TrainedNetwork

PARENT = "0" * 64
every_way = pytest.mark.parametrize("scope", ["global", "layerwise"])
every_unit = pytest.mark.parametrize("structure", ["unstructured", "structured"])
every_one = pytest.mark.parametrize("criterion", list(criteria))


@cache
def sources(seed: int) -> tuple[dict[str, Tensor], TrainedNetwork]:
    """Kernels, every third weight of which is 0, and their network with its data. Not to be changed."""
    network = build_network("resnet8", NetworkConfig(1, 10, 0.1, 1e-5), seed)
    for kernel in kernels(network).values():
        kernel.data.view(-1)[::3] = 0
    data = DeviceData.upload(load_dataset("digits"), torch.device("cpu"))
    return {name: kernel.detach() for name, kernel in kernels(network).items()}, TrainedNetwork(network, data, 0, 256)


def pruned(sparsity: float, previous: Mask | None = None, seed: int = 0, **how: str) -> Mask:
    weights, trained = sources(seed)
    spec = PruneSpec.model_validate({"parent_fingerprint": PARENT, "sparsity": sparsity} | how)
    return prune(weights, spec, previous, source=trained).mask


def scores(criterion: str, structure: Structure = "unstructured") -> dict[str, Tensor]:
    weights, trained = sources(0)
    return {
        name: scores_of(criterion, Weights(name, kernel, structure, PARENT, trained))
        for name, kernel in weights.items()
    }


@every_one
@every_unit
def test_it_scores_every_weight_changes_none_and_says_the_same_twice(criterion: str, structure: Structure) -> None:
    before = {name: kernel.clone() for name, kernel in sources(0)[0].items()}
    first, again = scores(criterion, structure), scores(criterion, structure)
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert len({value.flatten()[:9].numpy().tobytes() for value in first.values()}) == len(first)  # layers differ
    assert all(torch.equal(kernel, before[name]) for name, kernel in sources(0)[0].items())


@every_one
@every_unit
@every_way
def test_counts_are_exact_and_masks_only_grow(criterion: str, structure: str, scope: Scope) -> None:
    """Over another network at each level: what is gone stays gone."""
    mask: Mask | None = None
    for level, sparsity in enumerate((0.36, 0.672, 0.893)):
        how = {"criterion": criterion, "structure": structure, "scope": scope}
        last, mask = mask, pruned(sparsity, mask, seed=level, **how)
        asked = round(sparsity * mask.total)
        assert mask.removed == asked if structure == "unstructured" else 0 < mask.removed <= asked
        assert last is None or (mask.covers(last) and not last.covers(mask))
        again = pruned(sparsity, last, seed=level, **how)
        assert all(torch.equal(again.kernels[name], kept) for name, kept in mask.kernels.items())


@every_one
def test_the_lowest_scores_go_and_of_equal_ones_the_first(criterion: str) -> None:
    """Many scores are equal: those of weights that are 0."""
    order = torch.sort(torch.cat([value.flatten() for value in scores(criterion).values()]), stable=True).indices
    mask = pruned(0.25, criterion=criterion)
    kept = torch.cat([kept.flatten() for kept in mask.kernels.values()])
    assert torch.equal((~kept).nonzero().flatten(), order[: mask.removed].sort().values)


@every_one
def test_it_is_asked_for_again_by_the_command_of_its_run(copied_chain: Chain, cli: Cli, criterion: str) -> None:
    at = ("--tracking-uri", copied_chain.uri)
    line = ("--sparsity", "0.6", "--criterion", criterion, "--exclude", "stem,blocks.0.*", "--exclude", "dense")
    made = cli("prune", "--parent", copied_chain.dense, *line, *at)
    assert made.code == 0, made.err
    run = copied_chain.registry().get(made.run_id)
    assert run.params["criterion"] == criterion
    program, *arguments = shlex.split(run.tags[tag.NOTE].split("```")[1].replace("\\\n", " "))
    assert (program, cli(*arguments, *at).out) == ("rewindctl", f"{run.run_id}\n")
