"""CIFAR ResNets, post-activation. Source: He et al. 2016a (arXiv 1512.03385), section 4.2; the paper, table 1.

Where the shape changes the shortcut is a 1x1 convolution without bias and **without batch norm**: only so do the
paper's parameter counts come out.
"""

import re

from torch import Tensor, nn
from torch.nn.functional import relu

from rewindctl.errors import UsageError
from rewindctl.models.network import Network, NetworkConfig, conv1x1, conv3x3, global_average_pool, models

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm, and a shortcut; ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int, config: NetworkConfig) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.norm1 = config.norm(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.norm2 = config.norm(outputs)
        self.projection = conv1x1(inputs, outputs, stride) if stride != 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.projection is None else self.projection(x)
        x = relu(self.norm1(self.conv1(x)), inplace=True)
        x = self.norm2(self.conv2(x))
        return relu(x + shortcut, inplace=True)


class ResNet(Network):
    """Three groups of `blocks` basic blocks with 16, 32 and 64 channels: depth 6 * blocks + 2."""

    def __init__(self, blocks: int, config: NetworkConfig) -> None:
        super().__init__()
        self.stem = conv3x3(config.in_channels, WIDTHS[0])
        self.norm = config.norm(WIDTHS[0])
        layers = []
        inputs = WIDTHS[0]
        for group, outputs in enumerate(WIDTHS):
            for block in range(blocks):
                layers.append(BasicBlock(inputs, outputs, 2 if group > 0 and block == 0 else 1, config))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.dense = nn.Linear(inputs, config.classes)
        self.norm_after = {"stem": "norm"}
        for index in range(len(layers)):
            self.norm_after[f"blocks.{index}.conv1"] = f"blocks.{index}.norm1"
            self.norm_after[f"blocks.{index}.conv2"] = f"blocks.{index}.norm2"

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm(self.stem(x)), inplace=True)
        logits: Tensor = self.dense(global_average_pool(self.blocks(x)))
        return logits


@models.register_family("resnet<6n+2> (resnet8, resnet20, resnet56, resnet110, ...)", r"resnet([1-9][0-9]{0,3}|0)")
def resnet(match: re.Match[str]):  # type: ignore[no-untyped-def]
    """`resnet20` and its kin. Raises: UsageError when the depth is not 6n+2."""
    depth = int(match[1])
    if depth < 8 or depth % 6 != 2:
        below = max(8, depth - (depth - 2) % 6)
        raise UsageError(f"resnet{depth} has no depth 6n+2", f"the nearest are resnet{below} and resnet{below + 6}")
    return lambda config: ResNet((depth - 2) // 6, config)
