"""The laws of pruning: exact counts, the ranking, ties, whole units, masks that only grow."""

import copy
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils import prune as torch_prune

from rewindctl.errors import UsageError
from rewindctl.models import Network, build_network, kernels
from rewindctl.models.network import NetworkConfig
from rewindctl.pruning import Mask, criteria, excluded_layers, prune
from rewindctl.specs import PruneSpec

SMALL = {"a.weight": (3, 1, 2, 2), "b.weight": (4, 3, 1, 1), "dense.weight": (2, 5)}
UNEVEN = {"a.weight": (2, 1, 2, 2), "b.weight": (5, 4, 1, 1), "c.weight": (10, 10, 1, 1), "dense.weight": (3, 9)}
SEEDS = st.integers(0, 2**32 - 1)
many = settings(deadline=None, max_examples=150)


def spec(sparsity: float, **fields: Any) -> PruneSpec:
    return PruneSpec(parent_fingerprint="0" * 64, sparsity=sparsity, **fields)


def drawn(shapes: Mapping[str, tuple[int, ...]], seed: int, levels: int = 8) -> dict[str, Tensor]:
    """Weights that are multiples of 1/8, few of them: many ties, and sums without rounding."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(-levels, levels + 1, s, generator=generator) / 8 for name, s in shapes.items()}


def network(name: str) -> Network:
    """Every layer with weights of the same spread: He's would let the ranking empty the widest layers first."""
    value = build_network(name, NetworkConfig(3, 10, 0.1, 1e-5), 0)
    with torch.no_grad():
        for kernel in kernels(value).values():
            kernel.mul_(kernel[0].numel() ** 0.5)
    return value


def detached(value: Network) -> dict[str, Tensor]:
    return {name: kernel.detach() for name, kernel in kernels(value).items()}


def rows(kernel: Tensor, structure: str) -> Tensor:
    """(units, weights per unit): output channels of a convolution, input columns of the dense kernel."""
    if structure == "unstructured":
        return kernel.reshape(-1, 1)
    return kernel.flatten(1) if kernel.dim() == 4 else kernel.t()


def by_hand(
    weights: Mapping[str, Tensor], asked: PruneSpec, previous: Mask | None = None
) -> tuple[dict[str, list[bool]], tuple[str, ...]]:
    """The global rule one unit at a time in exact fractions: kept units of each layer, and the layers spared."""
    ranking, layers = [], list(weights)
    for layer, name in enumerate(layers):
        kept = rows(previous.kernels[name], asked.structure) if previous else None
        for index, row in enumerate(rows(weights[name], asked.structure).tolist()):
            gone = kept is not None and not bool(kept[index].any())
            score = Fraction(-1) if gone else sum(Fraction(abs(w)) for w in row) / len(row)
            ranking.append((score, layer, index, len(row)))
    ranking.sort()
    last = {layer: index for _, layer, index, _ in ranking}
    alive = {name: [True] * len(rows(weights[name], asked.structure)) for name in layers}
    left, spared = round(asked.sparsity * sum(w.numel() for w in weights.values())), []
    for _, layer, index, size in ranking:
        if last[layer] == index:
            spared += [layer] if size <= left else []
        elif size <= left:
            alive[layers[layer]][index] = False
            left -= size
        else:
            break
    return alive, tuple(layers[layer] for layer in sorted(spared))


def assert_as_by_hand(weights: Mapping[str, Tensor], asked: PruneSpec, previous: Mask | None = None) -> Mask:
    alive, spared = by_hand(weights, asked, previous)
    result = prune(weights, asked, previous)
    for name, kept in alive.items():
        found = rows(result.mask.kernels[name], asked.structure)
        assert torch.equal(found, torch.tensor(kept).unsqueeze(1).expand_as(found)), name
    assert result.spared_layers == spared
    return result.mask


@many
@given(SEEDS, st.floats(0.03, 0.9), st.sampled_from([0, 2, 8, 1_000]))
def test_unstructured_follows_the_ranking_weight_for_weight(seed: int, sparsity: float, levels: int) -> None:
    """Ties to the earlier layer, then the lower index; exact count; no layer emptied."""
    mask = assert_as_by_hand(drawn(SMALL, seed, levels), spec(sparsity))
    assert mask.removed == round(sparsity * mask.total)
    assert all(bool(kept.any()) for kept in mask.kernels.values())


