"""What this process uses of its machine: memory, processor, and of GPUs the one that it trains on."""

import time
from contextlib import suppress

import psutil
import pynvml
import torch

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
