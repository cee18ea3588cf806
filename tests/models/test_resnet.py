"""CIFAR ResNets: the paper's counts, and the structure that they do not show."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from rewindctl.models import Network, build_network, kernels
from rewindctl.models.network import NetworkConfig

# The paper, table 1, 10 classes: trainable and kernel parameters.
TABLE_1 = [("resnet20", 272_282, 270_896), ("resnet56", 855_578, 851_504), ("resnet110", 1_730_522, 1_722_416)]
LAST_WIDTH = 64


def resnet(name: str, classes: int = 10, channels: int = 3) -> Network:
    return build_network(name, NetworkConfig(channels, classes, 0.003, 1e-5), 0)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "trainable", "kernel"), TABLE_1)
def test_counts_are_those_of_table_1(name: str, trainable: int, kernel: int) -> None:
    network = resnet(name)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == trainable
    assert sum(p.numel() for p in kernels(network).values()) == kernel


@pytest.mark.parametrize(("name", "trainable", "kernel"), TABLE_1)
def test_100_classes_change_the_head_alone(name: str, trainable: int, kernel: int) -> None:
    network = resnet(name, classes=100)
    assert sum(p.numel() for p in network.parameters()) == trainable + (100 - 10) * (LAST_WIDTH + 1)
    assert sum(p.numel() for p in kernels(network).values()) == kernel + (100 - 10) * LAST_WIDTH


@pytest.mark.parametrize("depth", [8, 14, 20, 56])
def test_depth_counts_the_layers_on_the_longest_path(depth: int) -> None:
    network = resnet(f"resnet{depth}")
    assert len([name for name in kernels(network) if "projection" not in name]) == depth


@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
def test_shape_changes_pass_through_a_bare_1x1_projection(name: str) -> None:
    """Two of them, without bias and without a norm: else the paper's counts do not come out."""
    network = resnet(name)
    convolutions = {key: m for key, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    projections = {key: m for key, m in convolutions.items() if m.kernel_size == (1, 1)}
    assert [(m.in_channels, m.out_channels, m.stride) for m in projections.values()] == [
        (16, 32, (2, 2)),
        (32, 64, (2, 2)),
    ]
    assert all(m.bias is None for m in convolutions.values())
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == len(convolutions) - len(projections)
    assert set(network.norm_after) == set(convolutions) - set(projections)
    assert len(set(network.norm_after.values())) == len(norms)


def test_a_block_is_relu_of_branch_plus_shortcut() -> None:
    """With the branch silenced by its last norm, the shortcut is left: the identity, or the projection."""
    network = resnet("resnet20").eval()
    blocks = list(network.get_submodule("blocks").children())
    for block in blocks:
        norm = block.get_submodule("norm2")
        assert isinstance(norm, nn.BatchNorm2d)
        with torch.no_grad():
            norm.weight.zero_()
    with torch.no_grad():
        x = images(2, 16, 8, 8)
        assert torch.equal(blocks[0](x), relu(x))
        assert torch.equal(blocks[3](x), relu(blocks[3].get_submodule("projection")(x)))
        assert blocks[3](x).shape == (2, 32, 4, 4)


@pytest.mark.parametrize("index", [0, 1])
def test_a_block_normalises_before_it_activates(index: int) -> None:
    """Branch: conv, norm, ReLU, conv, norm; shortcut: as it is, or projected; written out here a second time."""
    block = list(resnet("resnet8").eval().get_submodule("blocks").children())[index]
    torch.manual_seed(0)
    part = dict(block.named_children())
    for norm in (part["norm1"], part["norm2"]):
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    with torch.no_grad():
        x = images(2, 16, 8, 8)
        branch = part["norm2"](part["conv2"](relu(part["norm1"](part["conv1"](x)))))
        shortcut = part["projection"](x) if index else x
        torch.testing.assert_close(block(x), relu(branch + shortcut))


@pytest.mark.parametrize("size", [8, 28, 32, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_and_depth_give_logits(size: int, channels: int) -> None:
    logits = resnet("resnet8", classes=7, channels=channels)(images(2, channels, size, size))
    assert logits.shape == (2, 7)
    assert bool(logits.isfinite().all())


def test_each_group_halves_the_image() -> None:
    network = resnet("resnet20")
    sizes: list[tuple[int, ...]] = []
    for block in network.get_submodule("blocks").children():
        block.register_forward_hook(lambda _module, _inputs, output: sizes.append(tuple(output.shape[1:])))
    network(images(2, 3, 32, 32))
    assert sizes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3
