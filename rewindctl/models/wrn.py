"""Wide ResNets, pre-activation. Source: He et al. 2016b (arXiv 1603.05027); Zagoruyko and Komodakis 2016
(arXiv 1605.07146); the paper, table 2.
"""

import re

from torch import Tensor, nn
from torch.nn.functional import relu

from rewindctl.errors import UsageError
from rewindctl.models.network import Network, NetworkConfig, conv1x1, conv3x3, global_average_pool, models


class PreActivationBlock(nn.Module):
    """Norm, ReLU, conv, norm, ReLU, conv; the first block of a group (`leading`) activates before the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, leading: bool, config: NetworkConfig) -> None:
        super().__init__()
        self.leading = leading
        self.norm1 = config.norm(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.norm2 = config.norm(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.projection = conv1x1(inputs, outputs, stride) if stride != 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = relu(self.norm1(x), inplace=True)
        shortcut = active if self.leading else x
        if self.projection is not None:
            shortcut = self.projection(shortcut)
        out: Tensor = self.conv2(relu(self.norm2(self.conv1(active)), inplace=True))
        return out + shortcut


class WideResNet(Network):
    """Three groups of `blocks` blocks with 16, 32 and 64 times `width` channels: depth 6 * blocks + 4."""

    def __init__(self, blocks: int, width: int, config: NetworkConfig) -> None:
        super().__init__()
        self.stem = conv3x3(config.in_channels, 16)
        layers = []
        inputs = 16
        for group, outputs in enumerate((16 * width, 32 * width, 64 * width)):
            for block in range(blocks):
                stride = 2 if group > 0 and block == 0 else 1
                layers.append(PreActivationBlock(inputs, outputs, stride, block == 0, config))
                inputs = outputs
        self.blocks = nn.Sequential(*layers)
        self.norm = config.norm(inputs)
        self.dense = nn.Linear(inputs, config.classes)
        # The stem has no norm of its own: the first block's reads it, before the shortcut branches off. Every other
        # convolution adds into the residual stream.
        self.norm_after = {"stem": "blocks.0.norm1"}
        self.norm_after |= {f"blocks.{i}.conv1": f"blocks.{i}.norm2" for i in range(len(layers))}

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm(self.blocks(self.stem(x))), inplace=True)
        logits: Tensor = self.dense(global_average_pool(x))
        return logits


@models.register_family("wrn<6n+4>_<width> (wrn16_8, wrn28_10, ...)", r"wrn([1-9][0-9]{0,3}|0)_([1-9][0-9]{0,2}|0)")
def wrn(match: re.Match[str]):  # type: ignore[no-untyped-def]
    """`wrn16_8` and its kin. Raises: UsageError when the depth is not 6n+4 or the width is 0."""
    depth, width = int(match[1]), int(match[2])
    if depth < 10 or depth % 6 != 4:
        below = max(10, depth - (depth - 4) % 6)
        raise UsageError(f"wrn{depth}_{width} has no depth 6n+4", f"the nearest depths are {below} and {below + 6}")
    if width == 0:
        raise UsageError(f"wrn{depth}_0 has width 0", "give a width of at least 1, as in wrn16_8")
    return lambda config: WideResNet((depth - 4) // 6, width, config)
