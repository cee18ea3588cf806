"""`rewindctl` in processes of their own that start in milliseconds: forked from one that has imported everything.

Importing torch and MLflow takes seconds, in which a test learns nothing.
"""

import atexit
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

IMPORTED = (
    *("started", "workload", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "optuna", "pandas", "rich.progress"),
    *("rewindctl.__main__", "rewindctl.pipeline", "rewindctl.engines.local", "rewindctl.report", "rewindctl.tuning"),
)


def forks() -> multiprocessing.context.ForkServerContext:
    """Where processes are forked: one server a pytest process, which touches no store and trains nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


class Started:
    """A command under way: as much of `subprocess.Popen` as tests of commands use.

    Takes the folder and the environment of this moment. `first` is done before anything else; with `merged` all output
    is in one text, in its order.
    """

    def __init__(self, *arguments: str, first: Callable[[], object] | None = None, merged: bool = False) -> None:
        self._talk = Path(tempfile.mkdtemp(prefix="started-"))
        names = ("out", "out" if merged else "err")
        files = [str(self._talk / name) for name in names]
        for file in files:
            Path(file).touch()
        self._process = forks().Process(
            target=_command, args=(list(arguments), str(Path.cwd()), dict(os.environ), files, first)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        atexit.register(self._end)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    @property
    def err(self) -> str:
        """What it has written to stderr so far."""
        file = self._talk / "err"
        return file.read_text() if file.exists() else ""

    def poll(self) -> int | None:
        self._process.join(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit code, minus the signal that ended it. Raises: subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("rewindctl", timeout or 0)
        return self.returncode

    def until(self, ready: Callable[[], T], every: float = 0.02, seconds: float = 300) -> T:
        """Look every so many seconds: what `ready` answers when it is true. Fails when the command ends before."""
        deadline = time.monotonic() + seconds
        while not (found := ready()):
            assert time.monotonic() < deadline, "it did not happen in time"
            assert self.poll() is None, self.communicate()
            time.sleep(every)
        return found

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end: what it wrote to stdout and to stderr. Raises: subprocess.TimeoutExpired."""
        self.wait(timeout)
        return (self._talk / "out").read_text(), self.err

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            self.kill()
        shutil.rmtree(self._talk, ignore_errors=True)


def on_one_core() -> None:
    """Lead a group of one's own, on one core: as many threads in every process, however many cores there are."""
    os.setsid()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        beside = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        os.sched_setaffinity(0, {cores[beside % len(cores)]})


def _command(
    arguments: list[str], folder: str, environment: dict[str, str], files: list[str], first: Callable[[], object] | None
) -> None:
    """In the new process, what `python -m rewindctl ARGUMENTS` does in one that it has for itself."""
    if first:
        first()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    for number, file in enumerate(files, start=1):
        target = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(target, number)
        os.close(target)
    import rewindctl.__main__ as program

    sys.modules["__main__"] = program  # what its own processes import
    sys.argv = ["rewindctl", *arguments]
    try:
        program.main()
    finally:
        atexit._run_exitfuncs()
