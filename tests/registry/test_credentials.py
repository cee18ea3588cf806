"""A password in the address of a store reaches no output, whatever goes wrong."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Cli

PASSWORD = "hunter%402%2Fx"
PLAIN = "hunter@2/x"
COMMANDS = ["list", "doctor", "init", "verify --all", "compare", "registry export out", "doctor --json", "ui"]


class Echo(BaseHTTPRequestHandler):
    """Is no MLflow server: says back what it was asked, and by whom."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 400)
        self.end_headers()
        told = {"error_code": "INTERNAL_ERROR", "message": f"{self.path} {self.headers} {PLAIN} {PASSWORD}"}
        self.wfile.write(json.dumps(told).encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def said(cli: Cli, *line: str) -> str:
    answer = cli(*line)
    text = answer.out + answer.err
    assert "***" in text, text
    for secret in (PASSWORD, PLAIN, "hunter"):
        assert secret not in text
    return text


@pytest.mark.parametrize("command", COMMANDS)
def test_an_answer_that_has_the_password_is_told_without_it(cli: Cli, echo: int, command: str, tmp_path: Path) -> None:
    uri = f"http://user:{PASSWORD}@127.0.0.1:{echo}"
    text = said(cli, *command.split(), "--tracking-uri", uri)
    debugged = said(cli, "--debug", *command.split(), "--tracking-uri", uri)
    assert text
    assert "error: " in debugged


@pytest.mark.parametrize(
    "uri",
    [
        f"http://user:{PASSWORD}@127.0.0.1:1",
        f"postgresql://user:{PASSWORD}@127.0.0.1:1/runs",
        "http://user:hunter/2@127.0.0.1:1",
        "http://user:hunter[2@127.0.0.1:1",
        "postgresql://user:hunter#2@127.0.0.1:1/runs",
        "postgresql://127.0.0.1:1/runs?user=me&password=hunter2",
    ],
)
def test_a_store_that_is_not_there_is_named_without_the_password(cli: Cli, uri: str) -> None:
    for line in (["list"], ["--debug", "list"], ["doctor"]):
        said(cli, *line, "--tracking-uri", uri)


def test_a_sign_that_has_to_be_coded_is_named_with_its_code(cli: Cli) -> None:
    answer = cli("list", "--tracking-uri", "http://user:hunter/2@127.0.0.1:1")
    assert answer.code == 1
    assert "%2F" in answer.err
    assert "MLFLOW_TRACKING_PASSWORD" in answer.err


def test_the_storage_of_a_search_is_shown_without_the_password() -> None:
    from rewindctl.errors import RegistryError
    from rewindctl.tuning.storage import checked_place, open_storage, shown

    place = f"nosuchdb://user:{PASSWORD}@host/db"
    checked_place(place, 1)
    assert shown(place) == "nosuchdb://***@host/db"
    with pytest.raises(RegistryError) as caught:
        open_storage(place)
    assert "hunter" not in caught.value.message + caught.value.hint
