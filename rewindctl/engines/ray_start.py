"""Reaching a Ray cluster, or starting one for a command: quietly, and within seconds or not at all.

Nothing here imports torch: the process of `ProgressActor` loads this module and needs none.
"""

import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rewindctl.errors import RewindError, UsageError

KNOCK_SECONDS = 5.0
REACH_SECONDS = 30.0
LEAST = {"include_dashboard": False, "object_store_memory": 100_000_000}  # nothing large travels through Ray
# Joining as a process that may be given up: Ray itself tries for minutes, and ends the process that tries.
JOIN = "import sys, ray; ray.init(sys.argv[1], logging_level='ERROR', log_to_driver=False); ray.shutdown()"


def import_ray() -> Any:
    """The module. Raises: UsageError when it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # experiments are nobody's business
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about what will change
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UsageError("the Ray engine needs ray", "pip install 'rewindctl[ray]'") from None


def join(ray: Any, address: str | None) -> None:
    """Become the driver of the cluster at `address`, or of one that is started here. Raises: RewindError."""
    if address is not None:
        _reach(ray, address)
    with _own_signals():
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        quiet: dict[str, Any] = {"logging_level": "CRITICAL", "log_to_driver": False}
        try:
            if address is None:
                ray.init("local", num_cpus=_cores(), **LEAST, **quiet)
            else:
                ray.init(address, **quiet)
        except Exception as error:
            if address is not None:
                raise _unreachable(address, last_line(error)) from None
            raise RewindError(f"Ray did not start: {last_line(error)}", "see /tmp/ray/session_latest/logs") from None


def _reach(ray: Any, address: str) -> None:
    host, port = _endpoint(address)
    if port is not None and not any(_answers(name, port) for name in _names(ray, host)):
        raise _unreachable(address, "nothing answers there")
    try:
        done = subprocess.run(
            [sys.executable, "-c", JOIN, address], capture_output=True, text=True, timeout=REACH_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise _unreachable(address, f"no answer of Ray in {REACH_SECONDS:.0f} s") from None
    if done.returncode != 0:
        raise _unreachable(address, last_line(RuntimeError(done.stderr)))


def _endpoint(address: str) -> tuple[str, int | None]:
    """Host and port of HOST:PORT and ray://HOST:PORT; no port for `auto`. Raises: UsageError."""
    if address == "auto":
        return "", None
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise UsageError(
            f"--address {address!r} is not the address of a Ray cluster", "give auto, HOST:PORT or ray://HOST:PORT"
        )
    return host.strip("[]"), int(port)


def _names(ray: Any, host: str) -> list[str]:
    """Ray takes this machine's own address for a loopback one."""
    return [host, ray.util.get_node_ip_address()] if host in ("localhost", "127.0.0.1", "::1") else [host]


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=KNOCK_SECONDS):
            return True
    except OSError:
        return False


def _unreachable(address: str, reason: str) -> RewindError:
    return RewindError(
        f"the Ray cluster {address} cannot be reached: {reason}", "start it (ray start --head), or check --address"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_line(error: BaseException) -> str:
    """The last line of an error's text, since Ray's messages begin with the worker's whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts its own handler for SIGTERM in place of ours, which records an interrupt."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and ours is not None:
            signal.signal(signal.SIGTERM, ours)


class ProgressActor:
    """An actor: updates made of each stage, each value handed out once."""

    def __init__(self) -> None:
        self._new: dict[str, int] = {}

    def note(self, key: str, done: int) -> None:
        self._new[key] = done

    def news(self) -> dict[str, int]:
        """The values received since the last call."""
        news, self._new = self._new, {}
        return news
