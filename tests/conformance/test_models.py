"""Laws of every network that the catalog names; a new family is tested as soon as its label gives an example."""

import copy
import re
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rewindctl.models import Network, build_network, kernels, models
from rewindctl.models.network import NetworkConfig

CONFIG = NetworkConfig(in_channels=1, classes=4, norm_momentum=0.1, norm_epsilon=1e-5)


def examples(label: str) -> list[str]:
    """The names that a line of the catalog gives: an entry itself, or those in a family's brackets."""
    return re.findall(r"[\w-]+(?=[,)])", label) if "(" in label else [label]


NAMES = [name for label in models.names() for name in examples(label)]


@cache
def built(name: str) -> Network:
    """Not to be changed."""
    return build_network(name, CONFIG, 0)


def images(size: int) -> Tensor:
    return torch.randn(3, 1, size, size, generator=torch.Generator().manual_seed(0))


def test_every_line_of_the_catalog_gives_an_example() -> None:
    assert len(models.names()) >= 2
    assert all(examples(label) for label in models.names())
    assert all(name in models for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_conv_or_dense_shaped_and_cover_them_all(name: str) -> None:
    network = built(name)
    found = kernels(network)
    assert {kernel.dim() for kernel in found.values()} == {2, 4}
    weighted = {f"{key}.weight" for key, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert set(found) == weighted
    norms = {m for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    others = {id(p) for m in norms for p in m.parameters()} | {
        id(m.bias) for m in network.modules() if isinstance(m, nn.Linear)
    }
    assert {id(p) for p in network.parameters()} == {id(p) for p in found.values()} | others


@pytest.mark.parametrize("name", NAMES)
def test_norm_after_names_a_convolution_and_a_norm_of_its_width(name: str) -> None:
    network = built(name)
    assert network.norm_after
    for convolution, norm in network.norm_after.items():
        conv, after = network.get_submodule(convolution), network.get_submodule(norm)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(after, nn.BatchNorm2d)
        assert after.num_features == conv.out_channels


@pytest.mark.parametrize("name", NAMES)
def test_a_removed_channel_emits_nothing_after_its_norm(name: str) -> None:
    """Channel 1 of every convolution in `norm_after`: kernel, scale and shift at 0, statistics as trained."""
    network = copy.deepcopy(built(name))
    silent: list[bool] = []
    network(images(8))  # running statistics that are not 0 and 1
    for convolution, norm in network.norm_after.items():
        after = network.get_submodule(norm)
        with torch.no_grad():
            for parameter in (network.get_parameter(f"{convolution}.weight"), *after.parameters()):
                parameter[1] = 0
        after.register_forward_hook(lambda _module, _inputs, output: silent.append(not bool(output[:, 1].any())))
    network.eval()(images(8))
    assert silent == [True] * len(network.norm_after)


@pytest.mark.parametrize("name", NAMES)
def test_the_norm_alone_reads_its_convolution(name: str) -> None:
    """Closing channel 1 of every norm hides what the convolutions put there, from the logits and from training."""
    network = copy.deepcopy(built(name))
    with torch.no_grad():
        for norm in network.norm_after.values():
            for parameter in network.get_submodule(norm).parameters():
                parameter[1] = 0
        before = network(images(8))
        for convolution in network.norm_after:
            network.get_parameter(f"{convolution}.weight")[1] += 1
        assert torch.equal(network(images(8)), before)


@pytest.mark.parametrize("name", NAMES)
def test_norm_after_lists_every_convolution_whose_output_a_norm_reads(name: str) -> None:
    """Untouched, that is: not summed with a shortcut before."""
    network = copy.deepcopy(built(name))
    emitted: list[tuple[str, Tensor]] = []
    read: dict[str, str] = {}
    for key, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _m, _i, output, key=key: emitted.append((key, output)))
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(
                lambda _m, inputs, key=key: read.update({conv: key for conv, out in emitted if out is inputs[0]})
            )
    network(images(8))
    assert network.norm_after == read


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [8, 13])
def test_logits_of_any_size_and_a_gradient_for_every_parameter(name: str, size: int) -> None:
    network = copy.deepcopy(built(name)).to(memory_format=torch.channels_last)
    logits = network(images(size).to(memory_format=torch.channels_last))
    assert logits.shape == (3, CONFIG.classes)
    cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert bool(parameter.grad.isfinite().all()), key
        assert bool(parameter.grad.any()), key


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_network(name: str) -> None:
    again = build_network(name, CONFIG, 0).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in built(name).state_dict().items())
