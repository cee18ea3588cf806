"""How many trials at once: what was asked for, where there is memory for it."""

from collections.abc import Callable

import pytest
import torch

from rewindctl.arithmetic import Arithmetic
from rewindctl.checks import lane_speed
from rewindctl.checks.lane_speed import LaneCurve
from rewindctl.datasets.inventory import DataFacts, facts_of
from rewindctl.engines.capacity import (
    MOST_ON_A_GPU,
    PROCESS_BYTES,
    LaneNeed,
    Need,
    choose_jobs,
    lanes_of,
    need_of,
)
from rewindctl.engines.choose import at_once_text, parallel_text
from rewindctl.errors import UsageError
from rewindctl.pipeline.requests import dense_spec
from rewindctl.specs import DenseSpec
from rewindctl.training import step

NEED = Need(on_device=10**9, on_cpu=2 * 10**9, data=10**9)
Gpus = Callable[[int], None]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """As if there were so many GPUs."""

    def pretend(count: int) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)

    return pretend


def chosen(asked: int | None, trials: int, device: str, free: int | None) -> tuple[int, list[str]]:
    said: list[str] = []
    return choose_jobs(asked, trials, device, NEED, said.append, lambda place: free), said


PLENTY = 10**15


def test_on_a_cpu_one_at_a_time_unless_asked_for_more() -> None:
    assert chosen(None, 8, "cpu", PLENTY) == (1, [])
    assert chosen(3, 8, "cpu", PLENTY) == (3, [])
    assert chosen(8, 3, "cpu", PLENTY) == (3, [])
    assert chosen(1, 8, "cpu", 0) == (1, [])  # as it always was: nobody is refused a single training


def test_what_does_not_fit_is_refused_with_the_number_that_does() -> None:
    each = NEED.on_cpu + NEED.data + PROCESS_BYTES
    free = int(2.5 * each / 0.9)
    assert chosen(2, 8, "cpu", free) == (2, [])
    with pytest.raises(UsageError) as refused:
        chosen(3, 8, "cpu", free)
    assert refused.value.message.startswith("--jobs 3: 3 trials at once do not fit: each takes about 4.0 GB, ")
    assert refused.value.hint == "give --jobs 2"
    with pytest.raises(UsageError) as refused:
        chosen(2, 8, "cpu", 0)
    assert refused.value.hint == "give --jobs 1"


def test_where_the_system_does_not_tell_what_is_free_nothing_is_refused() -> None:
    assert chosen(6, 8, "cpu", None) == (6, [])


def test_one_gpu_has_as_many_as_fit_into_it_and_says_when_they_are_fewer(gpus: Gpus) -> None:
    gpus(1)
    assert chosen(None, 5, "auto", PLENTY) == (5, [])
    assert chosen(None, 50, "auto", PLENTY) == (MOST_ON_A_GPU, [])
    assert chosen(50, 50, "auto", PLENTY) == (50, [])
    count, said = chosen(None, 50, "auto", 6 * 10**9)
    assert 1 < count < MOST_ON_A_GPU
    assert said == [f"{count} at once, not {MOST_ON_A_GPU}: each takes about 1.3 GB, 6.0 GB are free on cuda:0"]
    count, said = chosen(None, 50, "auto", 10**6)
    assert (count, len(said)) == (1, 1)
    with pytest.raises(UsageError, match="free on cuda:0"):
        chosen(50, 50, "cuda:0", 6 * 10**9)


def test_trials_in_one_process_share_the_data_and_the_context(gpus: Gpus) -> None:
    free = 8 * 10**9
    gpus(1)
    together, _ = chosen(None, 50, "auto", free)
    gpus(2)
    apart = max(jobs for jobs in range(1, 50) if fits(jobs, free))
    assert together > apart / 2


def fits(jobs: int, free: int) -> bool:
    try:
        chosen(jobs, 50, "auto", free)
    except UsageError:
        return False
    return True


def test_several_gpus_have_one_each_and_as_many_more_as_fit_on_every_one(gpus: Gpus) -> None:
    gpus(2)
    assert chosen(None, 8, "auto", PLENTY) == (2, [])
    assert chosen(None, 8, "cuda:1", PLENTY) == (MOST_ON_A_GPU, [])
    assert chosen(6, 8, "auto", PLENTY) == (6, [])
    full = {torch.device("cuda", 0): PLENTY, torch.device("cuda", 1): 4 * 10**9}
    with pytest.raises(UsageError, match="free on cuda:1") as refused:
        choose_jobs(6, 8, "auto", NEED, print, full.__getitem__)
    assert refused.value.hint == "give --jobs 2"


@pytest.fixture(scope="module")
def facts() -> DataFacts:
    return facts_of("digits", None)


def spec(facts: DataFacts, model: str, **fields: int) -> DenseSpec:
    return dense_spec(model, facts, 0, **fields)  # type: ignore[arg-type]


def test_the_need_is_that_of_the_largest_trial(facts: DataFacts) -> None:
    small, wide = spec(facts, "resnet8", batch_size=8), spec(facts, "resnet8", batch_size=64)
    deep = spec(facts, "resnet14", batch_size=64)

    def need(*specs: DenseSpec) -> Need:
        return need_of(specs, lambda name: facts)

    assert need(small).on_device < need(wide).on_device < need(deep).on_device
    assert need(small, deep, wide) == need(deep)
    assert need(deep).on_device < need(deep).on_cpu
    assert need(small).data > facts.train_size * 8 * 8


