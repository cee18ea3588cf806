"""Many processes at one store: none crashes, nothing is made twice, and what was said to be written is there."""

import uuid
from pathlib import Path

import pytest
from servers import BACKENDS, Server
from workload import at_once, duplicates, missing, touch, write

from rewindctl.registry import Registry

PROCESSES = 32
WRITERS, SECONDS = 16, 5.0
AT_A_SERVER = 4  # whose one worker answers one at a time


@pytest.mark.slow
def test_many_processes_may_begin_on_a_fresh_store_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    touched = at_once(touch, PROCESSES, uri, "touched")
    assert len(touched) == len({one.own for one in touched}) == PROCESSES
    assert duplicates(uri, "touched", touched) == []


@pytest.mark.slow
def test_every_point_that_a_writer_was_told_is_written_is_there_once(store: Path) -> None:
    uri = f"sqlite:///{store}"
    written = at_once(write, WRITERS, uri, "written", SECONDS)
    assert len({one.run_id for one in written}) == WRITERS
    assert missing(uri, "written", written) == []
    assert all(run.finished for run in Registry(uri, "written").search())


@pytest.mark.slow
@pytest.mark.parametrize("server", BACKENDS, indirect=True)
def test_many_processes_at_a_server_make_nothing_twice(server: Server) -> None:
    experiment = f"touched-{uuid.uuid4().hex}"
    touched = at_once(touch, AT_A_SERVER, server.uri, experiment)
    assert duplicates(server.uri, experiment, touched) == []


@pytest.mark.slow
@pytest.mark.parametrize("server", BACKENDS, indirect=True)
def test_every_point_that_a_server_took_is_there_once(server: Server) -> None:
    experiment = f"written-{uuid.uuid4().hex}"
    written = at_once(write, AT_A_SERVER, server.uri, experiment, 2.0)
    assert missing(server.uri, experiment, written) == []
