"""What this process uses of its machine: memory, processor, and of GPUs the one that it trains on."""

import ctypes
import os
import time
from contextlib import suppress

import torch

MEASURE_SECONDS = 10.0
MEGABYTE = 1e6


class Usage:
    """Measures now and then. `system/` is the prefix that the MLflow UI shows on a page of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._gpu = _Gpu(device) if device.type == "cuda" else None
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
        if self._gpu is not None:
            measured |= {
                "gpu_memory_megabytes": torch.cuda.memory_allocated(self._device) / MEGABYTE,
                "gpu_memory_peak_megabytes": torch.cuda.max_memory_allocated(self._device) / MEGABYTE,
                "gpu_utilization_percentage": self._gpu.utilization(),
            }
        return {f"system/{key}": value for key, value in measured.items()}


def _resident() -> float | None:
    """Memory of this process in megabytes, None where the system does not tell."""
    with suppress(OSError, IndexError, ValueError), open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEGABYTE
    return None


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Gpu:
    """One GPU in NVIDIA's management library, which comes with the driver.

    It is found by UUID: the library counts all GPUs, PyTorch those that CUDA_VISIBLE_DEVICES leaves it.
    """

    def __init__(self, device: torch.device) -> None:
        self._handle = ctypes.c_void_p()
        try:
            self._library = ctypes.CDLL("libnvidia-ml.so.1")
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
            ready = self._library.nvmlInit_v2() == 0
            self._found = ready and self._library.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(self._handle)) == 0
        except (OSError, AttributeError):
            self._found = False

    def utilization(self) -> float | None:
        """Percent of the last moments in which a kernel ran; None where the driver does not tell (parts of a GPU)."""
        rates = _Utilization()
        if not self._found or self._library.nvmlDeviceGetUtilizationRates(self._handle, ctypes.byref(rates)) != 0:
            return None
        return float(rates.gpu)
