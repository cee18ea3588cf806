"""The device to train on, a record of it and of the software around it, and what the process uses of it."""

import ctypes
import os
import platform
import subprocess
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import pynvml
import torch

from rewindctl.counting import count_of
from rewindctl.errors import UsageError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
PACKAGES = ("rewindctl", "torch", "torchvision", "mlflow", "mlflow-skinny", "numpy", "optuna", "pandas", "safetensors")


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA device, else the CPU. Raises: UsageError for a device that is not there."""
    # Deterministic matrix products on CUDA need this before the first one; harmless elsewhere.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Of the default 8 queues of a GPU two of more streams may share one and wait for each other.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else _cpu()
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (index.isascii() and index.isdigit())):
        raise UsageError(f"unknown device {name!r}", "known: auto, cpu, cuda, cuda:0, cuda:1, ...")
    if kind == "cpu":
        return _cpu()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        raise UsageError(f"device {name!r} is not there: {count} CUDA devices", "use --device cpu or --device auto")
    return torch.device("cuda", int(index or 0))


def _cpu() -> torch.device:
    """The CPU, with freed memory kept by the process.

    glibc gives each freed activation back to the kernel and faults its pages in again at the next iteration, which
    costs 5 to 10 % of a training step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return torch.device("cpu")  # another C library
    mallopt(M_MMAP_THRESHOLD, 32 * 1024 * 1024)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    return torch.device("cpu")


def environment(device: torch.device) -> dict[str, Any]:
    """Packages, device, driver, threads, flags and git commit: what else may decide the bytes of a result."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := package_version(name))},
        "device": device_name(device),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "driver": driver() if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_format": "channels_last",
        "git_commit": _git_commit(),
    }


def deciding(device: torch.device) -> dict[str, str]:
    """What of a machine decides the bytes of a training; of a processor also its threads, which share out each sum."""
    cuda = {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    own = cuda if device.type == "cuda" else {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    return {"device": device_name(device), "torch": str(torch.__version__), **own}


def device_name(device: torch.device) -> str:
    """The marketing name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({count_of(torch.get_num_threads(), 'thread')})"


def package_version(package: str) -> str | None:
    """Of a package that is installed, else None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def driver() -> str | None:
    """The version of NVIDIA's driver, None where there is none."""
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    return None


def _git_commit() -> str | None:
    """The commit of rewindctl itself where it runs from a checkout, with `+` when files were changed."""
    root = str(Path(__file__).parents[2])
    commit = _output("git", "-C", root, "rev-parse", "HEAD")
    if commit is None:
        return None
    return commit + ("+" if _output("git", "-C", root, "status", "--porcelain", "-uno") else "")


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.strip() or None) if done.returncode == 0 else None


MEASURE_SECONDS = 10.0
MEGABYTE = 1e6


class Usage:
    """Measures now and then. `system/` is the prefix that the MLflow UI shows on a page of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._wall, self._cpu = time.monotonic(), time.process_time()
        self._due = self._wall

    def measure(self) -> dict[str, float | None]:
        """Empty when the last measurement was less than MEASURE_SECONDS ago; the first call always measures.

        CPU is in percent of one core since the last measurement. GPU memory is what this process's tensors hold and
        the most that they held; GPU utilisation is the device's, which other processes may share.
        """
        now, cpu = time.monotonic(), time.process_time()
        if now < self._due:
            return {}
        share = 100 * (cpu - self._cpu) / (now - self._wall) if now > self._wall else None
        self._wall, self._cpu, self._due = now, cpu, now + MEASURE_SECONDS
        measured = {"process_cpu_percentage": share, "process_memory_megabytes": _resident()}
        if self._device.type == "cuda":
            measured |= {
                "gpu_memory_megabytes": torch.cuda.memory_allocated(self._device) / MEGABYTE,
                "gpu_memory_peak_megabytes": torch.cuda.max_memory_allocated(self._device) / MEGABYTE,
                "gpu_utilization_percentage": _utilization(self._device),
            }
        return {f"system/{key}": value for key, value in measured.items()}


def _resident() -> float | None:
    """Memory of this process in megabytes, None where the system does not tell."""
    with suppress(psutil.Error, OSError):
        return float(psutil.Process().memory_info().rss) / MEGABYTE
    return None


def _utilization(device: torch.device) -> float | None:
    """Percent of the last moments in which a kernel ran; None where the driver does not tell (parts of a GPU).

    The GPU is found by UUID: NVIDIA's library counts all GPUs, PyTorch those that CUDA_VISIBLE_DEVICES leaves it.
    """
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    return None
