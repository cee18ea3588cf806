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
from pathlib import Path

import pytest
from conftest import Chain, Cli

from rewindctl.registry.ui import front_page as front

START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as answer:
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


def assert_only_own_names(port: int) -> None:
    """A page from elsewhere whose author points a name of his at 127.0.0.1 gets nothing."""
    for host in ("evil.example", f"10.evil.example:{port}", f"192.168.evil.example:{port}"):
        for path in ("", "ajax-api/2.0/mlflow/experiments/search?max_results=1"):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", headers={"Host": host})
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=60)
            assert caught.value.code == 403


@pytest.mark.slow
def test_the_ui_shows_the_store_and_ends_with_the_command(
    ui: tuple["subprocess.Popen[str]", int], copied_chain: Chain
) -> None:
    process, port = ui
    assert get(port, "health") == b"OK"
    run = json.loads(get(port, f"ajax-api/2.0/mlflow/runs/get?run_id={copied_chain.prune}"))["run"]
    assert run["info"]["run_name"] == "prune 5x s0 resnet8-digits"
    assert_front_door(get(port, "").decode())
    assert_only_own_names(port)
    process.terminate()
    assert process.wait(timeout=60) == 130
    assert not listening(port)


def test_an_address_for_others_comes_with_a_warning_and_what_to_do(cli: Cli, store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        open_to_all = cli("ui", "--host", "0.0.0.0", "--port", str(port))
    assert open_to_all.code == 1
    assert f"cannot listen at 0.0.0.0:{port}" in open_to_all.err
    assert f"anyone who can reach 0.0.0.0:{port} can read, change and delete every run" in open_to_all.err
    assert "mlflow server --app-name basic-auth" in open_to_all.err
