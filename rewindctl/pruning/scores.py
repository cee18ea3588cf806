"""Criteria: how much a weight matters. The lowest scores are removed first."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from rewindctl.catalog import Catalog
from rewindctl.errors import UsageError, code_of_others
from rewindctl.pruning.mask import unit_dimension
from rewindctl.specs import Structure

HINT = "a criterion takes rewindctl.pruning.Weights, whose `value` is the kernel, and returns a tensor of its shape"


class NetworkWithData(Protocol):
    """The network that is pruned, with some of its training data. Each is made when it is first asked for."""

    @property
    def network(self) -> nn.Module:
        """A copy, in evaluation mode, on the device of the batches."""

    @property
    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Standardised images and their labels, the same ones for every criterion."""

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """Of the mean loss over the batches, by parameter name, float32, on the CPU."""


@dataclass(frozen=True)
class Weights:
    """A kernel to score, and what scores can be made of. All but `value` costs nothing until it is asked for.

    `name` is the parameter's, such as `blocks.0.conv1.weight`. `value` is on the CPU and must not be changed.
    `structure` says whether single weights are removed or whole units, which rank by their mean score. `parent` is the
    fingerprint of the run that is pruned.
    """

    name: str
    value: Tensor
    structure: Structure = "unstructured"
    parent: str = ""
    source: NetworkWithData | None = None

    @cached_property
    def generator(self) -> torch.Generator:
        """A generator on the CPU, seeded by the parent, whose fingerprint covers the run's seed, and by the name."""
        digest = hashlib.sha256(f"{self.parent} {self.name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))

    @property
    def trained(self) -> NetworkWithData:
        """The whole network with its training data. Raises: UsageError when `prune` was given kernels alone."""
        if self.source is None:
            raise UsageError("the criterion needs the network and its data, not kernels alone", "give prune a source")
        return self.source

    @property
    def gradient(self) -> Tensor:
        """Of the mean training loss with respect to this kernel, float32. Raises: UsageError as `trained` does."""
        return self.trained.gradients[self.name]


criteria: Catalog[Callable[[Weights], Tensor]] = Catalog("criterion")


@criteria.register("magnitude")
def magnitude(weights: Weights) -> Tensor:
    """|w|, the shape of the kernel. Source: the paper, section 3; Han et al. 2015 (arXiv 1506.02626)."""
    return weights.value.abs()


@criteria.register("random")
def random(weights: Weights) -> Tensor:
    """Uniform numbers: a control. Seeded by the parent. Source: Blalock et al. 2020 (arXiv 2003.03033)."""
    shape = list(weights.value.shape)
    if weights.structure == "structured":  # one number a unit: means of many would all be near 0.5
        shape = [size if d == unit_dimension(weights.value) else 1 for d, size in enumerate(shape)]
    return torch.rand(shape, generator=weights.generator).expand_as(weights.value)


@criteria.register("gradient_magnitude")
def gradient_magnitude(weights: Weights) -> Tensor:
    """|w * dL/dw|, L the mean loss of some training images. Source: Blalock et al. 2020 (arXiv 2003.03033)."""
    return (weights.value * weights.gradient).abs()


def scores_of(criterion: str, weights: Weights) -> Tensor:
    """The scores of a kernel, float32 on the CPU: one ranking whatever the device.

    Raises: UnknownNameError; UsageError naming criterion and kernel when the scores are no finite numbers of the
    kernel's shape, or the criterion fails.
    """
    score, where = criteria[criterion], f"criterion {criterion!r}, {weights.name}"
    with code_of_others(where, HINT):
        scores = score(weights)
    if not isinstance(scores, Tensor):
        raise UsageError(f"{where}: the scores are a {type(scores).__name__}, not a tensor", HINT)
    if scores.shape != weights.value.shape:
        shapes = tuple(scores.shape), tuple(weights.value.shape)
        raise UsageError(f"{where}: the scores are {shapes[0]}, the kernel is {shapes[1]}", HINT)
    scores = scores.detach().float().cpu()
    if not bool(scores.isfinite().all()):
        raise UsageError(f"{where}: some scores are NaN or infinite", "correct the criterion, or use another")
    return scores
