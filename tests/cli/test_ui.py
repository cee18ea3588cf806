"""rewindctl ui"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from conftest import Chain

from rewindctl.registry import front

START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
        return bytes(answer.read())


def listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def ui(copied_chain: Chain) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """The real UI on a copy of the chain's store, answering."""
    port = free_port()
    line = [sys.executable, "-m", "rewindctl", "ui", "--port", str(port), "--tracking-uri", copied_chain.uri]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            try:
                get(port, "health")
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield process, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the group that was started above
        process.communicate()


def assert_front_door(page: str) -> None:
    """MLflow's own start page, our choices before its scripts."""
    assert front.installed(), "this installation is of an earlier version: pip install -e ."
    before, mlflows, _ = page.partition('src="static-files/')
    assert mlflows
    assert '"#/experiments/1/runs?' in before
    assert all(key in before for key in front.CHOICES)


def test_the_ui_shows_the_store_and_ends_with_the_command(
    ui: tuple["subprocess.Popen[str]", int], copied_chain: Chain
) -> None:
    process, port = ui
    assert get(port, "health") == b"OK"
    run = json.loads(get(port, f"ajax-api/2.0/mlflow/runs/get?run_id={copied_chain.prune}"))["run"]
    assert run["info"]["run_name"] == "prune 5x s0 resnet8-digits"
    assert_front_door(get(port, "").decode())
    process.terminate()
    assert process.wait(timeout=60) == 130
    assert not listening(port)
