"""Reaching a store: absolute addresses, plain errors, no secrets, one first use at a time."""

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Cli
from started import Started

from rewindctl.errors import RegistryError, UsageError
from rewindctl.registry.store.address import absolute_uri, sqlite_path
from rewindctl.registry.store.connect import connect
from rewindctl.registry.store.failures import StoreError
from rewindctl.registry.ui.front_page import ui_command
from rewindctl.system.safe_text import redacted

SECRET = "s3cret"


def test_the_uri_given_wins_over_the_environment_and_that_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert absolute_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///env.db")
    assert absolute_uri(None) == f"sqlite:///{tmp_path}/env.db"
    assert absolute_uri("sqlite:///runs/given.db") == f"sqlite:///{tmp_path}/runs/given.db"


def test_a_sqlite_path_is_absolute_and_its_home_folder_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert absolute_uri("sqlite:///~/mlflow.db") == f"sqlite:///{tmp_path}/home/mlflow.db"
    assert absolute_uri(f"sqlite:///{tmp_path}/mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert sqlite_path(f"sqlite:///{tmp_path}/mlflow.db") == tmp_path / "mlflow.db"


def test_a_server_has_no_file_and_keeps_its_address() -> None:
    assert absolute_uri("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    assert sqlite_path("http://127.0.0.1:5000") is None


def test_a_uri_without_a_scheme_is_refused_with_one_that_has_it() -> None:
    with pytest.raises(RegistryError, match="'runs' has no scheme") as caught:
        absolute_uri("runs")
    assert "sqlite:///runs/mlflow.db" in caught.value.hint


@pytest.mark.parametrize(
    "spelled",
    [
        "sqlite:///runs/a.db",
        "sqlite+pysqlite:///runs/a.db",
        "SQLite:///runs/a.db",
        "SQLITE+PySQLite:///{here}/runs/a.db",
        " sqlite:///{here}/runs/a.db\n",
    ],
)
def test_every_spelling_of_a_sqlite_store_is_the_one_that_the_guard_knows(
    empty_store: Path, tmp_path: Path, spelled: str
) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "a.db")
    uri = spelled.format(here=f"/{tmp_path}".replace("//", "/"))
    assert absolute_uri(uri) == f"sqlite:///{tmp_path}/runs/a.db" == absolute_uri(absolute_uri(uri))
    assert sqlite_path(uri.strip()) == tmp_path / "runs" / "a.db"
    connect(uri).create_experiment("there")
    assert [path.name for path in tmp_path.rglob("*.db")] == ["a.db"]
    with closing(sqlite3.connect(tmp_path / "runs" / "a.db")) as connection:
        assert ("there",) in connection.execute("SELECT name FROM experiments")


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("sqlite://", "a store in memory"),
        ("sqlite:///", "a store in memory"),
        ("sqlite:///:memory:", "a store in memory"),
        ("sqlite:///file::memory:?cache=shared&uri=true", "a store in memory"),
        ("sqlite:///file:a.db?mode=ro&uri=true", "not a path of a SQLite file"),
        ("sqlite://host/a.db", "not a path of a SQLite file"),
        ("sqlite:a.db", "not a path|in memory"),
        ("sqlite:///a.db?timeout=5", r"has '\?'"),
        ("sqlite:///a%62.db", "has '%62'"),
        ("sqlite+aiosqlite:///a.db", "another SQLite driver"),
        ("sqlite+pysqlcipher://:s3cret@/a.db", "another SQLite driver"),
        ("file:///srv/mlruns", "a folder of files"),
        ("file:mlruns", "a folder of files"),
        ("databricks", "has no scheme"),
        ("databricks://profile", "an unknown kind of store"),
        ("postgres://user:s3cret@host/runs", r"postgres://\*\*\*@host/runs names an unknown kind of store"),
        ("oracle+cx_oracle://host/runs", "an unknown kind of store"),
        ("http+unix://socket", "an unknown kind of store"),
        ("://host", "has no scheme"),
    ],
)
def test_what_is_no_address_of_a_store_is_refused_in_one_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, why: str
) -> None:
    with pytest.raises(RegistryError, match=why):
        connect(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    answer = cli("init")
    assert (answer.code, answer.out) == (1, "")
    assert SECRET not in answer.err
    assert "Traceback" not in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "same"),
    [
        ("HTTP://127.0.0.1:5000/Path", "http://127.0.0.1:5000/Path"),
        ("PostgreSQL+psycopg2://host/Runs", "postgresql+psycopg2://host/Runs"),
        ("mysql+pymysql://host/runs", "mysql+pymysql://host/runs"),
    ],
)
def test_a_scheme_is_in_small_letters(uri: str, same: str) -> None:
    assert absolute_uri(uri) == same


