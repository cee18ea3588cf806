"""The benchmarks run, here on the CPU with few updates; what fails is said and costs no other number."""

import importlib
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import Chain
from studies import text_of

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
PARTS = ("tests", "speed", "several", "precision", "cells")
Benchmark = Callable[[str], ModuleType]


@pytest.fixture
def benchmark_of(monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def given(benchmark_of: Benchmark) -> Any:
    data = load_dataset("digits")
    return benchmark_of("several").Given("resnet8", data, DeviceData.upload(data, CPU), "fp32")


def fails(*_: object) -> None:
    raise RuntimeError("broken\nand more")


# Ways and loops


def test_a_way_that_fails_is_said_and_the_others_are_measured(
    benchmark_of: Benchmark, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = benchmark_of("several")
    monkeypatch.setitem(several.WAYS, "stacked", fails)
    rows = {row["way"]: row for row in several.measure(given, 2, 1, 1)}
    assert {way: row["failed"] for way, row in rows.items()} == {
        "in turn": "",
        "streams": "",
        "stacked": "RuntimeError: broken",
    }
    assert {way: row["rounds"] for way, row in rows.items()} == {"in turn": 1, "streams": 1, "stacked": 0}
    assert "FAILED after 0 rounds: RuntimeError: broken" in several.line_of(rows["stacked"])
    assert rows["streams"]["iterations_per_second"] > 0


def test_what_a_thread_raises_is_raised(benchmark_of: Benchmark, given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = given.trials(2)
    monkeypatch.setattr(trials[1], "update", fails)
    with pytest.raises(RuntimeError, match="broken"):
        benchmark_of("several").streams(trials)(0, 1)


def test_a_loop_that_fails_later_keeps_the_rounds_before(benchmark_of: Benchmark) -> None:
    throughput, calls = benchmark_of("throughput"), iter(range(100))

    def twice() -> None:
        if next(calls) >= 4:  # a round is one update to warm up and those that are timed
            fails()

    loop = throughput.Loop(lambda: twice)
    for _ in range(4):
        loop.measure(1, CPU)
    row = loop.row("ours", [1.0] * 4)
    assert (row["rounds"], row["failed"]) == (2, "RuntimeError: broken")
    assert row["iterations_per_second"] > 0
    assert "FAILED after 2 rounds" in throughput.line_of(row)


def test_a_loop_of_ours_says_how_it_ran(benchmark_of: Benchmark) -> None:
    throughput = benchmark_of("throughput")
    loops = throughput.contenders("resnet8", "digits", CPU, False)
    assert {name for name, loop in loops.items() if loop.deterministic is None} == {"plain", "sensible", "in memory"}
    loops["fp32"].measure(1, CPU)
    row = loops["fp32"].row("fp32", [])
    assert (row["captured"], row["why_eager"], row["precision"], row["deterministic"]) == (False, "", "fp32", False)
    assert row["seconds_to_start"] > 0
    assert throughput.line_of(row).endswith(" s, not deterministic")


@pytest.mark.slow
def test_operations_are_counted_by_update(benchmark_of: Benchmark, given: Any) -> None:
    stepper = given.trials(1)[0]
    layers = [module for module in stepper.network.modules() if isinstance(module, torch.nn.Conv2d)]
    made = benchmark_of("kernel_times").measured(stepper, 2)
    counts = {one["name"]: one["per_update"] for one in made["most"]}
    assert counts["aten::convolution_backward"] == len(layers)
    assert 0 < sum(counts.values()) <= made["started_per_update"]
    assert made["busy_us_per_update"] > 0


def test_the_sum_of_trainings_is_all_updates_over_the_time_they_took(
    benchmark_of: Benchmark, chain: Chain, tmp_path: Path
) -> None:
    together, registry = benchmark_of("together"), chain.registry()
    runs = [registry.get(run_id) for run_id in (chain.dense, chain.lr_rewind)]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps({"run_id": run.run_id}) + "\n" for run in runs))
    row = together.row_of(tmp_path / "two.jsonl", registry)
    seconds = (runs[1].ended - runs[0].started) / 1000
    updates = sum(int(run.params["iterations"]) for run in runs)
    assert row["iterations_per_second"] == pytest.approx(updates / seconds, abs=0.1)
    assert (row["trials"], row["failed"]) == (2, "")
    assert together.row_of(tmp_path / "none.jsonl", registry)["failed"]


# The script for a machine with a GPU


def gpu(tmp_path: Path, part: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A part as the script runs it, in sizes for seconds."""
    (tmp_path / "tiny.yaml").write_text(text_of())
    sizes = {"DATASET": "digits", "MODELS": "resnet8", "ITERATIONS": "6", "ROUNDS": "1", "TRIALS": "1 2"}
    sizes |= {"SEEDS": "0", "JOBS": "1", "CELLS": f"{tmp_path / 'tiny.yaml'} --seeds 0", "PYTHON": sys.executable}
    places = {"OUT": str(tmp_path / "out"), "STATE": str(tmp_path / "state"), "DEVICE": "cpu"}
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), part]
    return subprocess.run(
        command, env=os.environ | sizes | places | variables, capture_output=True, text=True, timeout=500, check=False
    )


def packed(tmp_path: Path, part: str) -> set[str]:
    with tarfile.open(tmp_path / "out" / f"{part}.tar.gz") as archive:
        return {name.removeprefix("./") for name in archive.getnames()} - {"."}


def steps(tmp_path: Path, part: str) -> list[str]:
    return re.findall(r"^-- (\w\S*)$", (tmp_path / "out" / f"{part}.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize("part", PARTS)
def test_a_step_that_fails_ends_no_other_and_is_told(tmp_path: Path, part: str) -> None:
    done = gpu(tmp_path, part, PYTHON="false")
    assert done.returncode == 1, done.stdout
    found = steps(tmp_path, part)
    assert done.stdout.count("FAILED with exit status 1") == len(found) >= 1
    assert done.stdout.endswith(f"-- {part}: FAILED\n")
    assert packed(tmp_path, part) >= {f"{name}.txt" for name in found}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{part}.tar.gz", f"{part}.txt"]


def test_all_are_called_and_the_worst_is_told(tmp_path: Path) -> None:
    assert gpu(tmp_path, "all", PYTHON="true").returncode == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{p}.{e}" for p in PARTS for e in ("tar.gz", "txt")
    }
    assert gpu(tmp_path, "all", PYTHON="false").returncode == 1


def test_a_part_without_time_starts_nothing_and_says_so(tmp_path: Path) -> None:
    done = gpu(tmp_path, "speed", PYTHON="false", SECONDS_LEFT="2")
    assert (done.returncode, "FAILED" in done.stdout) == (3, False)
    assert "no time left" in done.stdout


def test_a_large_archive_is_in_pieces(tmp_path: Path) -> None:
    assert gpu(tmp_path, "speed", PYTHON="true", MAX_SIZE="100").returncode == 0
    pieces = sorted((tmp_path / "out").glob("speed.tar.gz.*"))
    assert len(pieces) > 1
    (tmp_path / "out" / "speed.tar.gz").write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    assert "kernels_fill.txt" in packed(tmp_path, "speed")


def test_an_unknown_part_is_wrong_usage(tmp_path: Path) -> None:
    done = gpu(tmp_path, "sped")
    assert (done.returncode, done.stdout) == (2, "")
    assert "OUT=results bash benchmarks/gpu.sh PART" in done.stderr


@pytest.mark.slow
def test_the_tests_for_a_gpu_are_found(tmp_path: Path) -> None:
    """On this device, which may have none, they need not run."""
    done = gpu(tmp_path, "tests", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d\d skipped", done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "made"),
    [
        ("speed", {"kernels_fill.json", "kernels_no-fill.json", "throughput_resnet8.json"}),
        ("several", {"several_ways.json", "several_2.jsonl", "together.json"}),
        ("cells", {"1_tiny/report.md", "plots/report.html", "rewindctl.bundle"}),
    ],
)
def test_a_part_makes_what_it_is_for(tmp_path: Path, part: str, made: set[str]) -> None:
    """`precision` calls what `several` and `cells` call."""
    done = gpu(tmp_path, part, CUDA_VISIBLE_DEVICES="", TRIALS="2")
    assert done.returncode == 0, done.stdout
    assert packed(tmp_path, part) >= made