@many
@given(SEEDS, st.floats(0.15, 0.99), st.sampled_from([0, 2, 8]))
def test_structured_follows_the_ranking_unit_for_unit(seed: int, sparsity: float, levels: int) -> None:
    """Within the budget, and the next unit of the ranking would not fit."""
    mask = assert_as_by_hand(drawn(SMALL, seed, levels), spec(sparsity, structure="structured"))
    assert 0 < mask.removed <= round(sparsity * mask.total)


@many
@given(SEEDS, st.floats(0.15, 0.6), st.floats(0.1, 0.3), st.sampled_from(["unstructured", "structured"]))
def test_what_is_removed_stays_removed(seed: int, first: float, more: float, structure: str) -> None:
    """Whatever weight the network has there by now; the rest is ranked anew."""
    previous = prune(drawn(SMALL, seed), spec(first, structure=structure)).mask
    weights, asked = drawn(SMALL, seed + 1), spec(first + more, structure=structure)
    alive, _ = by_hand(weights, asked, previous)
    assume(sum(row.count(False) for row in alive.values()) > sum(_gone_units(previous, structure)))
    mask = assert_as_by_hand(weights, asked, previous)
    assert mask.covers(previous)
    assert not previous.covers(mask)


def _gone_units(mask: Mask, structure: str) -> list[int]:
    return [int((~rows(kept, structure).any(dim=1)).sum()) for kept in mask.kernels.values()]


@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
@pytest.mark.parametrize("sparsity", [0.2, 0.893, 0.98])
def test_global_magnitude_is_that_of_pytorch(name: str, sparsity: float) -> None:
    value = network(name)
    weights = detached(value)
    magnitudes = torch.cat([kernel.flatten() for kernel in weights.values()]).abs().sort().values
    count = round(sparsity * len(magnitudes))
    assert magnitudes[count - 1] < magnitudes[count], "a tie at the threshold: PyTorch's choice would be arbitrary"
    reference = copy.deepcopy(value)
    modules = [(reference.get_submodule(key.removesuffix(".weight")), "weight") for key in weights]
    torch_prune.global_unstructured(modules, torch_prune.L1Unstructured, amount=count)
    result = prune(weights, spec(sparsity))
    assert result.mask.removed == count
    assert not result.spared_layers
    for key, kept in result.mask.kernels.items():
        assert torch.equal(kept, reference.get_buffer(f"{key}_mask").bool()), key


def test_the_largest_removed_is_no_larger_than_the_smallest_kept() -> None:
    weights = detached(network("resnet20"))
    mask = prune(weights, spec(0.893)).mask
    removed = max(float(w.abs()[~mask.kernels[name]].max()) for name, w in weights.items())
    kept = min(float(w.abs()[mask.kernels[name]].min()) for name, w in weights.items())
    assert removed <= kept


@pytest.mark.parametrize(
    ("count", "removed", "spared"),
    [
        (5, (5, 0, 0), ()),
        (11, (11, 0, 0), ()),
        (12, (11, 1, 0), ("a.weight",)),
        (23, (11, 11, 1), ("a.weight", "b.weight")),
        (31, (11, 11, 9), ("a.weight", "b.weight")),
    ],
)
def test_equal_weights_go_from_the_front(count: int, removed: tuple[int, ...], spared: tuple[str, ...]) -> None:
    weights = {name: torch.full(shape, 0.1) for name, shape in SMALL.items()}
    result = prune(weights, spec(count / 34))
    assert result.mask.removed == count
    for kept, gone in zip(result.mask.kernels.values(), removed, strict=True):
        assert kept.flatten().tolist() == [False] * gone + [True] * (kept.numel() - gone)
    assert result.spared_layers == spared


def test_iterative_masks_only_grow_and_each_count_is_exact() -> None:
    """0.2 of the rest each time, over networks retrained in between."""
    weights, previous = detached(network("resnet8")), None
    total = sum(kernel.numel() for kernel in weights.values())
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 15):
        sparsity = 1 - 0.8**step
        mask = prune(weights, spec(sparsity), previous).mask
        assert mask.removed == round(sparsity * total)
        assert previous is None or mask.covers(previous)
        previous = mask
        weights = {name: w + 0.05 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}


@many
@given(SEEDS, st.floats(0.01, 0.85))
def test_layerwise_takes_the_same_share_of_every_layer(seed: int, sparsity: float) -> None:
    weights = drawn(UNEVEN, seed)
    assume(round(sparsity * 155) > 0)
    mask = prune(weights, spec(sparsity, scope="layerwise")).mask
    assert mask.removed == round(sparsity * mask.total)
    for name, kept in mask.kernels.items():
        assert abs(int((~kept).sum()) - sparsity * kept.numel()) < 1 + 1e-9, name
        magnitudes = weights[name].abs()
        if bool((~kept).any()):
            assert magnitudes[~kept].max() <= magnitudes[kept].min()


