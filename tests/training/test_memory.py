"""The bound on what a training takes: above what it really takes, not far above, and never smaller for more."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from rewindctl.models import Network, NetworkConfig, build_network
from rewindctl.models.build import require_logits
from rewindctl.training import memory
from rewindctl.training.memory import Footprint, footprint, free_bytes

CONFIG = NetworkConfig(3, 10, 0.1, 1e-5)
CPU = torch.device("cpu")


def network(name: str) -> Network:
    return build_network(name, CONFIG, seed=0).to(memory_format=torch.channels_last)


def measured_peak(trained: Network, size: int, batch: int) -> int:
    """Bytes that PyTorch's allocator has given out at once during a step, without those that were there before."""
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        cross_entropy(trained.train()(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()  # makes the momentum
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step()
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize(("name", "size"), [("resnet8", 16), ("wrn10_2", 16)])
@pytest.mark.parametrize("batch", [8, 64])
def test_a_real_step_stays_below_the_bound_and_above_half_of_it(name: str, size: int, batch: int) -> None:
    foot = footprint(network(name), (3, size, size), train_size=0)
    gradients = sum(parameter.nbytes for parameter in network(name).parameters())
    peak = measured_peak(network(name), size, batch)
    assert 0.5 * (gradients + batch * foot.sample) < peak <= gradients + batch * foot.sample


FEET = st.builds(Footprint, *[st.integers(0, 10**9)] * 5)


@given(FEET, st.integers(1, 10_000), st.integers(0, 10_000))
def test_a_larger_batch_takes_no_less(foot: Footprint, batch: int, more: int) -> None:
    assert foot.on_device(batch) <= foot.on_device(batch + more)
    assert foot.on_device(batch) <= foot.on_cpu(batch)


def test_larger_images_networks_and_data_sets_take_more() -> None:
    small = footprint(network("resnet8"), (3, 8, 8), 1_000)
    for other in (
        footprint(network("resnet8"), (3, 16, 16), 1_000),
        footprint(network("resnet14"), (3, 8, 8), 1_000),
        footprint(network("resnet8"), (3, 8, 8), 2_000),
    ):
        assert other.on_device(32) > small.on_device(32)
        assert other.on_cpu(32) > small.on_cpu(32)


def test_nothing_of_the_network_is_changed_by_measuring_it() -> None:
    before = {name: tensor.clone() for name, tensor in network("resnet8").state_dict().items()}
    watched = network("resnet8").eval()
    footprint(watched, (3, 8, 8), 0)
    assert not watched.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in watched.state_dict().items())


class Choosy(nn.Module):
    """A network that looks at values, as none can be on the meta device."""

    def __init__(self, choose: bool) -> None:
        super().__init__()
        self.choose = choose
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        scale = 1.0 if not self.choose or float(x.detach().sum()) > 0 else 2.0
        logits: Tensor = self.head((x * scale).mean(dim=(2, 3)))
        return logits


def test_a_network_that_looks_at_values_is_measured_too() -> None:
    plain, choosy = Choosy(False), Choosy(True)
    require_logits("choosy", choosy, 3, (8, 8), 10)
    found, like = footprint(choosy, (3, 8, 8), 0), footprint(plain, (3, 8, 8), 0)
    assert like.sample <= found.sample <= 1.1 * like.sample


def test_what_is_free_is_read_where_the_system_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    machine = free_bytes(CPU)  # no container
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000\n")
    assert (free_bytes(CPU) is None) == (machine is None)
    (tmp_path / "memory.max").write_text("7000\n")
    (tmp_path / "memory.stat").write_text("anon 10\ninactive_file 1000\n")
    assert free_bytes(CPU) == 3000
    (tmp_path / "memory.current").write_text("9000\n")
    assert free_bytes(CPU) == 0
