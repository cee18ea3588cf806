"""What a process uses, measured now and then."""

import resource
import time

import pytest
import torch

from rewindctl.training import device as usage
from rewindctl.training.device import Usage

CPU = {"system/process_cpu_percentage", "system/process_memory_megabytes"}


def test_the_first_call_measures_and_the_next_waits() -> None:
    measured = Usage(torch.device("cpu"))
    assert set(measured.measure()) == CPU
    assert measured.measure() == {}


def test_it_measures_again_when_the_time_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MEASURE_SECONDS", 0.0)
    measured = Usage(torch.device("cpu"))
    assert set(measured.measure()) == set(measured.measure()) == CPU


def test_memory_is_what_the_process_holds_and_no_more_than_it_ever_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MEASURE_SECONDS", 0.0)
    held = torch.ones(25_000_000)  # 100 MB
    measured = Usage(torch.device("cpu")).measure()["system/process_memory_megabytes"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / usage.MEGABYTE
    assert measured is not None
    assert held.nbytes / usage.MEGABYTE < measured <= 1.05 * peak


def test_a_process_that_sleeps_uses_no_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MEASURE_SECONDS", 0.0)
    measured = Usage(torch.device("cpu"))
    measured.measure()
    time.sleep(0.2)
    share = measured.measure()["system/process_cpu_percentage"]
    assert share is not None
    assert 0 <= share < 50


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_its_own_memory_is_measured() -> None:
    device = torch.device("cuda", 0)
    held = torch.ones(25_000_000, device=device)
    measured = Usage(device).measure()
    memory, peak = measured["system/gpu_memory_megabytes"], measured["system/gpu_memory_peak_megabytes"]
    assert memory is not None
    assert peak is not None
    assert peak >= memory >= held.nbytes / usage.MEGABYTE
    share = measured["system/gpu_utilization_percentage"]
    assert share is None or 0 <= share <= 100
