"""What every network shares: how it starts, what of it is prunable, which names it answers to."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch import nn

from rewindctl.errors import UnknownNameError, UsageError
from rewindctl.models import Network, build_network, kernels
from rewindctl.models.network import NetworkConfig

CONFIG = NetworkConfig(in_channels=3, classes=10, norm_momentum=0.003, norm_epsilon=1e-5)
NAMES = ("resnet20", "wrn10_2")


def fan_in(module: nn.Module) -> int:
    if isinstance(module, nn.Conv2d):
        return module.in_channels * module.kernel_size[0] * module.kernel_size[1]
    assert isinstance(module, nn.Linear)
    return module.in_features


def values(network: Network) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in network.state_dict().values()]


@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_starts_he_uniform_with_its_fan_in(name: str) -> None:
    network = build_network(name, CONFIG, 0)
    for weight, kernel in kernels(network).items():
        bound = math.sqrt(6 / fan_in(network.get_submodule(weight.removesuffix(".weight"))))
        values = kernel.detach().flatten()
        assert values.abs().max() <= bound
        assert values.abs().max() > 0.9 * bound  # at least 160 draws: P(none above) < 1e-7
        assert kstest(values.numpy(), "uniform", args=(-bound, 2 * bound)).pvalue > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_everything_but_kernels_starts_neutral(name: str) -> None:
    network = build_network(name, CONFIG, 0)
    expected = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0, "bias": 0, "weight": 1}
    others = {key: value for key, value in network.state_dict().items() if key not in kernels(network)}
    assert "dense.bias" in others
    for key, value in others.items():
        assert bool((value == expected[key.rpartition(".")[2]]).all()), key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("momentum", "epsilon"), [(0.003, 1e-5), (0.1, 1e-3)])
def test_every_norm_has_the_constants_it_was_given(name: str, momentum: float, epsilon: float) -> None:
    network = build_network(name, NetworkConfig(3, 10, momentum, epsilon), 0)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert {(norm.momentum, norm.eps) for norm in norms} == {(momentum, epsilon)}
    assert all(norm.affine and norm.track_running_stats for norm in norms)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_alone_decides_the_start(name: str) -> None:
    torch.manual_seed(1)
    first = values(build_network(name, CONFIG, 5))
    torch.manual_seed(2)
    assert values(build_network(name, CONFIG, 5)) == first
    assert values(build_network(name, CONFIG, 6)) != first


def test_no_two_kernels_start_alike() -> None:
    starts = [kernel.detach().flatten()[:100] for kernel in kernels(build_network("resnet20", CONFIG, 0)).values()]
    scaled = {tuple((start / start.abs().max()).tolist()) for start in starts}
    assert len(scaled) == len(starts)


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_convolutions_and_dense_in_module_order(name: str) -> None:
    network = build_network(name, CONFIG, 0)
    wanted = [f"{key}.weight" for key, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert list(kernels(network)) == wanted
    assert all(kernel is network.get_parameter(key) for key, kernel in kernels(network).items())
    rest = [key for key, _ in network.named_parameters() if key not in kernels(network)]
    assert all("norm" in key or key == "dense.bias" for key in rest)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet21", ("resnet20", "resnet26")),
        ("resnet2", ("resnet8", "resnet14")),
        ("resnet0", ("resnet8",)),
        ("wrn17_8", ("16", "22")),
        ("wrn4_8", ("10", "16")),
        ("wrn16_0", ("wrn16_8",)),
    ],
)
def test_an_impossible_depth_or_width_is_refused_with_the_nearest(name: str, near: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        build_network(name, CONFIG, 0)
    assert caught.value.exit_code == 2
    assert name in caught.value.message
    assert all(other in caught.value.hint for other in near)


@pytest.mark.parametrize(
    "name", ["vgg16", "", "resnet", "wrn16", "ResNet20", "resnet20 ", "resnet020", "wrn16_08", "resnet２０"]
)
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    """One network has one name: another spelling of a number would be another experiment to the registry."""
    with pytest.raises(UnknownNameError) as caught:
        build_network(name, CONFIG, 0)
    assert caught.value.exit_code == 2
    assert "resnet20" in caught.value.hint
    assert "wrn16_8" in caught.value.hint
