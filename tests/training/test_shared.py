"""One setting of the process, several threads that want it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations, product
from typing import Any

import pytest
import torch
from trainings import SETTINGS, Keeper, network

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.kernels import Shared, reproducible
from rewindctl.training.loop import evaluate, train

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


BACKENDS: Any = torch.backends
FLOAT32 = (BACKENDS.cudnn.conv, BACKENDS.cuda.matmul, BACKENDS.mkldnn.conv, BACKENDS.mkldnn.matmul)


@pytest.fixture
def rounded() -> Iterator[tuple[str, ...]]:
    """A process that has told PyTorch to round what it multiplies, as a notebook may."""
    before = [part.fp32_precision for part in FLOAT32]
    torch.set_float32_matmul_precision("medium")
    BACKENDS.cudnn.conv.fp32_precision, BACKENDS.mkldnn.conv.fp32_precision = "tf32", "bf16"
    try:
        yield precisions()
    finally:
        torch.set_float32_matmul_precision("highest")
        for part, precision in zip(FLOAT32, before, strict=True):
            part.fp32_precision = precision


def precisions() -> tuple[str, ...]:
    return tuple(part.fp32_precision for part in FLOAT32)


def test_every_evaluation_is_in_whole_float32_whatever_the_process_is_set_to(rounded: tuple[str, ...]) -> None:
    """By its only door: no caller can forget it. The settings of a GPU are there without one."""
    data, value, seen = DeviceData.upload(load_dataset("digits"), torch.device("cpu")), network(), []
    value.register_forward_hook(lambda *_: seen.append(precisions()))
    assert "ieee" not in rounded
    found = evaluate(value, data)
    assert set(seen) == {("ieee",) * len(FLOAT32)}
    assert precisions() == rounded
    with reproducible(GPU, False):
        assert evaluate(value, data) == found
        assert precisions() == ("ieee",) * len(FLOAT32)
    assert precisions() == rounded


def test_a_training_in_float32_is_the_same_whatever_the_process_is_set_to(rounded: tuple[str, ...]) -> None:
    data = DeviceData.upload(load_dataset("digits"), torch.device("cpu"))
    start, seen, value = TrainState.initial(network()), [], network()
    value.register_forward_hook(lambda *_: seen.append(precisions()))
    train(value, data, SETTINGS, start, Keeper())
    assert set(seen) == {("ieee",) * len(FLOAT32)}
    assert precisions() == rounded


@pytest.mark.parametrize("choices", list(product([True, False], repeat=3)))
def test_kernels_are_deterministic_as_long_as_one_of_several_wants_it(choices: tuple[bool, ...]) -> None:
    """In whatever order they leave: the last undoes everything, and none takes from another what it asked for."""

    def state() -> tuple[int, bool, tuple[str, ...]]:
        return torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark, precisions()

    before = state()
    for leaving in permutations(range(3)):
        entered = [reproducible(GPU, choice) for choice in choices]
        inside: list[bool] = []
        for one, choice in zip(entered, choices, strict=True):
            one.__enter__()
            inside.append(choice)
            assert state() == (int(any(inside)), not any(inside), ("ieee",) * len(FLOAT32))
        left = set(range(3))
        for index in leaving:
            entered[index].__exit__(None, None, None)
            left.remove(index)
            wanted = any(choices[one] for one in left)
            assert state() == ((int(wanted), not wanted, ("ieee",) * len(FLOAT32)) if left else before)
