"""From a trained network and a target to a mask: exact counts, deterministic ties, no layer left empty."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from rewindctl.catalog import listed
from rewindctl.errors import UsageError
from rewindctl.pruning.mask import Mask, unit_dimension, units
from rewindctl.pruning.scores import NetworkWithData, Weights, scores_of
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
    source: NetworkWithData | None = None,
) -> PruneResult:
    """The mask that takes `kernels` (by parameter name, in module order) to the sparsity of `spec`.

    Unstructured: exactly round(sparsity * weights) weights are removed, those of `previous` among them; layerwise,
    each layer loses its share to within one weight. Structured: whole units, lowest mean score first, while the
    sparsity asked for is not exceeded. Ties go to the earlier layer, then the lower index. Every layer keeps its
    highest-ranked unit.

    Excluded layers lose nothing beyond `previous`, and the sparsity is still that of all kernels: the others lose more.
    Layerwise, each of the others loses the same share, that which makes the whole count exact. `source` is for
    criteria that look at more than a kernel.

    Raises: UsageError when the target cannot be met, or lies at or below the sparsity already there.
    Source: the paper, section 3; the authors compare with a threshold, which removes too many at ties; we do not.
    """
    previous = previous or Mask.ones(kernels)
    for name, kernel in kernels.items():
        if not bool(torch.isfinite(kernel).all()):
            raise UsageError(f"{name} holds NaN or infinity and cannot be ranked", "prune another run")
    excluded = excluded_layers(kernels, spec.exclude)
    weights = sum(kernel.numel() for kernel in kernels.values())
    target = round(spec.sparsity * weights)
    if target <= previous.removed:
        raise UsageError(
            f"sparsity {spec.sparsity} asks for {target} of {weights} weights removed, {previous.removed} already are",
            f"give a sparsity above {previous.sparsity:.6g}",
        )
    layers = []
    for name, kernel in kernels.items():
        if name not in excluded:
            scored = Weights(name, kernel.cpu(), spec.structure, spec.parent_fingerprint, source)
            layers.append(_Layer(scored, scores_of(spec.criterion, scored), previous.kernels[name]))
    if excluded:
        target -= sum(int((~previous.kernels[name]).sum()) for name in excluded)
        _require_room(layers, spec, target, weights)
    groups = [layers] if spec.scope == "global" else [[layer] for layer in layers]
    targets = [target] if spec.scope == "global" else _shares(layers, spec, target)
    if spec.structure == "unstructured":
        _require_a_weight_each(groups, targets, spec)
    spared: list[str] = []
    kept = {name: previous.kernels[name] for name in kernels}
    for group, count in zip(groups, targets, strict=True):
        kept |= _remove(group, count, spec, spared)
    closed = _norm_masks(kept, norm_after or {}) if spec.channel_norm == "remove" else {}
    mask = Mask(kept, {**previous.norms, **closed})  # a norm once closed stays closed
    if mask.removed <= previous.removed:
        raise UsageError(
            f"sparsity {spec.sparsity} removes no whole unit (structured, {spec.scope})", "ask for a higher sparsity"
        )
    return PruneResult(mask, tuple(spared))


def excluded_layers(kernels: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """The kernels, by parameter name, whose layers match a pattern, as `stem` or `blocks.0.*`.

    Raises: UsageError for a pattern that matches none.
    """
    layers = {name.removesuffix(".weight"): name for name in kernels}
    found: set[str] = set()
    for pattern in patterns:
        matching = {name for layer, name in layers.items() if fnmatchcase(layer, pattern)}
        if not matching:
            raise UsageError(f"no layer matches the excluded pattern {pattern!r}", f"layers: {listed(list(layers))}")
        found |= matching
    return found


def _require_room(layers: list["_Layer"], spec: PruneSpec, target: int, weights: int) -> None:
    """Raises: UsageError when so many of `weights` cannot go from the layers that are not excluded."""
    rooms = [layer.weights - layer.size for layer in layers]
    room, included = sum(rooms), sum(layer.weights for layer in layers)
    if spec.scope == "layerwise" and spec.structure == "unstructured" and layers:
        room = min(left * included // layer.weights for left, layer in zip(rooms, layers, strict=True))
    if target <= room:
        return
    most = room + round(spec.sparsity * weights) - target
    raise UsageError(
        f"sparsity {spec.sparsity} cannot be met with {', '.join(spec.exclude)} excluded: at most {most} of {weights} "
        "weights can go",
        f"ask for a sparsity of at most {_at_most(most, weights)}, or exclude fewer layers",
    )


def _at_most(count: int, weights: int) -> str:
    """count / weights in six digits, or as many as it takes to ask for no more than `count`."""
    texts = (f"{count / weights:.{digits}g}" for digits in range(6, 18))
    return next(text for text in texts if round(float(text) * weights) <= count)


def _require_a_weight_each(groups: list[list["_Layer"]], targets: list[int], spec: PruneSpec) -> None:
    """Raises: UsageError when a group, from which its target goes, would not keep a weight of each of its layers."""
    for group, target in zip(groups, targets, strict=True):
        room = sum(layer.weights - 1 for layer in group)
        if target > room:
            raise UsageError(
                f"sparsity {spec.sparsity} would empty a layer: at most {room} of {room + len(group)} weights can go",
                _lower_sparsity([layer for group in groups for layer in group], spec),
            )


def _lower_sparsity(layers: list["_Layer"], spec: PruneSpec) -> str:
    """The advice for a sparsity that would empty one of all `layers`: the highest that would not, if it can be met."""
    weights = sum(layer.weights for layer in layers)
    most = weights - len(layers)
    if spec.scope == "layerwise":
        most = min((layer.weights - 1) * weights // layer.weights for layer in layers)
    text = _at_most(most, weights)
    target = round(float(text) * weights)
    try:
        if spec.scope == "layerwise":
            _shares(layers, spec.model_copy(update={"sparsity": float(text)}), target)
    except UsageError:
        return "prune this parent with --scope global"
    if target <= sum(layer.removed for layer in layers):
        return "prune another run"
    return f"ask for a sparsity of at most {text}"


class _Layer:
    """A kernel as units to rank: `scores` and `sizes` (units,), removed units scored -inf so that they come first."""

    def __init__(self, weights: Weights, scores: Tensor, kept: Tensor) -> None:
        self.name, self.shape, self.structure = weights.name, scores.shape, weights.structure
        self.unit_dimension = unit_dimension(scores)
        if self.structure == "unstructured":
            alive = kept.flatten().cpu()
            self.scores, self.size = scores.flatten(), 1
        else:
            alive = units(kept).any(dim=1).cpu()
            if not torch.equal(units(kept).all(dim=1).cpu(), alive):
                raise UsageError(
                    f"{self.name} was pruned by single weights", "prune this parent with --structure unstructured"
                )
            rows = units(scores)
            self.scores, self.size = rows.mean(dim=1), rows.shape[1]
        self.scores = torch.where(alive, self.scores, -torch.inf)
        self.removed = int((~alive).sum()) * self.size
        self.weights = scores.numel()

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


def _shares(layers: list[_Layer], spec: PruneSpec, target: int) -> list[int]:
    """Weights to remove per layer: its share rounded down, the rest to the largest fractions, `target` in all."""
    sparsity = target / sum(layer.weights for layer in layers) if spec.exclude else spec.sparsity
    exact = [sparsity * layer.weights for layer in layers]
    shares = [max(int(share), layer.removed) for share, layer in zip(exact, layers, strict=True)]
    by_fraction = sorted(range(len(layers)), key=lambda i: (shares[i] - exact[i], i))
    above = sum(shares) > target or any(share >= wanted + 1 for share, wanted in zip(shares, exact, strict=True))
    if above and layers[0].structure == "unstructured":
        raise UsageError(
            f"layerwise sparsity {spec.sparsity} is below the sparsity that some layers already have",
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
