"""Every kernel compiles for the GPUs that it is made for, keeps its values in registers, and fits: no GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REGISTERS = 65_536  # of a multiprocessor, from compute capability 3.0 on
THREADS = 32  # of a warp
SHARED = {
    "80": 163 * 1024,
    "90": 227 * 1024,
}  # bytes that a program may have; CUDA C++ programming guide, table of limits
KERNELS = {
    *("take_batch", "first_convolution", "convolution", "statistics", "normalise", "head", "head_gradients"),
    *("statistics_back", "normalise_back", "gradients", "gradient_of_weights", "update"),
}

EVALUATING = {
    *("start_scores", "known_statistics", "take_test_batch", "first_convolution", "convolution", "normalise"),
    *("score", "add_scores"),
}


def compiled(*cases: str) -> list[dict[str, Any]]:
    """What `compile_offline` says of the cases; Triton keeps what it has compiled."""
    here = Path(__file__).parent
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(here.parents[1]), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(here / "compile_offline.py"), *cases],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found: list[dict[str, Any]]) -> None:
    """Nothing is spilled, a multiprocessor has room for a program, and for two where one has four warps only."""
    for code in found:
        assert code["spilled"] == 0, code
        assert code["registers"] <= 224, code
        assert (2 if code["warps"] == 4 else 1) * code["registers"] * code["warps"] * THREADS <= REGISTERS, code
        assert code["shared"] <= SHARED[code["case"].split(":")[2]], code


def test_each_kernel_compiles_for_both_generations() -> None:
    found = compiled("resnet20:bf16:80:some", "resnet20:bf16:90:some")
    assert len(found) == 2 * len(KERNELS)
    assert {code["kernel"] for code in found} == KERNELS
    check(found)


def test_an_evaluation_compiles() -> None:
    found = compiled("resnet20:fp32:90:evaluate")
    assert {code["kernel"] for code in found} == EVALUATING
    check(found)


@pytest.mark.slow
def test_every_evaluation_compiles() -> None:
    """With matrix units and without, for both generations."""
    ways = [f"{capability}:{which}" for capability in (80, 90) for which in ("evaluate", "evaluate-ieee")]
    check(compiled(*(f"{model}:fp32:{way}" for model in ("resnet20", "wrn16_8") for way in ways)))


@pytest.mark.slow
def test_every_shape_compiles() -> None:
    """Of a small and a wide network."""
    found = compiled("resnet20:bf16:90:all", "wrn16_8:bf16:90:all")
    assert len(found) > 70
    check(found)


@pytest.mark.slow
def test_float32_and_wide_layers_compile_for_both_generations() -> None:
    networks = ("resnet20:fp32", "wrn16_8:bf16", "wrn16_8:fp32")
    check(compiled(*(f"{network}:{capability}:some" for network in networks for capability in (80, 90))))


@pytest.mark.slow
def test_other_ways_compile() -> None:
    """Starting early (programmatic dependent launch, from compute capability 9.0 on); norms that their readers make."""
    check(compiled("resnet20:bf16:90:early", "resnet20:bf16:90:fold", "wrn16_8:bf16:90:fold", "resnet20:fp32:80:fold"))
