"""One setting of the process, several threads that want it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from trainings import SETTINGS, Keeper, network

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.kernels import reproducible
from rewindctl.training.loop import train
from rewindctl.training.shared import Shared

GPU = torch.device("cuda", 0)  # only its settings, which can be made where there is none


def test_it_is_made_by_the_first_and_undone_by_the_last() -> None:
    told: list[str] = []

    @contextmanager
    def setting() -> Iterator[None]:
        told.append("made")
        yield
        told.append("undone")

    shared = Shared(setting)
    for _ in range(2):
        with shared:
            inside = threading.Thread(target=shared.__enter__)
            inside.start()
            inside.join()
        assert told == ["made"]
        with pytest.raises(ZeroDivisionError), shared:
            raise ZeroDivisionError
        assert told == ["made"]
        shared.__exit__()
        assert told == ["made", "undone"]
        told.clear()


def test_kernels_are_deterministic_until_the_last_training_on_a_gpu_ends() -> None:
    def state() -> tuple[int, bool, bool]:
        filled = torch.utils.deterministic.fill_uninitialized_memory
        return torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark, filled

    before = state()
    with reproducible(torch.device("cpu"), True):
        assert state() == before
    first, second = reproducible(GPU, True), reproducible(GPU, True)
    first.__enter__()
    second.__enter__()
    assert state() == (1, False, False)
    first.__exit__(None, None, None)
    assert state() == (1, False, False)
    second.__exit__(None, None, None)
    assert state() == before


@pytest.mark.parametrize("before", [True, False])
def test_new_memory_is_filled_after_an_error_as_it_was_before(monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", before)
    with pytest.raises(ZeroDivisionError), reproducible(GPU, True):
        raise ZeroDivisionError
    assert torch.utils.deterministic.fill_uninitialized_memory == before


def test_what_new_memory_holds_decides_no_byte() -> None:
    """A training in which each new tensor is filled with NaN, and one in which none is."""
    data = DeviceData.upload(load_dataset("digits"), torch.device("cpu"))
    start, ends = TrainState.initial(network()), []
    for filled in (True, False):
        with reproducible(GPU, True):
            torch.utils.deterministic.fill_uninitialized_memory = filled
            assert not filled or torch.empty(8).isnan().all()
            end = train(network(), data, SETTINGS, start, Keeper()).state
        ends.append([*end.parameters.values(), *end.buffers.values(), *end.momentum.values()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
