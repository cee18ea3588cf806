"""Tracking servers and databases that tests start, kill and start again."""

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

START_SECONDS = 120

POSTGRESQL = pytest.param("postgresql", marks=[pytest.mark.slow, pytest.mark.postgres])
BACKENDS = ("sqlite", POSTGRESQL)  # what a server keeps its runs in

NO_ROOM = "BEFORE INSERT ON {table}"
SQLITE_TRIGGER = (
    (f"CREATE TRIGGER no_room {NO_ROOM} WHEN {{condition}} BEGIN SELECT RAISE(ABORT, 'no room'); END",),
    ("DROP TRIGGER no_room",),
)
POSTGRESQL_TRIGGER = (
    (
        "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no room''; END'",
        f"CREATE TRIGGER no_room {NO_ROOM} FOR EACH ROW WHEN ({{condition}}) EXECUTE FUNCTION no_room()",
    ),
    ("DROP TRIGGER no_room ON {table}", "DROP FUNCTION no_room()"),
)


@dataclass
class Server:
    """`mlflow server` on a free port of this machine, which keeps its artifacts in a folder of its own."""

    folder: Path
    backend: str
    _process: subprocess.Popen[bytes] | None = None
    port: int = field(default_factory=lambda: free_port())  # noqa: PLW0108 (defined below)
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

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
                [*line, "--workers", "1", *self.options],
                cwd=self.folder,
                # Jobs would be eight processes not needed here.
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | self.environment,
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

    @contextmanager
    def refusing(self, table: str, condition: str) -> Iterator[None]:
        """Its database takes no row of a table for which the condition holds."""
        import sqlalchemy

        make, undo = SQLITE_TRIGGER if self.backend.startswith("sqlite") else POSTGRESQL_TRIGGER

        def execute(statements: tuple[str, ...]) -> None:
            with engine.begin() as connection:
                for statement in statements:
                    connection.exec_driver_sql(statement.format(table=table, condition=condition))

        engine = sqlalchemy.create_engine(self.backend)
        execute(make)
        try:
            yield
        finally:
            execute(undo)
            engine.dispose()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and its workers, the group that was started above."""
        if self._process is not None:
            os.killpg(self._process.pid, how)
            self._process.wait(timeout=60)
            self._process = None

    def kill(self) -> None:
        """As a machine that loses its power."""
        self.stop(signal.SIGKILL)


class AuthServer(Server):
    """A server that knows users, each by name and PASSWORD, and what they may."""

    ADMIN, PASSWORD = "admin", "s3cret-word-for-tests"

    def __init__(self, folder: Path, backend: str, default: str = "READ") -> None:
        config = folder / "auth.ini"
        lines = {
            "default_permission": default,
            "database_uri": f"sqlite:///{folder / 'auth.db'}",
            "admin_username": self.ADMIN,
            "admin_password": self.PASSWORD,
            "auth_cache_ttl_seconds": "600",  # hashing a password takes longer than most requests
            "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        }
        config.write_text("[mlflow]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items()))
        environment = {"MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the tests"}
        super().__init__(folder, backend, options=("--app-name", "basic-auth"), environment=environment)

    def of(self, user: str) -> str:
        """The address with a user's credentials."""
        return f"http://{user}:{self.PASSWORD}@127.0.0.1:{self.port}"

    def ask(self, path: str, **fields: str) -> dict[str, Any]:
        """As the administrator."""
        answer = requests.post(f"{self.uri}/api/{path}", json=fields, auth=(self.ADMIN, self.PASSWORD), timeout=30)
        assert answer.ok, answer.text
        return dict(answer.json())

    def add(self, user: str) -> None:
        self.ask("2.0/mlflow/users/create", username=user, password=self.PASSWORD)

    def grant(self, user: str, kind: str, resource: str, permission: str) -> None:
        """A right on an `experiment`, by its ID, or a `registered_model`, by its name."""
        which = {"username": user, "resource_type": kind, "resource_id": resource}
        own = {"json": which, "auth": (self.ADMIN, self.PASSWORD), "timeout": 30}
        requests.post(f"{self.uri}/api/3.0/mlflow/users/permissions/revoke", **own)  # there may be none yet
        self.ask("3.0/mlflow/users/permissions/grant", permission=permission, **which)


class Postgres:
    """A PostgreSQL server of this test session, with a password, on this machine's loopback address."""

    USER, PASSWORD = "tracker", "s3cret/w:rd"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rewindctl-postgres-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        (self.folder / "password").write_text(self.PASSWORD)
        if self._other_user():
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, self._other_user())
        initdb = [*self._as_user("initdb"), "--pgdata", str(self.folder / "data"), "--username", self.USER]
        initdb += ["--auth", "scram-sha-256", "--pwfile", str(self.folder / "password"), "--no-sync", "-E", "UTF8"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=self.folder)
        self.start()

    @staticmethod
    def program(name: str) -> str | None:
        """Debian keeps its programs off PATH."""
        found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        return str(found[-1]) if found else shutil.which(name)

    def uri(self, database: str) -> str:
        return f"postgresql://{self.USER}:{quote(self.PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def make(self, database: str, template: str = "template0") -> str:
        """A new database, empty or a copy of another; its URI."""
        self.run("postgres", f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.uri(database)

    def run(self, database: str, *statements: str) -> list[str]:
        """The first column of the last statement's rows."""
        import psycopg2

        connection = psycopg2.connect(self.uri(database))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return [row[0] for row in cursor.fetchall()] if cursor.description else []
        finally:
            connection.close()

    def start(self) -> None:
        import psycopg2

        line = [*self._as_user("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*line, "-h", "127.0.0.1", "-k", "", "-c", "fsync=off"], cwd=self.folder, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2_000:]
            with suppress(psycopg2.OperationalError):
                psycopg2.connect(self.uri("postgres")).close()
                return
            time.sleep(0.1)
        raise TimeoutError(f"no PostgreSQL on port {self.port}")

    def stop(self) -> None:
        """At once: whoever is connected is cut off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=60)
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _as_user(self, name: str) -> list[str]:
        """PostgreSQL refuses to be root's."""
        program, user = self.program(name), self._other_user()
        assert program is not None
        if user is None:
            return [program]
        account = pwd.getpwnam(user)
        drop = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        return [*drop, program]

    @staticmethod
    def _other_user() -> str | None:
        if os.geteuid() != 0:
            return None
        return next(name for name in ("postgres", "nobody") if name in {user.pw_name for user in pwd.getpwall()})


class Cable:
    """The way to a server over a port of its own: it can be pulled, left without answers, and plugged in again."""

    def __init__(self, target: int) -> None:
        self.port, self._target = free_port(), target
        self.refused = self.opened = 0  # connections while frozen, and in all
        self._losing, self._frozen, self.lost = b"", False, 0
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
                    self.lost += 1
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
