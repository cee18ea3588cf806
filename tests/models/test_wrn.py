"""Wide ResNets: the paper's counts, and where the pre-activation branches off."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from rewindctl.models import Network, build_network, kernels
from rewindctl.models.network import NetworkConfig

# The paper, table 2, 10 classes.
TRAINABLE, KERNEL, LAST_WIDTH = 10_961_370, 10_954_160, 512


def wrn(name: str, classes: int = 10, channels: int = 3) -> Network:
    return build_network(name, NetworkConfig(channels, classes, 0.1, 1e-3), 0)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("classes", [10, 100])
def test_counts_are_those_of_table_2_and_follow_the_classes(classes: int) -> None:
    network = wrn("wrn16_8", classes)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == TRAINABLE + (classes - 10) * (
        LAST_WIDTH + 1
    )
    assert sum(p.numel() for p in kernels(network).values()) == KERNEL + (classes - 10) * LAST_WIDTH


@pytest.mark.parametrize(("depth", "blocks"), [(10, 3), (16, 6), (28, 12)])
def test_depth_gives_the_blocks(depth: int, blocks: int) -> None:
    network = wrn(f"wrn{depth}_1")
    assert len(list(network.get_submodule("blocks").children())) == blocks


@pytest.mark.parametrize("width", [1, 2, 8])
def test_width_multiplies_16_32_64_but_not_the_stem(width: int) -> None:
    convolutions = {key: m for key, m in wrn(f"wrn10_{width}").named_modules() if isinstance(m, nn.Conv2d)}
    assert convolutions["stem"].out_channels == 16
    assert [convolutions[f"blocks.{i}.conv2"].out_channels for i in range(3)] == [16 * width, 32 * width, 64 * width]


def test_shape_changes_pass_through_a_bare_1x1_projection() -> None:
    """One per group, no bias, no norm; after the stem comes the first block's norm, and none of its own."""
    network = wrn("wrn16_8")
    convolutions = {key: m for key, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    projections = {key: m for key, m in convolutions.items() if m.kernel_size == (1, 1)}
    assert [(m.in_channels, m.out_channels, m.stride) for m in projections.values()] == [
        (16, 128, (1, 1)),
        (128, 256, (2, 2)),
        (256, 512, (2, 2)),
    ]
    assert all(m.bias is None for m in convolutions.values())
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 2 * 6 + 1
    assert network.norm_after == {"stem": "blocks.0.norm1"} | {
        f"blocks.{i}.conv1": f"blocks.{i}.norm2" for i in range(6)
    }


@pytest.mark.parametrize("width", [1, 2])
def test_the_first_block_of_a_group_activates_before_its_shortcut(width: int) -> None:
    """With the branch silenced by its last kernel, the shortcut is left."""
    network = wrn(f"wrn16_{width}").eval()
    torch.manual_seed(0)
    for index, block in enumerate(network.get_submodule("blocks").children()):
        norm, conv2 = block.get_submodule("norm1"), block.get_submodule("conv2")
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(conv2, nn.Conv2d)
        nn.init.normal_(norm.bias)
        nn.init.zeros_(conv2.weight)
        with torch.no_grad():
            x = images(2, norm.num_features, 8, 8)
            shortcut = relu(norm(x)) if index % 2 == 0 else x
            projection = getattr(block, "projection", None)
            assert (projection is None) == (index % 2 == 1 or (width == 1 and index == 0))
            assert torch.equal(block(x), shortcut if projection is None else projection(shortcut))


def test_a_block_activates_before_each_convolution() -> None:
    """Norm, ReLU, conv, norm, ReLU, conv; written out here a second time."""
    block = list(wrn("wrn16_1").eval().get_submodule("blocks").children())[1]
    torch.manual_seed(0)
    part = dict(block.named_children())
    for norm in (part["norm1"], part["norm2"]):
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    with torch.no_grad():
        x = images(2, 16, 8, 8)
        branch = part["conv2"](relu(part["norm2"](part["conv1"](relu(part["norm1"](x))))))
        torch.testing.assert_close(block(x.clone()), branch + x)


def test_the_last_norm_and_relu_come_before_the_pool() -> None:
    network = wrn("wrn10_1").eval()
    norm, dense = network.get_submodule("norm"), network.get_submodule("dense")
    with torch.no_grad():
        x = images(2, 3, 8, 8)
        stream = network.get_submodule("blocks")(network.get_submodule("stem")(x))
        torch.testing.assert_close(network(x), dense(relu(norm(stream)).mean(dim=(2, 3))))


@pytest.mark.parametrize("size", [8, 28, 32, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_and_depth_give_logits(size: int, channels: int) -> None:
    logits = wrn("wrn10_1", classes=7, channels=channels)(images(2, channels, size, size))
    assert logits.shape == (2, 7)
    assert bool(logits.isfinite().all())


def test_the_second_and_third_group_halve_the_image() -> None:
    network = wrn("wrn16_1")
    sizes: list[tuple[int, ...]] = []
    for block in network.get_submodule("blocks").children():
        block.register_forward_hook(lambda _module, _inputs, output: sizes.append(tuple(output.shape[1:])))
    network(images(2, 3, 32, 32))
    assert sizes == [(16, 32, 32)] * 2 + [(32, 16, 16)] * 2 + [(64, 8, 8)] * 2
