"""The passes of an update in fewer kernels, with the bytes of the plain ones: what costs a kernel a layer is put off.

While the passes run, other tensors stand in the network for two kinds of its own:

- A batch norm counts its batches on the device, by a kernel. Here a number on the host counts, and the counters are
  brought up to date when somebody looks.
- Autocast rounds each weight by a kernel, and converts its gradient by another. Here weights that were rounded all at
  once stand in, and their gradients are converted all at once.

Both are right only where nothing else in the forward pass sees the difference, and so each is watched. That is cheap
for a CUDA graph, which replays the one pass that was watched.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from rewindctl.arithmetic import Precision

COUNTER = "num_batches_tracked"
COUNTING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ROUNDED_FOR = {nn.Conv2d: torch.conv2d, nn.Linear: linear}  # the function that autocast rounds the weights of each for


@dataclass(frozen=True)
class TensorPlace:
    """Where a network holds a tensor of its own, and this tensor."""

    holder: dict[str, Tensor | None]
    name: str
    tensor: Tensor


class Lean:
    """What stands in for what in one network, and how far its counters are behind."""

    def __init__(self, network: nn.Module, precision: Precision, device: torch.device) -> None:
        self._device = device
        self._counters, self._counts = list(_counters(network)), list[int]()
        self._behind = [0] * len(self._counters)
        self._weights = list(_weights(network)) if precision == "bf16" else []
        self._chosen = not self._weights

    def backward(self, loss: Callable[[], Tensor]) -> None:
        """As `loss().backward()`, to the byte; the first in bf16 is just that, and chooses by what it sees.

        Raises: RuntimeError, and whatever else the network may raise, where it looks at what stands in.
        """
        if not self._chosen:
            with _Watch(self._device, (place.tensor for place in self._weights)) as watch:
                made = loss()
            self._weights = [place for place in self._weights if watch.is_only_rounded(place.tensor)]
            self._chosen = True
            made.backward()
            return
        tallies, rounded = [Tally.zero() for _ in self._counters], _rounded(self._weights)
        with _standing_in(self._counters, tallies):  # in both passes: the backward one may repeat parts of the other
            with _standing_in(self._weights, rounded), _Watch(self._device, rounded) as watch:
                made = loss()
            if not all(map(watch.is_only_rounded, rounded)):
                raise RuntimeError("the forward pass does not read the weights as it did before")
            made.backward()
        self._counts = [tally.count for tally in tallies]
        _convert_gradients(self._weights, rounded)

    def made(self) -> None:
        """An update was made with the last passes, or their replay."""
        for index, count in enumerate(self._counts):
            self._behind[index] += count

    @torch.no_grad()
    def settle(self) -> None:
        """Bring the counters of the network up to date."""
        for index, place in enumerate(self._counters):
            if self._behind[index]:
                place.tensor.add_(self._behind[index])
                self._behind[index] = 0


class Tally(Tensor):
    """Stands in for a counter: what is added is counted on the host, and nobody may read it."""

    count: int

    @staticmethod
    def zero() -> "Tally":
        tally = Tensor._make_subclass(Tally, torch.empty(0, device="cpu"))
        tally.__dict__["count"] = 0
        return tally

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.add_ or not isinstance(args[0], cls) or args[1:] != (1,) or kwargs:
            raise RuntimeError(f"a counter of batches is only counted up here, not given to {func}")
        args[0].count += 1
        return args[0]


class _Watch(TorchFunctionMode):
    """Sees every call of PyTorch in this thread that is given one of `weights`."""

    def __init__(self, device: torch.device, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self._type = device.type
        self._calls, self._roundings = dict.fromkeys(map(id, weights), 0), Counter[int]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rounding = func in ROUNDED_FOR.values() and torch.is_grad_enabled() and self._in_bf16()
        for given in _all_in((args, kwargs)):
            if id(given) in self._calls:
                self._calls[id(given)] += 1
                self._roundings[id(given)] += rounding
        return func(*args, **(kwargs or {}))

    def _in_bf16(self) -> bool:
        return torch.is_autocast_enabled(self._type) and torch.get_autocast_dtype(self._type) == torch.bfloat16

    def is_only_rounded(self, weight: Tensor) -> bool:
        """Whether it was read once, by a call that autocast rounds it for: twice, and it has a sum of two gradients.

        Reading is whatever can tell which tensor it is, its type or shape too. Without gradients is how a function with
        a backward pass of its own runs.
        """
        return self._calls[id(weight)] == self._roundings[id(weight)] == 1


def _all_in(given: Any) -> Iterator[Any]:
    if isinstance(given, tuple | list):
        for part in given:
            yield from _all_in(part)
    elif isinstance(given, dict):
        yield from _all_in(list(given.values()))
    else:
        yield given


@contextmanager
def _standing_in(places: list[TensorPlace], others: list[Any]) -> Iterator[None]:
    """`others` in these places, past the checks of nn.Module, and then the network's own again."""
    try:
        for place, other in zip(places, others, strict=True):
            place.holder[place.name] = other
        yield
    finally:
        for place in places:
            place.holder[place.name] = place.tensor


def _counters(network: nn.Module) -> Iterator[TensorPlace]:
    """Of every batch norm that counts for nobody: with a momentum of None it reads the count itself."""
    found = _held(module._buffers for module in network.modules())
    for module in network.modules():
        counter = module._buffers.get(COUNTER)
        if type(module) not in COUNTING or module.momentum is None or counter is None:
            continue
        if found[id(counter)] == 1:
            yield TensorPlace(module._buffers, COUNTER, counter)


def _weights(network: nn.Module) -> Iterator[TensorPlace]:
    """Weights and biases of plain layers that no other layer has too; none where a hook may look at a backward pass."""
    found = _held(module._parameters for module in network.modules())
    if any(module._backward_hooks or module._backward_pre_hooks for module in network.modules()):
        return
    for module in network.modules():
        if type(module) in ROUNDED_FOR:
            for name, value in module._parameters.items():
                plain = type(value) is nn.Parameter and value.dtype == torch.float32
                if plain and found[id(value)] == 1 and not _hooked(value):
                    yield TensorPlace(module._parameters, name, value)  # type: ignore[arg-type]


def _hooked(weight: Any) -> bool:
    return bool(weight._backward_hooks or weight._post_accumulate_grad_hooks)


def _held(holders: Iterable[dict[str, Any]]) -> Counter[int]:
    """How many places hold each tensor, by its id."""
    return Counter(id(tensor) for holder in holders for tensor in holder.values())


@torch.no_grad()
def _rounded(weights: list[TensorPlace]) -> list[nn.Parameter]:
    """In bf16, in the memory format of the weight, as autocast makes them."""
    own = [place.tensor for place in weights]
    rounded = [torch.empty_like(weight, dtype=torch.bfloat16) for weight in own]
    if own:
        torch._foreach_copy_(rounded, own)
    return [nn.Parameter(copy, weight.requires_grad) for copy, weight in zip(rounded, own, strict=True)]


@torch.no_grad()
def _convert_gradients(weights: list[TensorPlace], rounded: list[nn.Parameter]) -> None:
    """Give each weight the gradient of what stood in for it."""
    found = [(place.tensor, copy.grad) for place, copy in zip(weights, rounded, strict=True) if copy.grad is not None]
    for weight, _ in found:
        weight.grad = torch.empty_like(weight)
    if found:
        torch._foreach_copy_([weight.grad for weight, _ in found], [gradient for _, gradient in found])  # type: ignore[misc]
