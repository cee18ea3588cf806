"""The device by name, and the record of it."""

import json
import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import rewindctl
from rewindctl.errors import UsageError
from rewindctl.training.device import device_name, driver, environment, resolve_device

CPU = torch.device("cpu")


def test_auto_is_the_first_gpu_or_the_cpu() -> None:
    expected = torch.device("cuda", 0) if torch.cuda.is_available() else CPU
    assert resolve_device("auto") == expected
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "cuda:x", "cuda:-1", "cuda:²", "cuda0", "tpu", "mps", "cuda:0:1"])
def test_an_unknown_device_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_device(name)
    assert caught.value.exit_code == 2
    assert repr(name) in caught.value.message
    assert "cpu" in caught.value.hint
    assert "cuda" in caught.value.hint


def test_a_gpu_that_is_not_there_is_refused_not_replaced() -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for name in (f"cuda:{count}", "cuda:9999"):
        with pytest.raises(UsageError, match=f"{count} CUDA devices"):
            resolve_device(name)


@pytest.mark.parametrize(
    ("name", "value"), [("CUBLAS_WORKSPACE_CONFIG", ":4096:8"), ("CUDA_DEVICE_MAX_CONNECTIONS", "32")]
)
def test_the_settings_of_cuda_are_made_unless_they_are_already(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.delenv(name, raising=False)
    resolve_device("cpu")
    assert os.environ[name] == value
    monkeypatch.setenv(name, "its user's")
    resolve_device("cpu")
    assert os.environ[name] == "its user's"


def test_the_environment_is_json_and_says_what_ran() -> None:
    record = environment(CPU)
    assert json.loads(json.dumps(record)) == record
    assert record["packages"]["torch"] == version("torch")
    assert record["threads"] == torch.get_num_threads()
    assert record["device"] == device_name(CPU)
    assert record["device"]
    assert record["cuda"] is None


def test_the_commit_is_that_of_the_checkout() -> None:
    root = Path(rewindctl.__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("rewindctl does not run from a checkout")
    head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert environment(CPU)["git_commit"].removesuffix("+") == head.stdout.strip()


def test_without_the_tools_their_facts_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment(CPU)["git_commit"] is None


def test_the_driver_is_what_nvidia_smi_says_and_none_without_a_word_where_there_is_none(
    capfd: pytest.CaptureFixture[str],
) -> None:
    line = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(line, capture_output=True, text=True, check=False) if shutil.which(line[0]) else None
    expected = done.stdout.splitlines()[0] if done is not None and done.returncode == 0 else None
    assert driver() == expected
    assert capfd.readouterr() == ("", "")
