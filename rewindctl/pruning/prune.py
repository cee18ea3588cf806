"""From a trained network and a target to a mask: exact counts, deterministic ties, no layer left empty."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rewindctl.errors import UsageError
from rewindctl.pruning.mask import Mask, unit_dimension, units
from rewindctl.pruning.scores import criteria
from rewindctl.specs import PruneSpec


@dataclass(frozen=True)
class PruneResult:
    """The mask, and the layers that the ranking would have emptied had their last unit not been kept."""

    mask: Mask
    spared_layers: tuple[str, ...]


def prune(
    kernels: Mapping[str, Tensor],
    spec: PruneSpec,
    previous: Mask | None = None,
    norm_after: Mapping[str, str] | None = None,
) -> PruneResult:
    """The mask that takes `kernels` (by parameter name, in module order) to the sparsity of `spec`.

    Unstructured: exactly round(sparsity * weights) weights are removed, those of `previous` among them; layerwise,
    each layer loses its share to within one weight. Structured: whole units, lowest mean score first, while the
    sparsity asked for is not exceeded. Ties go to the earlier layer, then the lower index. Every layer keeps its
    highest-ranked unit.

    Raises: UsageError when the target cannot be met, or lies at or below the sparsity already there.
    Source: report section 3; the authors compare with a threshold, which removes too many at ties; we do not.
    """
    previous = previous or Mask.ones(kernels)
    for name, kernel in kernels.items():
        if not bool(torch.isfinite(kernel).all()):
            raise UsageError(f"{name} holds NaN or infinity and cannot be ranked", "prune another run")
    score = criteria[spec.criterion]
    weights = sum(kernel.numel() for kernel in kernels.values())
    target = round(spec.sparsity * weights)
    if target <= previous.removed:
        raise UsageError(
            f"sparsity {spec.sparsity} asks for {target} of {weights} weights removed, {previous.removed} already are",
            f"give a sparsity above {previous.sparsity:.6g}",
        )
    layers = [
        _Layer(name, kernel, score(kernel), previous.kernels[name], spec.structure) for name, kernel in kernels.items()
    ]
    groups = [layers] if spec.scope == "global" else [[layer] for layer in layers]
    targets = [target] if spec.scope == "global" else _shares(layers, spec.sparsity, target)
    spared: list[str] = []
    kept: dict[str, Tensor] = {}
    for group, count in zip(groups, targets, strict=True):
        kept |= _remove(group, count, spec, spared)
    closed = _norm_masks(kept, norm_after or {}) if spec.channel_norm == "remove" else {}
    mask = Mask(kept, {**previous.norms, **closed})  # a norm once closed stays closed
    if mask.removed <= previous.removed:
        raise UsageError(
            f"sparsity {spec.sparsity} removes no whole unit (structured, {spec.scope})", "ask for a higher sparsity"
        )
    return PruneResult(mask, tuple(spared))


class _Layer:
    """A kernel as units to rank: `scores` and `sizes` (units,), removed units scored -inf so that they come first."""

    def __init__(self, name: str, kernel: Tensor, scores: Tensor, kept: Tensor, structure: str) -> None:
        self.name, self.shape, self.structure = name, kernel.shape, structure
        scores = scores.float().cpu()  # one ranking whatever the device: means round differently on a GPU
        self.unit_dimension = unit_dimension(kernel)
        if structure == "unstructured":
            alive = kept.flatten().cpu()
            self.scores, self.size = scores.flatten(), 1
        else:
            alive = units(kept).any(dim=1).cpu()
            if not torch.equal(units(kept).all(dim=1).cpu(), alive):
                raise UsageError(
                    f"{name} was pruned by single weights", "prune this parent with --structure unstructured"
                )
            rows = units(scores)
            self.scores, self.size = rows.mean(dim=1), rows.shape[1]
        self.scores = torch.where(alive, self.scores, -torch.inf)
        self.removed = int((~alive).sum()) * self.size
        self.weights = kernel.numel()

    def expand(self, alive: Tensor) -> Tensor:
        """(units,) bool to the shape of the kernel."""
        if self.structure == "unstructured":
            return alive.reshape(self.shape)
        return alive.reshape([-1 if d == self.unit_dimension else 1 for d in range(len(self.shape))]).expand(self.shape)


def _remove(layers: list[_Layer], count: int, spec: PruneSpec, spared: list[str]) -> dict[str, Tensor]:
    """Kept weights per layer after removing `count` weights of `layers` (structured: at most `count`)."""
    scores = torch.cat([layer.scores for layer in layers])
    sizes = torch.cat([torch.full_like(layer.scores, layer.size, dtype=torch.int64) for layer in layers])
    order = torch.sort(scores, stable=True).indices
    last = _highest_of_each(layers)
    protected = torch.zeros(len(scores), dtype=torch.bool)
    protected[last] = True
    free = ~protected[order]
    spent = torch.where(free, sizes[order], 0).cumsum(0)
    reached = order[torch.where(free, spent, spent + sizes[order]) <= count]
    gone = reached[~protected[reached]]
    fits = len(gone)
    if spec.structure == "unstructured" and fits < count:
        raise UsageError(
            f"sparsity {spec.sparsity} would empty a layer: at most {fits} of {len(scores)} weights can go",
            f"ask for a sparsity of at most {fits / len(scores):.6g}",
        )
    spared += [layer.name for layer, index in zip(layers, last, strict=True) if bool((reached == index).any())]
    alive = torch.ones(len(scores), dtype=torch.bool)
    alive[gone] = False
    parts = alive.split([len(layer.scores) for layer in layers])
    return {layer.name: layer.expand(part).clone() for layer, part in zip(layers, parts, strict=True)}


def _highest_of_each(layers: list[_Layer]) -> list[int]:
    """Position, in the concatenation, of each layer's unit that ranks last."""
    positions, start = [], 0
    for layer in layers:
        positions.append(start + int(torch.sort(layer.scores, stable=True).indices[-1]))
        start += len(layer.scores)
    return positions


def _shares(layers: list[_Layer], sparsity: float, target: int) -> list[int]:
    """Weights to remove per layer: its share rounded down, the rest to the largest fractions, `target` in all."""
    exact = [sparsity * layer.weights for layer in layers]
    shares = [max(int(share), layer.removed) for share, layer in zip(exact, layers, strict=True)]
    by_fraction = sorted(range(len(layers)), key=lambda i: (shares[i] - exact[i], i))
    above = sum(shares) > target or any(share >= wanted + 1 for share, wanted in zip(shares, exact, strict=True))
    if above and layers[0].structure == "unstructured":
        raise UsageError(
            f"layerwise sparsity {sparsity} is below what some layers have lost already",
            "prune this parent with --scope global, or ask for a higher sparsity",
        )
    for index in by_fraction[: max(0, target - sum(shares))]:
        shares[index] += 1
    return shares


def _norm_masks(kept: Mapping[str, Tensor], norm_after: Mapping[str, str]) -> dict[str, Tensor]:
    """Scale and shift of the batch norm that follows a removed channel."""
    masks = {}
    for convolution, norm in norm_after.items():
        alive = units(kept[f"{convolution}.weight"]).any(dim=1)
        masks[f"{norm}.weight"] = masks[f"{norm}.bias"] = alive
    return masks
