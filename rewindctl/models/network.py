"""What every network offers: kernels to prune, and which batch norm reads which convolution."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rewindctl.catalog import Catalog


@dataclass(frozen=True)
class NetworkConfig:
    """Input channels, number of classes and the batch-norm constants of a recipe.

    PyTorch's running variance is the unbiased estimate, TensorFlow's the biased one: at batch 128 they differ by
    under 1 %.
    """

    in_channels: int
    classes: int
    norm_momentum: float
    norm_epsilon: float

    def norm(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=self.norm_epsilon, momentum=self.norm_momentum)


class Network(nn.Module):
    """A classifier of (batch, channels, height, width) float images of any size.

    `norm_after` maps the name of a convolution to that of the batch norm that alone reads its output; a convolution
    that adds into a residual stream has none.
    """

    norm_after: dict[str, str]


models: Catalog[Callable[[NetworkConfig], Network]] = Catalog("model")


def build_network(name: str, config: NetworkConfig, seed: int) -> Network:
    """A network on the CPU, initialised from `seed` alone, the same on every machine.

    He uniform (fan-in, gain sqrt 2) on every kernel, the dense one too; dense bias 0; norm scale 1, shift 0.
    Source: report section 3; He et al. 2015.
    """
    network = models[name](config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for kernel in kernels(network).values():
            fan_in = kernel[0].numel()
            bound = math.sqrt(6.0 / fan_in)
            kernel.copy_(torch.rand(kernel.shape, generator=generator) * (2 * bound) - bound)
        for module in network.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
    return network


def kernels(network: nn.Module) -> dict[str, nn.Parameter]:
    """Every prunable tensor by parameter name, in module order: convolution kernels and the dense kernel."""
    prunable = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return {f"{name}.weight": network.get_parameter(f"{name}.weight") for name in prunable}


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


def global_average_pool(x: Tensor) -> Tensor:
    """(batch, channels, height, width) to (batch, channels); `mean`, whose backward is deterministic on CUDA."""
    return x.mean(dim=(2, 3))