@many
@given(SEEDS, st.floats(0.05, 0.7), st.floats(0.0005, 0.1), st.sampled_from(["global", "layerwise"]))
def test_layerwise_stays_within_one_weight_after_any_parent_or_is_refused(
    seed: int, first: float, more: float, scope: str
) -> None:
    previous = prune(drawn(UNEVEN, seed), spec(first, scope=scope)).mask
    sparsity = first + more
    try:
        mask = prune(drawn(UNEVEN, seed + 1), spec(sparsity, scope="layerwise"), previous).mask
    except UsageError:
        return
    assert mask.removed == round(sparsity * mask.total)
    assert mask.covers(previous)
    for kept in mask.kernels.values():
        assert abs(int((~kept).sum()) - sparsity * kept.numel()) < 1 + 1e-9


def test_layerwise_iterations_are_not_refused() -> None:
    weights, previous = detached(network("resnet8")), None
    for step in range(1, 12):
        mask = prune(weights, spec(1 - 0.8**step, scope="layerwise"), previous).mask
        assert previous is None or mask.covers(previous)
        previous = mask


@pytest.mark.parametrize("scope", ["global", "layerwise"])
@pytest.mark.parametrize("sparsity", [0.2, 0.672, 0.893])
def test_structured_takes_whole_channels_and_dense_inputs_within_the_budget(scope: str, sparsity: float) -> None:
    weights = detached(network("resnet8"))
    mask = prune(weights, spec(sparsity, structure="structured", scope=scope)).mask
    for name, kept in mask.kernels.items():
        units = kept.flatten(1) if kept.dim() == 4 else kept.t()
        assert torch.equal(units.all(dim=1), units.any(dim=1)), name
        assert bool(units.any()), name
    assert mask.removed <= sparsity * mask.total + 0.5
    largest = max(w[0].numel() for w in weights.values())
    slack = largest if scope == "global" else sum(w[0].numel() for w in weights.values() if w.dim() == 4) + 10
    assert mask.removed > sparsity * mask.total - slack


def test_structured_layerwise_never_exceeds_a_layers_share() -> None:
    mask = prune(detached(network("resnet8")), spec(0.5, structure="structured", scope="layerwise")).mask
    for row in mask.layers():
        assert row["removed"] <= 0.5 * row["weights"] + 1
        assert row["units"] - row["units_kept"] == row["units"] // 2


@pytest.mark.parametrize("structure", ["unstructured", "structured"])
def test_a_weak_layer_keeps_its_best_unit_and_is_named(structure: str) -> None:
    weights = detached(network("resnet8"))
    weak = weights["blocks.1.conv1.weight"]
    weights["blocks.1.conv1.weight"] = weak * 1e-6
    result = prune(weights, spec(0.6, structure=structure))
    assert result.spared_layers == ("blocks.1.conv1.weight",)
    kept = rows(result.mask.kernels["blocks.1.conv1.weight"], structure).any(dim=1)
    assert kept.nonzero().flatten().tolist() == [int(rows(weak.abs(), structure).mean(dim=1).argmax())]


def test_no_layer_is_named_when_none_was_spared() -> None:
    assert prune(detached(network("resnet8")), spec(0.5)).spared_layers == ()


@pytest.mark.parametrize("structure", ["unstructured", "structured"])
@pytest.mark.parametrize("sparsity", [0.3, 0.5])
def test_a_sparsity_already_reached_is_refused(structure: str, sparsity: float) -> None:
    weights = drawn(SMALL, 0)
    previous = prune(weights, spec(0.5, structure="unstructured")).mask
    with pytest.raises(UsageError) as caught:
        prune(weights, spec(sparsity, structure=structure), previous)
    assert caught.value.exit_code == 2
    assert "0.5" in caught.value.hint


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_cannot_be_ranked_are_refused_by_name(poison: float) -> None:
    weights = drawn(SMALL, 0)
    weights["b.weight"][2, 1] = poison
    with pytest.raises(UsageError, match=r"b\.weight"):
        prune(weights, spec(0.5))


@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_a_sparsity_that_would_empty_a_layer_is_refused(scope: str) -> None:
    with pytest.raises(UsageError, match="empty a layer"):
        prune(drawn(SMALL, 0), spec(0.99, scope=scope))
    prune(drawn(SMALL, 0), spec(31 / 34))


