"""Tracking servers that tests start, kill and start again."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

START_SECONDS = 120


@dataclass
class Server:
    """`mlflow server` on a free port of this machine, which keeps its artifacts in a folder of its own."""

    folder: Path
    backend: str
    _process: subprocess.Popen[bytes] | None = None
    port: int = field(default_factory=lambda: free_port())  # noqa: PLW0108 (defined below)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    def start(self) -> "Server":
        """Start it, without waiting until it answers."""
        line = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.backend]
        line += ["--artifacts-destination", str(self.artifacts), "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*line, "--workers", "1"],
                cwd=self.folder,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # eight processes not needed here
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def wait(self) -> "Server":
        """Until it answers."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2_000:]
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise TimeoutError(f"no server at {self.uri}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and its workers, the group that was started above."""
        if self._process is not None:
            os.killpg(self._process.pid, how)
            self._process.wait(timeout=60)
            self._process = None

    def kill(self) -> None:
        """As a machine that loses its power."""
        self.stop(signal.SIGKILL)


class Cable:
    """The way to a server over a port of its own: it can be pulled, left without answers, and plugged in again."""

    def __init__(self, target: int) -> None:
        self.port, self._target = free_port(), target
        self.refused = self.opened = 0  # connections while frozen, and in all
        self._losing, self._frozen = b"", False
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self.plug()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def plug(self) -> None:
        self._losing, self._frozen = b"", False
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def pull(self) -> None:
        """Nothing answers any more, and what was under way is cut."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self._cut()

    def freeze(self) -> None:
        """Connections are made, and nothing ever comes back."""
        self._frozen = True
        self._cut()

    def lose_answer(self, request: bytes) -> None:
        """The server gets the next request with these bytes, and does it; instead of the answer the cable is pulled."""
        self._losing = request
        self._cut()

    def _cut(self) -> None:
        while self._open:
            with suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                self.opened += 1
                self._open.append(near)
                if self._frozen:
                    self.refused += 1
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open.append(far)
                lost = threading.Event()
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=[one, other, lost, one is near], daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, lost: threading.Event, asking: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if asking and self._losing and self._losing in data:
                    lost.set()
                if not asking and lost.is_set():
                    self.pull()
                    return
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    """Below those that the system gives to outgoing connections: it is still free when its server starts anew."""
    while True:
        port = random.randint(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
