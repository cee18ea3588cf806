"""A tracking server for all tests of this folder, and a cable to it that can be pulled."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Cable, Server


@pytest.fixture(scope="session")
def server(
    empty_store: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    store = folder / "server.db"
    store.write_bytes(empty_store.read_bytes())
    server = Server(folder, f"sqlite:///{store}").start()
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