@given(
    sizes=st.lists(st.integers(2, 3000), min_size=1, max_size=4),
    scope=st.sampled_from(["global", "layerwise"]),
    asked=st.floats(0.99, 0.99999),
)
@many
def test_the_sparsity_suggested_in_its_place_is_accepted(sizes: list[int], scope: str, asked: float) -> None:
    weights = drawn({f"{index}.weight": (1, size) for index, size in enumerate(sizes)}, 0)
    try:
        prune(weights, spec(asked, scope=scope))
        return
    except UsageError as error:
        refusal = error
    assert "empty a layer" in refusal.message
    prune(weights, spec(highest_of(refusal), scope=scope))


def test_no_sparsity_is_suggested_that_would_be_refused_too() -> None:
    weights = drawn({"a.weight": (1, 10), "b.weight": (1, 100)}, 0)
    previous = Mask({"a.weight": torch.ones(1, 10) > 0, "b.weight": torch.arange(100)[None] < 5})
    with pytest.raises(UsageError, match="empty a layer: at most 9 of 10") as caught:
        prune(weights, spec(0.96, scope="layerwise"), previous)
    assert caught.value.hint == "prune this parent with --scope global"
    with pytest.raises(UsageError, match="empty a layer: at most 108 of 110") as caught:
        prune(weights, spec(0.995), prune(weights, spec(108 / 110)).mask)
    assert caught.value.hint == "prune another run"


def test_a_structured_sparsity_below_one_unit_is_refused() -> None:
    with pytest.raises(UsageError, match="no whole unit"):
        prune(drawn(SMALL, 0), spec(0.05, structure="structured"))


def test_structured_after_single_weights_is_refused() -> None:
    weights = drawn(SMALL, 0)
    previous = prune(weights, spec(0.3)).mask
    with pytest.raises(UsageError, match="single weights"):
        prune(weights, spec(0.6, structure="structured"), previous)


@pytest.mark.parametrize("name", ["resnet8", "wrn10_1"])
def test_channel_norm_remove_closes_the_norm_of_every_removed_channel(name: str) -> None:
    value = network(name)
    asked = {norm: spec(0.5, structure="structured", channel_norm=norm) for norm in ("keep", "remove")}
    removed, kept = (prune(detached(value), asked[n], norm_after=value.norm_after).mask for n in ("remove", "keep"))
    assert not kept.norms
    assert all(torch.equal(kept.kernels[key], mask) for key, mask in removed.kernels.items())
    assert set(removed.norms) == {f"{norm}.{part}" for norm in value.norm_after.values() for part in ("weight", "bias")}
    for convolution, norm in value.norm_after.items():
        alive = removed.kernels[f"{convolution}.weight"].flatten(1).any(dim=1)
        assert torch.equal(removed.norms[f"{norm}.weight"], alive)
        assert torch.equal(removed.norms[f"{norm}.bias"], alive)
    assert any(not bool(mask.all()) for mask in removed.norms.values())


def test_a_closed_norm_stays_closed_when_the_next_step_keeps_norms() -> None:
    value = network("resnet8")
    first = prune(
        detached(value), spec(0.5, structure="structured", channel_norm="remove"), norm_after=value.norm_after
    ).mask
    assert not all(bool(alive.all()) for alive in first.norms.values())
    for channel_norm in ("keep", "remove"):
        asked = spec(0.7, structure="structured", channel_norm=channel_norm)
        second = prune(detached(value), asked, first, value.norm_after).mask
        for name, alive in first.norms.items():
            assert not bool((second.norms[name] & ~alive).any())


def test_only_without_the_norm_does_a_removed_channel_fall_silent() -> None:
    """`keep`: it still emits relu(shift), as in the authors' code. `remove`: nothing at all."""
    emitted = {}
    for norm in ("keep", "remove"):
        value = network("resnet8").eval()
        for parameter in value.get_submodule("blocks.0.norm1").parameters():
            torch.nn.init.constant_(parameter, 0.5)
        mask = prune(
            detached(value), spec(0.5, structure="structured", channel_norm=norm), norm_after=value.norm_after
        ).mask
        mask.apply_(dict(value.named_parameters()))
        gone = ~mask.kernels["blocks.0.conv1.weight"].flatten(1).any(dim=1)
        assert bool(gone.any())
        with torch.no_grad():
            out = value.get_submodule("blocks.0.norm1")(value.get_submodule("blocks.0.conv1")(torch.randn(2, 16, 4, 4)))
        emitted[norm] = set(out[:, gone].flatten().tolist())
    assert emitted == {"keep": {0.5}, "remove": {0.0}}


