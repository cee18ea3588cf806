"""One setting of the process, several threads that want it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from rewindctl.training.kernels import reproducible
from rewindctl.training.shared import Shared


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
    def state() -> tuple[int, bool]:
        return torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark

    before, gpu = state(), torch.device("cuda", 0)
    with reproducible(torch.device("cpu"), True):
        assert state() == before
    first, second = reproducible(gpu, True), reproducible(gpu, True)
    first.__enter__()
    second.__enter__()
    assert state() == (1, False)
    first.__exit__(None, None, None)
    assert state() == (1, False)
    second.__exit__(None, None, None)
    assert state() == before
