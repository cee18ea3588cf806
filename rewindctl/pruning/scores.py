"""Criteria: how much a weight matters. The lowest scores are removed first."""

from collections.abc import Callable

from torch import Tensor

from rewindctl.catalog import Catalog

criteria: Catalog[Callable[[Tensor], Tensor]] = Catalog("criterion")


@criteria.register("magnitude")
def magnitude(kernel: Tensor) -> Tensor:
    """|w|, the shape of the kernel. Source: report section 3; Han et al. 2015 (arXiv 1506.02626)."""
    return kernel.abs()
