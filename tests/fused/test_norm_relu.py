"""Batch norm and ReLU between PyTorch's operations: against PyTorch in float64, and where they are found."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fused.fused_parts import APART, DEVICE, near
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from rewindctl.fused import norm_relu
from rewindctl.fused.norm_relu import NormRelu, NormThenRelu, with_kernels
from rewindctl.fused.pairs import UntracedError, pairs, traced, why_none
from rewindctl.training.kernels import reproducible

LAST = torch.channels_last


@pytest.fixture(autouse=True)
def float32() -> Iterator[None]:
    with reproducible(DEVICE, deterministic=True):
        yield


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor that kernels are to write is NaN before."""

    def empty(*shape: Any, **more: Any) -> Tensor:
        return torch.full(shape[0] if isinstance(shape[0], tuple) else shape, torch.nan, **more)

    def empty_like(like: Tensor, **more: Any) -> Tensor:
        return torch.full_like(like, torch.nan, **more)

    class Poisoned:
        def __getattr__(self, name: str) -> Any:
            return {"empty": empty, "empty_like": empty_like}.get(name) or getattr(torch, name)

    monkeypatch.setattr(norm_relu, "torch", Poisoned())


@pytest.mark.parametrize("added", [False, True], ids=["alone", "added"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("shape", "programs"),
    [((3, 32, 5, 7), 512), ((2, 10, 3, 3), 512), ((5, 1, 4, 4), 512), ((2, 48, 1, 1), 512), ((40, 64, 6, 5), 4)],
)
def test_forward_gradients_and_statistics(
    shape: tuple[int, ...],
    programs: int,
    dtype: torch.dtype,
    added: bool,
    poisoned: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Channels of all kinds, means far from 0 beside the deviations; several tiles, and several rounds in a tile."""
    monkeypatch.setattr(norm_relu, "PROGRAMS", programs)
    draw = torch.Generator().manual_seed(sum(shape))

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=draw)

    images, channels = shape[0], shape[1]
    x = (random(*shape) * (1 + random(channels, 1, 1).abs()) + 5 * random(channels, 1, 1)).to(dtype)
    beside, dy = (random(*shape).to(dtype) for _ in range(2))
    norm = nn.BatchNorm2d(channels, momentum=0.3, eps=1e-4)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            assert tensor is not None
            tensor.add_(random(channels))
    wanted_of = nn.BatchNorm2d(channels, momentum=0.3, eps=1e-4).double()
    wanted_of.load_state_dict(norm.state_dict())
    exact = [tensor.double().requires_grad_() for tensor in (x, beside)]
    made = wanted_of(exact[0])
    wanted = relu(made + exact[1] if added else made)
    wanted.backward(dy.double())

    norm.to(DEVICE)
    given = [tensor.to(DEVICE).to(memory_format=LAST).requires_grad_() for tensor in (x, beside)]
    found = NormThenRelu(norm)(*given[: 2 if added else 1])
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=LAST)
    assert "NormRelu" in type(found.grad_fn).__name__
    found.backward(dy.to(DEVICE))  # not channels-last
    near(found, wanted, APART[dtype])
    if images * shape[2] * shape[3] == 2:  # of two values a norm makes -1 and 1, whose gradients are rounding
        return
    turned = 4 * APART[dtype]  # a ReLU that rounding turns over is a whole gradient more or less
    pairs_of = [(given[0].grad, exact[0].grad), (norm.weight.grad, wanted_of.weight.grad)]
    pairs_of += [(norm.bias.grad, wanted_of.bias.grad), *([(given[1].grad, exact[1].grad)] if added else [])]
    for one, other in pairs_of:
        assert one is not None
        assert other is not None
        near(one, other, turned)
    for name, value in wanted_of.named_buffers():
        near(norm.get_buffer(name), value.double(), 1e-5)
    assert norm.num_batches_tracked == 1


def test_the_same_bytes_twice_and_nan_is_seen() -> None:
    x = torch.randn(16, 32, 8, 8, device=DEVICE).to(memory_format=LAST)

    def made(x: Tensor) -> tuple[Tensor, ...]:
        norm, x = nn.BatchNorm2d(32).to(DEVICE), x.clone().requires_grad_()
        found = NormThenRelu(norm)(x, x)
        found.square().sum().backward()
        assert x.grad is not None
        assert norm.weight.grad is not None
        return found.detach(), x.grad, norm.weight.grad

    assert all(torch.equal(one, other) for one, other in zip(made(x), made(x), strict=True))
    x[0, 3, 0, 0] = torch.nan
    found = made(x)[0]
    assert found[:, 3].isnan().all()
    assert not found[:, 4].isnan().any()


def test_what_kernels_do_not_take_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation, another layout, type or shape: its operations, its bytes, its words."""
    monkeypatch.setattr(NormRelu, "apply", None)
    norm = nn.BatchNorm2d(16).to(DEVICE)
    fused = NormThenRelu(norm)
    x = torch.randn(4, 16, 3, 3, device=DEVICE)
    lasting = x.to(memory_format=LAST)
    for given in ((x,), (lasting, x), (lasting, lasting[:, :1]), (lasting, lasting.double()), (lasting, 2.0)):
        own = nn.BatchNorm2d(16).to(DEVICE)
        wanted = own(given[0])
        assert torch.equal(fused(*given), relu(wanted + given[1] if len(given) > 1 else wanted))
    assert norm.num_batches_tracked == 5
    norm.eval()
    assert torch.equal(fused(lasting), relu(norm(lasting)))
    norm.train()
    with pytest.raises(ValueError, match="more than 1 value"):
        fused(lasting[:1, :, :1, :1].contiguous(memory_format=LAST))


class Block(nn.Module):
    """Post-activation, with whatever is done to the norm of its second convolution."""

    def __init__(self, after: Callable[["Block", Tensor, Tensor], Tensor], channels: int = 16) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.last = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.relu, self.after = nn.ReLU(inplace=True), after

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.relu(self.norm(self.first(x))))
        return self.after(self, self.last(y), x)


def iadd(own: Block, y: Tensor, x: Tensor) -> Tensor:
    y += x
    return own.relu(y)  # type: ignore[no-any-return]


def iadd_other(own: Block, y: Tensor, x: Tensor) -> Tensor:
    z = x.clone()
    z += y
    return relu(z)


def hooked(network: nn.Module) -> nn.Module:
    network.get_submodule("last").register_forward_hook(lambda *_: None)
    return network


def without(network: nn.Module, **changed: Any) -> nn.Module:
    network.get_submodule("last").__dict__.update(changed)
    return network


class PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.second = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.norm, self.last = nn.BatchNorm2d(16), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(self.norm(x).relu())
        return self.second(self.last(y).relu_()) + x  # type: ignore[no-any-return]


class CalledTwice(PreActivation):
    def forward(self, x: Tensor) -> Tensor:
        return relu(self.last(self.convolution(relu(self.last(x)))))


ADDED, ALONE, NONE = (("norm", 1), ("last", 2)), (("norm", 1), ("last", 1)), (("norm", 1),)


@pytest.mark.parametrize(
    ("network", "wanted"),
    [
        (Block(lambda own, y, x: relu(y + x)), ADDED),
        (Block(lambda own, y, x: relu(x + y, inplace=True)), ADDED),
        (Block(lambda own, y, x: torch.relu_(torch.add(x, y))), ADDED),
        (Block(lambda own, y, x: own.relu(y.add_(x))), ADDED),
        (Block(lambda own, y, x: y.add(own.norm.bias.view(-1, 1, 1)).relu()), ADDED),
        (Block(iadd), ADDED),
        (Block(lambda own, y, x: own.relu(y) + x), ALONE),
        (PreActivation(), ALONE),
        (nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.BatchNorm2d(16), nn.ReLU()), None),
        (Block(iadd_other), NONE),
        (Block(lambda own, y, x: relu(y) + y), NONE),
        (Block(lambda own, y, x: relu(y + y)), NONE),
        (Block(lambda own, y, x: relu(y + 1)), NONE),
        (Block(lambda own, y, x: relu(torch.add(y, x, alpha=2))), NONE),
        (Block(lambda own, y, x: leaky_relu(y)), NONE),
        (Block(lambda own, y, x: relu(y * x)), NONE),
        (hooked(Block(lambda own, y, x: relu(y))), NONE),
        (without(Block(lambda own, y, x: relu(y)), momentum=None), NONE),
        (without(Block(lambda own, y, x: relu(y)), track_running_stats=False), NONE),
        (CalledTwice(), ()),
        (Block(lambda own, y, x: relu(y + x), channels=8), ()),
    ],
)
def test_where_they_are_found(network: nn.Module, wanted: tuple[tuple[str, int], ...] | None) -> None:
    """By the norm's name, with how much the kernels read; the pass makes what the network makes, and its gradient."""
    found = pairs(traced(network))
    assert tuple((pair.name, len(pair.given)) for pair in found) == ((("1", 1), ("3", 1)) if wanted is None else wanted)
    assert why_none(network) == ("" if found else "its batch norms are not followed by a ReLU that our kernels know")
    if not found:
        with pytest.raises(UntracedError):
            with_kernels(network)
        return
    assert not hasattr(network, "norm_then_relu_0")
    network.to(DEVICE).to(memory_format=LAST)
    results = []
    for made in (network, with_kernels(network)):
        x = torch.randn(6, 16, 4, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        x = x.contiguous(memory_format=LAST).requires_grad_()
        y = made(x)
        y.square().sum().backward()
        assert x.grad is not None
        results.append((y.detach(), x.grad))
    for one, other in zip(*results, strict=True):
        near(other, one.double().cpu(), 1e-5)


class Without(Block):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.first(x)
        return relu(self.norm(x))


class Unrounded(Block):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            x = self.first(x)
        return relu(self.norm(x))


class Drawing(Block):
    """Computed while it is traced, it would be the same for every batch."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.norm(self.first(x))) * torch.rand(16, 1, 1)


class Choosing(Block):
    def forward(self, x: Tensor) -> Tensor:
        return relu(self.norm(x)) if x.sum() > 0 else x


@pytest.mark.parametrize("kind", [Without, Unrounded, Drawing, Choosing])
def test_what_no_graph_says_is_refused_in_words(kind: type[Block]) -> None:
    network = kind(iadd)
    assert why_none(network).startswith("its forward pass cannot be traced: ")
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_full_backward_hook"])
def test_hooks_of_the_whole_are_refused(hook: str) -> None:
    network = Block(iadd)
    getattr(network, hook)(lambda *_: None)
    assert why_none(network) == "it has hooks"
    network = Block(iadd)
    network.first.register_full_backward_hook(lambda *_: None)
    assert why_none(network) == "it has hooks in its backward pass"


class Counting(Block):
    """Writes into a buffer of its own, and leaves what it saw in itself."""

    def __init__(self) -> None:
        super().__init__(iadd)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)  # type: ignore[operator]
        self.seen = x
        return super().forward(x)


def test_a_buffer_of_its_own_is_written_at_each_pass_and_not_by_tracing() -> None:
    network = Counting().to(DEVICE)
    made = with_kernels(network)
    assert network.calls == 0
    assert not hasattr(network, "seen")
    for _ in range(2):
        made(torch.randn(2, 16, 3, 3, device=DEVICE))
    assert network.calls == 2
    assert network.norm.num_batches_tracked == 2