def test_scores_may_be_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is removed already ranks before the lowest score that a criterion can give."""
    monkeypatch.setitem(criteria._entries, "signed", lambda weights: weights.value)
    previous = prune(drawn(SMALL, 0), spec(0.3)).mask
    weights = {name: torch.where(kept, -5.0, 5.0) for name, kept in previous.kernels.items()}
    mask = prune(weights, spec(0.6, criterion="signed"), previous).mask
    assert mask.covers(previous)
    assert mask.removed == round(0.6 * 34)


# Excluded layers


def highest_of(error: UsageError) -> float:
    """The sparsity that a refusal says can be asked for."""
    return float(error.hint.partition("at most ")[2].partition(",")[0])


@many
@given(SEEDS, st.floats(0.03, 0.7), st.sampled_from(["global", "layerwise"]), st.sampled_from(["a", "b", "dense", "?"]))
def test_excluded_layers_keep_all_and_the_count_is_still_that_of_the_network(
    seed: int, sparsity: float, scope: str, pattern: str
) -> None:
    weights, asked = drawn(UNEVEN, seed), spec(sparsity, scope=scope, exclude=(pattern,))
    excluded = excluded_layers(UNEVEN, (pattern,))
    try:
        mask = prune(weights, asked).mask
    except UsageError as error:
        highest = highest_of(error)
        asked = asked.model_copy(update={"sparsity": highest})
        found = prune(weights, asked).mask.removed if round(highest * 155) else 0
        if highest >= sparsity or f"at most {found} of 155 weights" not in error.message:
            raise
        return
    assert mask.removed == round(sparsity * 155)
    assert all(bool(mask.kernels[name].all()) for name in excluded)
    included = sum(kept.numel() for name, kept in mask.kernels.items() if name not in excluded)
    for name, kept in mask.kernels.items():
        if name not in excluded and scope == "layerwise":  # one share of each of the others
            assert abs(int((~kept).sum()) - mask.removed / included * kept.numel()) < 1 + 1e-9, name


def test_the_others_are_ranked_as_if_the_excluded_layers_were_not_there() -> None:
    weights = drawn(SMALL, 0)
    mask = prune(weights, spec(0.3, exclude=("b",))).mask
    others = {name: kernel for name, kernel in weights.items() if name != "b.weight"}
    alone = prune(others, spec(mask.removed / 22)).mask
    assert all(torch.equal(mask.kernels[name], kept) for name, kept in alone.kernels.items())
    assert list(mask.kernels) == list(SMALL)


@pytest.mark.parametrize("scope", ["global", "layerwise"])
@pytest.mark.parametrize("structure", ["unstructured", "structured"])
def test_what_an_excluded_layer_has_lost_stays_lost_and_is_counted(structure: str, scope: str) -> None:
    weights = detached(network("resnet8"))
    how = {"structure": structure, "scope": scope}
    first = prune(weights, spec(0.4, **how)).mask
    second = prune(weights, spec(0.6, exclude=("blocks.0.*", "stem"), **how), first).mask
    excluded = ["stem.weight", "blocks.0.conv1.weight", "blocks.0.conv2.weight"]
    assert all(torch.equal(second.kernels[name], first.kernels[name]) for name in excluded)
    assert second.covers(first)
    least = round(0.6 * second.total) if structure == "unstructured" else first.removed + 1
    assert least <= second.removed <= round(0.6 * second.total)


@pytest.mark.parametrize("structure", ["unstructured", "structured"])
def test_a_target_that_the_others_cannot_meet_is_refused_with_the_highest(structure: str) -> None:
    weights = detached(network("resnet8"))
    asked = spec(0.9, structure=structure, exclude=("dense", "blocks.2.*"))
    with pytest.raises(
        UsageError, match=r"cannot be met with blocks\.2\.\*, dense excluded: at most \d+ of \d+"
    ) as caught:
        prune(weights, asked)
    mask = prune(weights, asked.model_copy(update={"sparsity": highest_of(caught.value)})).mask
    assert f"at most {mask.removed} of" in caught.value.message
    with pytest.raises(UsageError, match="at most 0 of"):
        prune(weights, spec(0.1, structure=structure, exclude=("*",)))


def test_a_pattern_that_matches_no_layer_is_refused_with_the_layers() -> None:
    with pytest.raises(UsageError, match="no layer matches the excluded pattern 'sten'") as caught:
        prune(drawn(SMALL, 0), spec(0.3, exclude=("a", "sten")))
    assert caught.value.hint == "layers: a, b, dense"
