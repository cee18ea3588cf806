"""From a name to a network that is ready to train; an ordinary nn.Module becomes one here, or is refused."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from rewindctl.errors import UsageError, code_of_others
from rewindctl.models.network import BUILDING, Network, NetworkConfig, OwnThread, kernels, models

HINT = "what a network needs: python -c 'import rewindctl; help(rewindctl.register_model)'"


def build_network(name: str, config: NetworkConfig, seed: int) -> Network:
    """A network on the CPU, initialised from `seed` alone, the same on every machine.

    He uniform (fan-in, gain sqrt 2) on every kernel, the dense one too; biases 0; norm scale 1, shift 0.
    Raises: UnknownNameError, UsageError. Source: the paper, section 3; He et al. 2015.
    """
    with BUILDING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = construct(name, config)
    if not getattr(network, "keeps_initial_weights", False):
        _initialise(network, seed)
    return network


def construct(name: str, config: NetworkConfig) -> Network:
    """A network as its constructor leaves it, checked, with `norm_after`. Raises: UnknownNameError, UsageError."""
    make = models[name]
    with code_of_others(f"model {name!r} cannot be built", HINT):
        module = make(config)
    if (problem := next(_unfit(module), None)) is not None:
        raise UsageError(f"model {name!r} {problem}", HINT)
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.momentum, part.eps = config.norm_momentum, config.norm_epsilon
    if not isinstance(getattr(module, "norm_after", None), dict):
        module.norm_after = derived_norm_after(module)  # type: ignore[assignment]
    return cast(Network, module)


def derived_norm_after(module: nn.Module) -> dict[str, str]:
    """Each convolution whose output goes to one batch norm and nowhere else; none where tracing fails."""
    try:
        with BUILDING:
            graph = OwnThread().trace(module)
    except Exception:  # control flow on values, and whatever else cannot be traced
        return {}
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    found = {}
    for node in graph.nodes:
        readers = list(node.users)
        if node.op != "call_module" or len(readers) != 1 or readers[0].op != "call_module":
            continue
        name, norm_name = str(node.target), str(readers[0].target)
        convolution, norm = module.get_submodule(name), module.get_submodule(norm_name)
        fits = isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.affine
        if fits and calls[name] == calls[norm_name] == 1:
            found[name] = norm_name
    return found


def require_logits(name: str, network: nn.Module, channels: int, size: tuple[int, int], classes: int) -> None:
    """Raises: UsageError when the network does not make logits (batch, classes) of images like these."""
    images = torch.zeros(2, channels, *size).to(memory_format=torch.channels_last)
    shown = "x".join(map(str, images.shape[1:]))
    training = network.training
    try:
        with torch.no_grad():
            logits = network.eval()(images)
    except Exception as error:  # whatever a network of someone else's raises
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"model {name!r} fails on images of {shown}: {reason}", HINT) from error
    finally:
        network.train(training)
    shape = tuple(getattr(logits, "shape", ()))
    if shape != (2, classes):
        raise UsageError(f"model {name!r} makes {shape or type(logits).__name__} of 2 images of {shown}", HINT)


def _initialise(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for kernel in kernels(network).values():
            bound = math.sqrt(6.0 / kernel[0].numel())
            kernel.copy_(torch.rand(kernel.shape, generator=generator) * (2 * bound) - bound)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.zero_()


def _unfit(module: object) -> Iterator[str]:
    """What keeps a module from being trained and pruned here."""
    if not isinstance(module, nn.Module):
        yield f"is a {type(module).__name__}, not an nn.Module"
        return
    own = dict(module.named_parameters())
    yield from (f"does not know the shape of {name} until it has seen an image" for name in own if is_lazy(own[name]))
    layers = [name for name, part in module.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    if not layers:
        yield "has no nn.Conv2d and no nn.Linear to prune"
    weights = [f"{name}.weight" for name in layers]
    yield from (
        f"has {name}, which is not a separate parameter: it is shared or computed"
        for name in weights
        if name not in own
    )
    yield from (f"has {name} in {p.dtype}, not float32" for name, p in own.items() if p.dtype != torch.float32)
    unsaved = set(dict(module.named_buffers())) - set(module.state_dict())
    yield from (f"has a buffer that is not saved: {name}" for name in sorted(unsaved))
