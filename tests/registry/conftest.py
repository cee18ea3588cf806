"""A tracking server for all tests of this folder, over SQLite or PostgreSQL, and a cable to it that can be pulled."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Cable, Postgres, Server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if Postgres.program("initdb") is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    postgres = Postgres()
    yield postgres
    postgres.close()


@pytest.fixture(scope="session")
def postgres_store(postgres: Postgres) -> str:
    """A database after MLflow's migrations, to be copied."""
    from rewindctl.registry.store.address import absolute_uri
    from rewindctl.registry.store.connect import connect

    connect(absolute_uri(postgres.make("empty")))
    postgres.run(
        "postgres", "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE datname = 'empty'"
    )  # MLflow keeps its connections, and only a database that nobody uses can be copied
    return "empty"


@pytest.fixture(scope="session", params=["sqlite"])
def server(
    empty_store: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    if request.param == "sqlite":
        store = folder / "server.db"
        store.write_bytes(empty_store.read_bytes())
        backend = f"sqlite:///{store}"
    else:
        empty = request.getfixturevalue("postgres_store")
        uri = request.getfixturevalue("postgres").make(f"server-{uuid.uuid4().hex}", empty)
        backend = uri.replace("postgresql:", "postgresql+psycopg2:", 1)
    server = Server(folder, backend).start()
    try:
        request.getfixturevalue("chain")  # what the server's runs are compared with, made while it starts
        yield server.wait()
    finally:
        server.stop()


@pytest.fixture
def cable(server: Server) -> Iterator[Cable]:
    cable = Cable(server.port)
    yield cable
    cable.pull()
