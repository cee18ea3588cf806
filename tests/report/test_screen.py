"""One screen for any run, however much there is to say of it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rewindctl.console import OutputStyle
from rewindctl.registry import RunRecord
from rewindctl.report.facts import Layer, RunFacts
from rewindctl.report.screen import BARS, PLAIN_BARS, POINTS, screen, sparkline

LOOK = OutputStyle()


def record(number: int, **changes: object) -> RunRecord:
    values: dict[str, object] = {"run_id": f"{number:032x}", "name": "run " * 40, "status": "FINISHED"}
    values |= {"artifact_uri": "", "started": 0, "ended": 1, "tags": {}, "params": {}, "metrics": {}}
    return RunRecord(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 7, 100])
@pytest.mark.parametrize("long", ["x", "x" * 500])
def test_no_run_needs_more_than_40_lines_of_80_columns(count: int, long: str) -> None:
    numbers = range(count)
    tags = {"rewindctl.error": long, "rewindctl.weights_from": f"{long}@7", "rewindctl.kind": "retrain"}
    run = record(0, tags=tags, metrics={f"{long}{n}": n / 7 for n in numbers})
    facts = RunFacts(
        run,
        record(1, tags={"rewindctl.kind": "prune"}),
        record(2),
        [record(n + 3) for n in numbers],
        [(n, n / (count + 1)) for n in numbers],
        {f"{long}{n}": [n, n] for n in numbers},
        [Layer(f"{long}{n}", "3x3", 9, 3, 2 / 3) for n in numbers],
        {f"{long}/{n}": n for n in numbers} | {f"checkpoints/{n:08d}.safetensors": n for n in numbers},
        f"rewindctl retrain {' '.join(f'--option-{n} {n}' for n in range(12))}",
    )
    for look in (LOOK, OutputStyle(unicode=False)):
        lines = screen(facts, look).splitlines()
        assert len(lines) <= 40
        assert max(map(len, lines)) <= 80


def test_without_unicode_everything_is_ascii() -> None:
    facts = RunFacts(record(0), accuracies=[(0, 0.1), (1, 0.9)], layers=[Layer("a", "1", 2, 1, 0.5)])
    assert screen(facts, OutputStyle(unicode=False)).isascii()
    assert not screen(facts, LOOK).isascii()


@pytest.mark.parametrize("count", [1, 2, 8, 13])
def test_metrics_have_their_whole_names(count: int) -> None:
    names = ["test_accuracy", "system/process_memory_megabytes", "system/gpu_utilization_percentage", "lr"]
    metrics = dict.fromkeys([*names, *(f"loss_{n}" for n in range(9))][:count], -1.234e-5)
    words = screen(RunFacts(record(0, metrics=metrics)), LOOK).split()
    assert [words[words.index(name) + 1] for name in metrics] == ["-1.234e-05"] * count


def test_a_long_curve_leaves_room_for_what_is_said_of_it() -> None:
    facts = RunFacts(record(0), accuracies=[(1000 * n, n / 72) for n in range(73)])
    (line,) = (line for line in screen(facts, LOOK).splitlines() if line.startswith("accuracy"))
    assert line.endswith(" between 0.0% and 100.0%, to iteration 72,000")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=3 * POINTS), st.booleans())
@example([2.2250738585072014e-308, 0.0], True)
def test_a_sparkline_rises_where_its_values_rise(values: list[float], unicode: bool) -> None:
    bars = BARS if unicode else PLAIN_BARS
    line = sparkline(values, OutputStyle(unicode=unicode))
    assert len(line) == min(len(values), POINTS)
    heights = [bars.index(bar) for bar in line]
    if len(values) <= POINTS:
        order = sorted(range(len(values)), key=values.__getitem__)
        assert [heights[index] for index in order] == sorted(heights)
    ends = sparkline([min(values), max(values), values[-1]], OutputStyle(unicode=unicode))
    assert line[-1] == ends[-1]
