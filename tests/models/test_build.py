"""An ordinary nn.Module becomes a network, or is refused with the reason."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.parametrizations import weight_norm

from rewindctl.datasets import register_dataset
from rewindctl.errors import UnknownNameError, UsageError
from rewindctl.models import NetworkConfig, build_network, kernels, models, register_model
from rewindctl.models.build import derived_norm_after, require_logits

CONFIG = NetworkConfig(in_channels=1, classes=4, norm_momentum=0.3, norm_epsilon=1e-2)
NAME = "one-of-the-tests"
Register = Callable[[Callable[[NetworkConfig], object]], None]


class Ordinary(nn.Module):
    """A convolution read by a norm alone, one read twice, a bias everywhere, a parameter of its own."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.first = nn.Conv2d(config.in_channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.other_norm = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.rand(4))
        self.hidden = nn.Linear(4, 8)
        self.head = nn.Linear(8, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.norm(self.first(x)))
        y = self.second(x)
        x = (self.other_norm(y) + y).mean(dim=(2, 3)) * self.scale
        logits: Tensor = self.head(relu(self.hidden(x)))
        return logits


class Branching(Ordinary):
    """Control flow on values: not to be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


@pytest.fixture
def registered() -> Register:
    """Registers a constructor under `NAME` for one test."""

    def register(make: Callable[[NetworkConfig], object]) -> None:
        register_model(NAME)(make)  # type: ignore[type-var]

    yield register  # type: ignore[misc]
    models._entries.pop(NAME, None)


def test_an_ordinary_module_is_a_network(registered: Register) -> None:
    registered(Ordinary)
    network = build_network(NAME, CONFIG, 0)
    assert list(kernels(network)) == ["first.weight", "second.weight", "hidden.weight", "head.weight"]
    assert network.norm_after == {"first": "norm"}  # the other norm is not the only reader
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [(norm.momentum, norm.eps) for norm in norms] == [(0.3, 1e-2)] * 2
    biases = [p for name, p in network.named_parameters() if name.endswith("bias") and "norm" not in name]
    assert len(biases) == 4
    assert not any(bias.any() for bias in biases)


def test_the_seed_decides_every_parameter_and_leaves_the_generator_alone(registered: Register) -> None:
    registered(Ordinary)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (build_network(NAME, CONFIG, seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["scale"], other["scale"])


def test_a_module_may_keep_the_weights_it_comes_with(registered: Register) -> None:
    def pretrained(config: NetworkConfig) -> nn.Module:
        module = Ordinary(config)
        module.keeps_initial_weights = True  # type: ignore[assignment]
        nn.init.constant_(module.first.weight, 7.0)
        return module

    registered(pretrained)
    assert bool((build_network(NAME, CONFIG, 0).get_parameter("first.weight") == 7).all())


def test_a_given_norm_after_is_kept(registered: Register) -> None:
    class Given(Ordinary):
        norm_after = {"second": "other_norm"}  # noqa: RUF012

    registered(Given)
    assert build_network(NAME, CONFIG, 0).norm_after == {"second": "other_norm"}


@pytest.mark.parametrize("name", ["resnet8", "wrn10_2"])
def test_what_is_derived_is_what_our_networks_declare(name: str) -> None:
    network = build_network(name, CONFIG, 0)
    assert derived_norm_after(network) == network.norm_after


def test_a_module_that_cannot_be_traced_has_an_empty_norm_after(registered: Register) -> None:
    registered(Branching)
    assert build_network(NAME, CONFIG, 0).norm_after == {}


def changed(change: Callable[[Ordinary], object]) -> Callable[[NetworkConfig], nn.Module]:
    def make(config: NetworkConfig) -> nn.Module:
        module = Ordinary(config)
        change(module)
        return module

    return make


def tie(module: Ordinary) -> None:
    module.head = nn.Linear(8, 8)
    module.extra = nn.Linear(8, 8)
    module.extra.weight = module.head.weight


REFUSED: dict[str, tuple[Callable[[NetworkConfig], object], str]] = {
    "no module": (lambda config: "resnet", "is a str, not an nn.Module"),
    "no kernels": (lambda config: nn.BatchNorm2d(3), "has no nn.Conv2d and no nn.Linear to prune"),
    "lazy": (lambda config: nn.LazyLinear(4), "does not know the shape of weight"),
    "tied": (changed(tie), "has extra.weight, which is not a separate parameter"),
    "computed": (
        changed(lambda module: weight_norm(module.head)),
        "has head.weight, which is not a separate parameter",
    ),
    "double": (changed(lambda module: module.double()), "in torch.float64, not float32"),
    "buffer": (
        changed(lambda module: module.register_buffer("grid", torch.ones(2), persistent=False)),
        "has a buffer that is not saved: grid",
    ),
    "constructor": (lambda: Ordinary(CONFIG), "cannot be built: TypeError"),  # type: ignore[dict-item,misc]
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_pruned_is_refused_with_the_reason(registered: Register, case: str) -> None:
    make, words = REFUSED[case]
    registered(make)
    with pytest.raises(UsageError) as caught:
        build_network(NAME, CONFIG, 0)
    assert caught.value.message.startswith(f"model {NAME!r} ")
    assert words in caught.value.message
    assert "register_model" in caught.value.hint


def test_a_constructor_may_refuse_in_its_own_words(registered: Register) -> None:
    def refuse(config: NetworkConfig) -> nn.Module:
        raise UsageError("only for 3 channels")

    registered(refuse)
    with pytest.raises(UsageError, match=r"^only for 3 channels$"):
        build_network(NAME, CONFIG, 0)
    with pytest.raises(UnknownNameError):
        build_network(f"{NAME}-2", CONFIG, 0)


def test_a_network_must_make_logits_of_the_images_it_is_to_see() -> None:
    network = Ordinary(CONFIG)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    require_logits(NAME, network, 1, (8, 8), 4)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with pytest.raises(UsageError, match=rf"model '{NAME}' makes \(2, 4\) of 2 images of 1x8x8"):
        require_logits(NAME, network, 1, (8, 8), 5)
    with pytest.raises(UsageError, match=f"model '{NAME}' fails on images of 3x8x8: "):
        require_logits(NAME, network, 3, (8, 8), 4)


@pytest.mark.parametrize("name", ["", "my net", "a/b", "it's", "r\u00e9seau", "x@y"])
def test_a_name_must_do_everywhere(name: str) -> None:
    for register in (register_model, register_dataset):
        with pytest.raises(UsageError, match="cannot name a"):
            register(name)


# Several threads: one builds while others train


class Interfering(Ordinary):
    """While it is traced, or built, another thread uses networks of its own."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = beside(lambda: network_of_another_thread(torch.ones(1, 1, 6, 6)).shape)
        return super().forward(x)


network_of_another_thread = Ordinary(CONFIG).eval()


def beside(work: Callable[[], object]) -> object:
    """What `work` does in another thread, meanwhile."""
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(work()))
    thread.start()
    thread.join()
    return done[0]


def test_a_network_at_work_in_another_thread_is_not_traced() -> None:
    traced = Interfering(CONFIG)
    assert derived_norm_after(traced) == {"first": "norm"}
    assert traced.seen == (1, 4)


def test_networks_built_at_once_are_those_built_in_turn(registered: Register) -> None:
    registered(Ordinary)  # whose scale the process's generator draws
    alone = {seed: build_network(NAME, CONFIG, seed).state_dict() for seed in range(4)}
    together: dict[int, dict[str, Tensor]] = {}

    def build(seed: int) -> None:
        together[seed] = build_network(NAME, CONFIG, seed).state_dict()

    threads = [threading.Thread(target=build, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, state in alone.items():
        assert all(torch.equal(state[name], together[seed][name]) for name in state)
