"""What every network offers (kernels to prune, which batch norm reads which convolution), and how it is traced."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rewindctl.catalog import Catalog, require_plain

Constructor = TypeVar("Constructor", bound="Callable[[NetworkConfig], nn.Module]")


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


models: Catalog[Callable[[NetworkConfig], nn.Module]] = Catalog("model")


def register_model(name: str) -> Callable[[Constructor], Constructor]:
    """Decorator: a function of a `NetworkConfig`, or an `nn.Module` class made from one, becomes the network `name`.

    What it makes is an ordinary `nn.Module` from float images (batch, channels, height, width) to logits (batch,
    classes), for any images that it is to be used with:

    - Every `nn.Conv2d` and `nn.Linear` is pruned, and nothing else. Their weights are parameters of their own (not
      tied, not computed by a parametrisation), float32, and there is at least one.
    - Images come channels-last: `x.flatten(1)`, not `x.view(...)`.
    - Kernels start He uniform from the run's seed, the biases of convolutions and linear layers at 0, as in the
      paper; everything else as the constructor leaves it, under PyTorch's generator seeded with the run's seed. With
      `keeps_initial_weights = True` on the module, kernels and biases too (pretrained ones, say).
    - Batch norms get the momentum and epsilon of the recipe, which the run records.
    - `norm_after` of `Network` is found by tracing where the module has none; a module that cannot be traced gets an
      empty one and cannot be pruned with `--channel-norm remove`.
    - Buffers are saved and rewound: none may be non-persistent. Layers that draw at random in training (dropout)
      work, but two such runs are not equal to the byte.

    The name is what a run records: a changed architecture takes a new name, or its old runs are taken for new ones.
    """
    require_plain("model", name)
    add: Callable[[Constructor], Constructor] = models.register(name)  # type: ignore[assignment]
    return add


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


# The generator that constructors draw from, and what tracing puts in place of nn.Module's methods, are the process's:
# one thread at a time builds or traces, while others may train.
BUILDING = threading.RLock()


class OwnThread(torch.fx.Tracer):
    """Traces what its own thread calls; networks that other threads train meanwhile work as ever."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = threading.get_ident() == self._thread
        return super().call_module(m, forward, args, kwargs) if own else forward(*args, **kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        own = threading.get_ident() == self._thread
        return super().getattr(attr, attr_val, parameter_proxy_cache) if own else attr_val
