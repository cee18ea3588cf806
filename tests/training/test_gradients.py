"""Gradients for criteria: those of the mean loss of fixed images, the same bytes twice, and the network as it was."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.models import Network, build_network, kernels
from rewindctl.models.network import NetworkConfig
from rewindctl.pruning import Weights
from rewindctl.pruning.scores import gradient_magnitude
from rewindctl.training.gradients import TrainedNetwork

IMAGES = 96


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.upload(load_dataset("digits"), torch.device("cpu"))


@pytest.fixture(scope="module")
def network(data: DeviceData) -> Network:
    """Some way from its start: running statistics that are neither 0 nor 1."""
    value = build_network("resnet8", NetworkConfig(1, 10, 0.1, 1e-5), 0)
    for _ in range(3):
        value(data.standardised(data.train_images[:64]))
    return value


def images_of(source: TrainedNetwork) -> tuple[Tensor, Tensor]:
    images, labels = zip(*source.batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_they_are_those_of_autograd_in_float64(data: DeviceData, network: Network) -> None:
    source = TrainedNetwork(network, data, 0, IMAGES, batch=32)
    images, labels = images_of(source)
    exact = copy.deepcopy(network).double().eval()
    loss = cross_entropy(exact(images.double()), labels)
    expected = torch.autograd.grad(loss, list(kernels(exact).values()))
    for (name, kernel), gradient in zip(kernels(exact).items(), expected, strict=True):
        found = source.gradients[name]
        assert (found.dtype, found.shape) == (torch.float32, kernel.shape)
        torch.testing.assert_close(found.double(), gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()))
        scores = gradient_magnitude(Weights(name, kernel.detach().float(), source=source))
        wanted = (kernel * gradient).abs()
        torch.testing.assert_close(scores.double(), wanted, rtol=1e-4, atol=1e-6 * float(wanted.detach().max()))


def test_the_same_bytes_twice_and_the_same_mean_however_batched(data: DeviceData, network: Network) -> None:
    first, again, split = (TrainedNetwork(network, data, 0, IMAGES, batch).gradients for batch in (96, 96, 17))
    for name, gradient in first.items():
        assert torch.equal(again[name], gradient)
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()) + 1e-9)


def test_the_images_are_of_the_seed_each_once(data: DeviceData, network: Network) -> None:
    one, same, other = (images_of(TrainedNetwork(network, data, seed, IMAGES, 32))[0] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    every, labels = images_of(TrainedNetwork(network, data, 0, 10**6))
    assert len(every) == len(data.train_images)
    assert torch.equal(labels.bincount(), data.train_labels.bincount())


def test_nothing_is_made_before_it_is_asked_for_and_the_network_stays(data: DeviceData, network: Network) -> None:
    before, training = copy.deepcopy(network.state_dict()), network.training
    source = TrainedNetwork(network, data, 0, IMAGES, 32)
    assert not {"network", "gradients"} & set(vars(source))
    assert not source.used_data
    for parameter in source.network.parameters():
        nn.init.zeros_(parameter)  # whatever a criterion does to its copy
    assert any(bool(gradient.any()) for gradient in source.gradients.values())
    assert source.used_data
    assert source.gradients is source.gradients
    assert network.training == training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