# Lanes: trials of one set of kernels

RISING = LaneCurve({1: 10.0, 2: 19.0, 4: 34.0, 8: 50.0, 16: 51.0})
EACH, SHARED = 10**9, 2 * 10**9


def in_lanes(asked: int | None, trials: int, free: int | None, *curves: LaneCurve) -> tuple[int, list[str]]:
    said: list[str] = []
    lanes = LaneNeed(SHARED, EACH, lambda: {(str(curve), ""): curve for curve in curves or (RISING,)})
    return choose_jobs(asked, trials, "auto", NEED, said.append, lambda place: free, lanes), said


def room_for(count: int) -> int:
    return int((SHARED + count * EACH) / lane_speed.USED_SHARE) + 10


@pytest.mark.parametrize("free", [PLENTY, None])
def test_as_many_lanes_as_are_fastest_or_as_were_asked_for(gpus: Gpus, free: int | None) -> None:
    gpus(1)
    assert in_lanes(None, 50, free) == (8, [])
    assert in_lanes(None, 3, free) == (3, [])
    assert in_lanes(5, 50, free) == (5, [])
    assert in_lanes(20, 50, free) == (20, [])
    assert in_lanes(20, 4, free) == (4, [])
    flat = LaneCurve({1: 10.0, 2: 10.0})
    assert in_lanes(None, 50, free, flat) == (1, [])
    assert in_lanes(None, 50, free, flat, RISING) == (8, [])  # networks that gain nothing lose nothing


def test_of_lanes_as_many_as_fit_and_why_no_more(gpus: Gpus) -> None:
    gpus(1)
    assert in_lanes(8, 8, room_for(8))[0] == 8
    count, (said,) = in_lanes(None, 50, room_for(7))
    assert count == 7
    assert said.startswith("7 at once, not 8: each takes about 1.0 GB, ")
    assert said.endswith(" are free on cuda:0")
    with pytest.raises(UsageError) as refused:
        in_lanes(8, 8, room_for(7))
    assert refused.value.message.startswith("--jobs 8: 8 trials at once do not fit: each takes about 1.0 GB, ")
    assert refused.value.hint == "give --jobs 7"
    assert in_lanes(None, 50, 0)[0] == 1
    assert in_lanes(1, 50, 0) == (1, [])


def test_for_one_training_nothing_is_measured(gpus: Gpus) -> None:
    gpus(1)

    def curves() -> dict[tuple[str, str], LaneCurve]:
        raise AssertionError

    lanes = LaneNeed(SHARED, EACH, curves)
    assert choose_jobs(None, 1, "auto", NEED, print, lanes=lanes) == 1
    assert choose_jobs(1, 9, "auto", NEED, print, lanes=lanes) == 1
    assert choose_jobs(4, 9, "auto", NEED, print, lambda place: PLENTY, lanes) == 4


def test_stages_are_lanes_on_one_gpu_by_kernels_that_were_asked_for(
    gpus: Gpus, facts: DataFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose bytes are those of the kernels and more, of the largest network."""
    for module in (lane_speed, step):
        monkeypatch.setattr(module, "missing_part", lambda device: "")
    monkeypatch.setattr(lane_speed, "known_disagreement", lambda *given: "")
    small, deep = spec(facts, "resnet8", batch_size=8), spec(facts, "resnet14", batch_size=8)

    def lanes(*specs: DenseSpec, asked: str = "fused", device: str = "auto") -> LaneNeed | None:
        return lanes_of(specs, lambda name: facts, device, Arithmetic("fp32", step=asked), print)

    assert lanes(small, device="cpu") is None
    gpus(2)
    assert lanes(small) is None
    gpus(1)
    assert lanes(small, asked="auto") is None
    one, other, both = lanes(small), lanes(deep), lanes(small, deep)
    assert one is not None
    assert other is not None
    assert both is not None
    assert one.each < other.each == both.each
    assert one.shared <= other.shared == both.shared
    monkeypatch.setattr(lane_speed, "known_disagreement", lambda *given: "another loss")
    assert lanes(small) is None


# What is said of it


def test_how_stages_run_at_once_is_said(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    assert at_once_text(4, "cpu") == "4 at once: processes, 2 cores each"
    assert at_once_text(8, "auto") == "8 at once: processes, 1 core each"
    assert at_once_text(9, "cpu") == "9 at once: processes, which share the cores"
    assert "share of the cores" in parallel_text("cpu")
    gpus(1)
    assert at_once_text(4, "auto") == "4 at once: streams of one process on cuda:0"
    assert at_once_text(4, "cuda", lanes=True) == "4 at once: lanes of one step on cuda:0"
    assert "lanes of one step" in parallel_text("auto")
    gpus(2)
    assert at_once_text(4, "auto") == "4 at once: processes, on cuda:0, cuda:1 in turn"
    assert parallel_text("auto").startswith("a process for each of 2 GPUs")
    assert "lanes of one step" in parallel_text("cuda:1")
