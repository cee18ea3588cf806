"""The benchmarks run, here on the CPU with few updates; what fails is said and costs no other number."""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import Chain
from studies import text_of

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.fused.tiles import Tiles

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
PARTS = ("tests", "step", "speed", "several", "precision", "cells")
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are interpreted without a GPU")
@pytest.mark.slow
def test_each_kernel_is_beside_what_is_predicted(benchmark_of: Benchmark, given: Any) -> None:
    made = benchmark_of("kernel_times").measured_own(replace(given, batch=2), 2, 1, benchmark_of("floor").Machine())
    assert (made["matched"], made["trials"]) == (True, 2)
    assert sum(row["times"] for row in made["rows"]) == made["kernels"] > 40
    assert made["predicted_us"] > made["kernels"]  # each is started
    assert all(row["ratio"] > 0 for row in made["rows"])
    assert "2 at once by kernels of our own" in next(benchmark_of("kernel_times").lines_of_own(made | {"what": "x"}))


def test_kernels_that_a_profiler_saw_are_those_that_were_started(benchmark_of: Benchmark) -> None:
    """In their order, over what is not ours; by name where one is missing."""
    times_of, names = benchmark_of("kernel_times").times_of, ["a", "b", "a"]
    seen = [("a", 1.0), ("Memset", 9.0), ("b", 2.0), ("a", 3.0), ("a", 3.0), ("b", 4.0), ("a", 5.0)]
    assert times_of(seen, names) == (True, [2.0, 3.0, 4.0])
    assert times_of(seen[:-1], names) == (False, [7 / 3, 3.0, 7 / 3])
    assert times_of([], names) == (False, [0.0, 0.0, 0.0])


# What kernels of our own move


def test_what_was_touched_last_comes_from_the_cache(benchmark_of: Benchmark) -> None:
    cache = benchmark_of("floor").Cache(100)
    assert [cache.touch((0, 0, place), 40) for place in (0, 1, 0, 2, 0, 1)] == [False, False, True, False, True, False]
    assert cache.used == 80


def test_a_prediction_counts_every_byte_once_or_as_it_is_asked_for(benchmark_of: Benchmark) -> None:
    """With an endless cache only what no update before had; with none all of it; more trials, as much more of each."""
    floor = benchmark_of("floor")
    one = floor.without_memory("resnet8", 128, Tiles(crowd=10**9))
    moved = sum(launch.reads + launch.writes for launch in one.launches)
    endless = floor.predicted(one.launches, floor.Machine(l2=1e12), 1, 1)
    assert sum(each.memory for each in endless) == 0
    for trials in (1, 3):
        found = floor.predicted(one.launches, floor.Machine(l2=0), 1, trials)
        assert sum(each.memory for each in found) == trials * moved
        assert sum(each.asked for each in found) >= trials * moved
    near = floor.without_memory("resnet8", 128, Tiles(stages=1))
    assert [launch.reads for launch in near.launches] == [launch.reads for launch in one.launches]
    by_name = [{launch.name: launch.read[0] for launch in made.launches} for made in (one, near)]
    ahead, beside = (names["blocks.0.conv1"] for names in by_name)
    assert (ahead.asked, beside.asked) == (9 * ahead.bytes, beside.bytes)


# The script of checks, speeds and variants


def test_groups_of_a_step_are_in_order_and_a_summary_tells_what_is_wrong(benchmark_of: Benchmark) -> None:
    step = benchmark_of("step")
    chosen = argparse.Namespace(models=step.MODELS, device="cuda", precision="auto", variants=2, loops=True)
    names = [group.name for group in step.groups(chosen)]
    assert names[:2] == ["check:resnet20:bf16", "speed:resnet20"]
    assert names[-1] == "loops:resnet20"
    assert len(set(names)) == len(names) == 3 + 4 + 3 + 4 + 1
    assert all(step.Group.called(name).name == name for name in names)
    for _, variants in step.VARIANTS.values():
        assert all(replace(Tiles(), **changes) != Tiles() for changes in variants.values())
    check = {"group": names[0], "kind": "check", "model": "m", "precision": "bf16", "check": "c", "passed": True}
    rate = {"iterations_per_second": 2.0, "range": [1.0, 3.0], "ratio": 0.5, "failed": ""}
    variant = {"group": "variant:m:x", "kind": "variant", "model": "m", "variant": "x", "trials": 1, **rate}
    lines = [
        check,
        variant | {"usual_iterations_per_second": 4.0},
        {"group": "variant:m:y", "kind": "failed", "why": "w"},
    ]
    assert not step.wrong(lines)
    assert "m, x, 1 at once: 2.0 it/s [1.0, 3.0], x0.5 of the usual 4.0" in list(step.summary(lines))
    bad = [check | {"passed": False, "why": "far"}, {"group": names[1], "kind": "failed", "why": "ended"}]
    assert all(step.wrong([line]) for line in bad)
    assert list(step.summary(bad))[1] == "m, bf16, c: FAIL: far"


@pytest.mark.parametrize(
    ("group", "told"),
    [("variant:resnet8:none", "FAILED"), ("check:resnet8:auto", "NOT DONE")],
)
def test_a_group_that_fails_or_has_no_time_is_a_line(tmp_path: Path, group: str, told: str) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "step.py", "--dataset", "digits", "--device", "cpu"]
    command += ["--batch", "2", "--output", tmp_path / "step.jsonl", "--only", group]
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input="0\n", capture_output=True, text=True, timeout=100, check=False, env=here)
    assert done.returncode == 0, done.stderr
    assert all(f"{group}: {told}" in line for line in done.stdout.splitlines())
    assert (tmp_path / "step.jsonl").read_text().count(group) == len(done.stdout.splitlines()) >= 1


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
        ("step", {"step.jsonl", "kernels_fused_1.json"}),
        ("speed", {"kernels_fill.json", "kernels_no-fill.json", "throughput_resnet8.json"}),
        ("several", {"several_ways.json", "several_pytorch_2.jsonl", "together.json"}),
        ("cells", {"1_tiny/report.md", "plots/report.html", "rewindctl.bundle"}),
    ],
)
def test_a_part_makes_what_it_is_for(tmp_path: Path, part: str, made: set[str]) -> None:
    """`precision` calls what `several` and `cells` call."""
    sizes = {"TRIALS": "1", "BATCH": "2"} if part == "step" else {"TRIALS": "2"}
    done = gpu(tmp_path, part, CUDA_VISIBLE_DEVICES="", **sizes)
    assert done.returncode == 0, done.stdout
    assert packed(tmp_path, part) >= made


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "server"])
def test_lanes_over_a_step_that_waits_train_every_trial(tmp_path: Path, store: str) -> None:
    output = tmp_path / "lanes.json"
    line = ["--lanes", "3", "--iterations", "200", "--model", "resnet8", "--store", store, "--output", str(output)]
    subprocess.run([sys.executable, ROOT / "benchmarks" / "lanes.py", *line], check=True, timeout=300)
    made = json.loads(output.read_text())
    assert made["evaluations"] == 3 * 2
    assert 0 < made["whole"] < 1
    assert made["host_us"] > 0