def test_a_foreign_store_meets_the_guard_whatever_its_address_is_called(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as connection, connection:
        connection.execute("CREATE TABLE diary (day TEXT)")
    for scheme in ("sqlite", "sqlite+pysqlite", "SQLITE"):
        with pytest.raises(RegistryError, match="the database of another program"):
            connect(f"{scheme}:///{tmp_path}/theirs.db")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:s3cret@host:5000/path", "http://***@host:5000/path"),
        ("http://user@host", "http://***@host"),
        ("postgresql://user:s3cret@x@host/runs", "postgresql://***@host/runs"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////srv/a@b/mlflow.db", "sqlite:////srv/a@b/mlflow.db"),
    ],
)
def test_a_shown_uri_has_no_user_and_no_password(uri: str, shown: str) -> None:
    assert redacted(uri) == shown


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(RegistryError, match=r"http://\*\*\*@127\.0\.0\.1:1 does not answer") as caught:
        connect(f"http://user:{SECRET}@127.0.0.1:1")
    assert SECRET not in caught.value.message + caught.value.hint


class HalfServer(BaseHTTPRequestHandler):
    """Answers /health and hangs up on everything else: no MLflow server."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self.send_response(200)
            self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def half_server() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), HalfServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_server_that_hangs_up_gives_one_line_without_the_password(
    half_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWINDCTL_OUTAGE_SECONDS", "0")
    client = connect(f"http://user:{SECRET}@127.0.0.1:{half_server}")
    with pytest.raises(StoreError, match=r"API request to http://\*\*\*@127\.0\.0\.1") as caught:
        client.get_experiment_by_name("rewindctl")
    assert SECRET not in caught.value.message + caught.value.hint
    assert "\n" not in caught.value.message


def test_a_database_that_cannot_be_reached_gives_one_line_without_the_password() -> None:
    with pytest.raises(RegistryError) as caught:
        connect(f"postgresql://user:{SECRET}@127.0.0.1:1/runs").search_experiments()
    assert SECRET not in caught.value.message + caught.value.hint
    assert "://***@127.0.0.1:1/runs" in caught.value.message


def test_what_the_store_refuses_is_one_line_with_its_code(store: Path) -> None:
    with pytest.raises(StoreError) as caught:
        connect(f"sqlite:///{store}").get_run("0" * 32)
    assert caught.value.code == "RESOURCE_DOES_NOT_EXIST"
    assert "\n" not in caught.value.message
    assert str(store) in caught.value.message


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("a diary, not a database\n" * 100)
    with pytest.raises(RegistryError, match="cannot be used as an MLflow store"):
        connect(f"sqlite:///{path}")
    assert path.read_text() == "a diary, not a database\n" * 100


def test_a_store_below_a_regular_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match=r"file/mlflow\.db cannot be written"):
        connect(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_the_ui_is_served_on_the_loopback_address_alone(store: Path) -> None:
    line = ui_command(f"sqlite:///{store}", 5001)
    assert line[line.index("--host") + 1] == "127.0.0.1"
    assert line[line.index("--port") + 1] == "5001"
    assert f"sqlite:///{store}" not in line, "others on the machine can read a command line, and a password in it"
    assert line[line.index("--allowed-hosts") + 1] == "localhost:5001,127.0.0.1:5001"


def test_a_ui_for_others_answers_to_the_names_given() -> None:
    line = ui_command("postgresql://user:pw@host/runs", 5001, "", "lab", "lab.example.org:5001")
    assert line[line.index("--host") + 1] == "lab"
    assert line[line.index("--allowed-hosts") + 1].split(",")[2:] == ["lab:5001", "lab.example.org:5001"]
    assert "--allowed-hosts" not in ui_command("sqlite:///x", 5001, "", "0.0.0.0"), "MLflow's own list"
    assert not any("pw@" in word for word in line)
    for host, names in (("--help", None), ("", None), ("lab", "a b"), ("lab", ",")):
        with pytest.raises(UsageError):
            ui_command("sqlite:///x", 5001, "", host, names)


def test_the_password_of_a_database_is_on_no_command_line() -> None:
    assert not [word for word in ui_command(f"postgresql://user:{SECRET}@host/runs", 5001) if SECRET in word]


def test_a_tracking_server_has_its_own_ui() -> None:
    with pytest.raises(RegistryError, match="is a tracking server") as caught:
        ui_command(f"https://user:{SECRET}@host", 5000)
    assert SECRET not in caught.value.message + caught.value.hint


@pytest.mark.slow
def test_four_processes_may_use_a_fresh_store_first_at_once(tmp_path: Path) -> None:
    """MLflow alone dies here: its migrations race."""
    processes = [Started("init") for _ in range(4)]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, answers
    assert {out for out, _ in answers} == {f"sqlite:///{tmp_path}/mlflow.db\n"}
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        names = connection.execute("SELECT name FROM experiments ORDER BY experiment_id").fetchall()
    assert sorted(names) == [("Default",), ("rewindctl",)]
