"""Whether a network can be trained by kernels of our own, whole or in part.

The parts are batch norms that a ReLU follows, found in the graph of the forward pass of a network of any kind.
"""

import copy
import operator
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node, Proxy
from torch.nn import functional

from rewindctl.models.network import BUILDING, OwnThread
from rewindctl.models.resnet import ResNet
from rewindctl.models.wrn import WideResNet

ADDITIONS = (operator.add, torch.add, operator.iadd)
ADDING = ("add", "add_")
IN_PLACE = (operator.iadd, "add_")
RELUS = (torch.relu, torch.relu_, functional.relu, functional.relu_)
RELU = ("relu", "relu_")
LEAST_CHANNELS = 16  # and a multiple of it: fewer lie too near each other to be read side by side
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class UntracedError(Exception):
    """Why the graph of a network does not make what the network makes."""


@dataclass(frozen=True)
class Pair:
    """The calls that kernels take the place of: a norm, perhaps an addition, a ReLU."""

    calls: tuple[Node, ...]

    @property
    def name(self) -> str:
        return str(self.calls[0].target)

    @property
    def given(self) -> tuple[Node, ...]:
        """What the norm reads, and what is added."""
        norm, *others = self.calls[:-1]
        added = (node for addition in others for node in addition.all_input_nodes if node is not norm)
        return (*norm.all_input_nodes, *added)


def traced(network: nn.Module) -> GraphModule:
    """The forward pass of a network in training, of the network's own layers and tensors. Raises: UntracedError.

    What Python decides is as it was here; what its code computes without the images is refused, since here it would
    be computed once. A copy is traced, for whatever the pass may leave in its modules.
    """
    if any(getattr(network, hooks) for hooks in HOOKS):
        raise UntracedError("it has hooks")
    if any(module._backward_hooks or module._backward_pre_hooks for module in network.modules()):
        raise UntracedError("it has hooks in its backward pass")
    try:
        with BUILDING, _as_in_training():
            graph = _Whole().trace(copy.deepcopy(network).train())
        made = GraphModule(network, graph)
    except Exception as error:  # control flow on values, and whatever else cannot be traced
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise UntracedError(f"its forward pass cannot be traced: {why}") from error
    return made


def pairs(network: GraphModule) -> list[Pair]:
    """Each batch norm with a ReLU after it, perhaps of the sum of it and something else, that nobody else reads."""
    calls = Counter(str(node.target) for node in network.graph.nodes if node.op == "call_module")
    found, taken = [], set[Node]()
    for node in network.graph.nodes:
        if node.op != "call_module" or calls[str(node.target)] != 1 or len(node.args) != 1 or node.kwargs:
            continue
        pair = _pair(network, node) if fits(network.get_submodule(str(node.target))) else None
        if pair and taken.isdisjoint(pair.calls):  # of two norms that are added the first
            found.append(pair)
            taken.update(pair.calls)
    return found


def why_none(network: nn.Module) -> str:
    """Why no batch norm of a network can be made by kernels of our own; empty where one can be."""
    try:
        found = pairs(traced(network))
    except UntracedError as error:
        return str(error)
    return "" if found else "its batch norms are not followed by a ReLU that our kernels know"


def fits(norm: nn.Module) -> bool:
    """Whether it is a batch norm as kernels make it, and nobody looks at what goes through."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.num_features % LEAST_CHANNELS == 0
        and not any(getattr(norm, hooks) for hooks in HOOKS)
    )


def _pair(network: GraphModule, norm: Node) -> Pair | None:
    last, calls = _only_user(norm), [norm]
    if last is not None and _is_addition(last):
        one, other = last.args
        if not isinstance(one, Node) or not isinstance(other, Node) or one is other:
            return None
        if other is norm and last.target in IN_PLACE:  # writes into what somebody else may read
            return None
        calls.append(last)
        last = _only_user(last)
    return Pair((*calls, last)) if last is not None and _is_relu(network, last) else None


def _only_user(node: Node) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _is_addition(node: Node) -> bool:
    known = {"call_function": ADDITIONS, "call_method": ADDING}.get(node.op, ())
    return node.target in known and len(node.args) == 2 and not node.kwargs


def _is_relu(network: GraphModule, node: Node) -> bool:
    if len(node.all_input_nodes) != 1:
        return False
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        return type(module) is nn.ReLU and not any(getattr(module, hooks) for hooks in HOOKS)
    return node.target in {"call_function": RELUS, "call_method": RELU}.get(node.op, ())


class _Whole(OwnThread):
    """Records all that a pass does, buffers and writing in place too; refuses what a graph cannot say."""

    proxy_buffer_attributes = True

    def proxy(self, node: Node) -> "_Written":
        return _Written(node, self)

    def create_node(self, *given: Any, **more: Any) -> Node:
        if not _is_as_in_training():
            raise RuntimeError("a part of it disables gradients or autocast")
        return super().create_node(*given, **more)


class _Written(Proxy):
    """`a += b` writes into a."""

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, other)

    def _in_place(self, target: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})


AUTOCAST = ("cpu", "cuda")


@contextmanager
def _as_in_training() -> Iterator[None]:
    """With gradients and autocast, so that a part of a pass that is without either is seen."""
    before = [torch.is_autocast_enabled(kind) for kind in AUTOCAST]
    try:
        with torch.enable_grad():
            for kind in AUTOCAST:
                torch.set_autocast_enabled(kind, True)
            yield
    finally:
        for kind, enabled in zip(AUTOCAST, before, strict=True):
            torch.set_autocast_enabled(kind, enabled)


def _is_as_in_training() -> bool:
    return torch.is_grad_enabled() and all(map(torch.is_autocast_enabled, AUTOCAST))


OLDEST_CAPABILITY = (8, 0)  # of a CUDA device: bf16 matrix units, copies that need no registers


def missing_part(device: torch.device) -> str:
    """What a machine lacks for kernels of our own; empty where it has all."""
    if find_spec("triton") is None:
        return "Triton is not installed (PyTorch brings it on Linux, with CUDA)"
    if device.type != "cuda":
        return "they need a CUDA device"
    if torch.version.hip is not None:
        return "they need an NVIDIA GPU"
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return "the GPU is too old for them"
    return ""


def is_whole(network: nn.Module) -> bool:
    """Whether there are kernels for all of a network; of others they make batch norms with their ReLU alone."""
    return type(network) in (ResNet, WideResNet)


def unfit(network: nn.Module) -> str:
    """Why a network cannot be trained by kernels of our own; empty where it can be."""
    return "" if is_whole(network) else why_none(network)


def structure(network: nn.Module) -> str:
    """What tells a network from others that have parameters of the same names and shapes."""
    return type(network).__name__ if is_whole(network) else f"{network} {traced(network).code}"
