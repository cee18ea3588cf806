"""PostgreSQL without a server before it: the same runs, one first use at a time, and a password that is nobody's.

Over a server: `test_server`, `test_concurrency` and `test_outage`, whose server has either database.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import lengths
import pytest
from conftest import TINY, Cli
from servers import Postgres
from workload import at_once, duplicates, missing, touch, write

from rewindctl.checks.verify import verify
from rewindctl.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

PROCESSES, SECONDS = 4, 2.0


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The name of a new database of the test's own."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def uri(postgres: Postgres, postgres_store: str, database: str) -> str:
    return postgres.make(database, postgres_store)


def everything(postgres: Postgres, database: str) -> Iterator[str]:
    """Every row of every table, as text."""
    for table in postgres.run(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        yield from postgres.run(database, f'SELECT t::text FROM "{table}" t')


def test_a_chain_is_made_found_and_verified(uri: str, cli: Cli) -> None:
    at = ("--tracking-uri", uri)
    dense = cli("train-dense", *TINY, *at).run_id
    prune = cli("prune", "--parent", dense, "--compression", "5", *at).run_id
    retrained = cli("retrain", "--parent", prune, "--method", "lr_rewind", *at).run_id
    assert cli("train-dense", *TINY, *at).run_id == dense
    assert cli("prune", "--parent", "models:/resnet8-digits-dense@seed-0", "--sparsity", "0.8", *at).run_id == prune
    registry = Registry(uri)
    assert [run.run_id for run in registry.search()] == [dense, prune, retrained]
    assert [problem for run in registry.search() for problem in verify(registry, run)] == []


def test_a_spec_of_any_length_is_whole(uri: str) -> None:
    lengths.check(uri, "lengths")


def test_the_password_is_in_no_row_no_file_and_no_answer(
    uri: str, cli: Cli, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    secrets = {postgres.PASSWORD, uri.partition("//")[2].partition("@")[0].partition(":")[2]}
    at = ("--tracking-uri", uri, "--debug")
    calls = [("train-dense", *TINY, *at), ("list", *at), ("doctor", *at), ("init", *at), ("recover", *at)]
    answers = [cli(*call) for call in calls]
    assert [answer.code for answer in answers] == [0] * len(calls)
    dense = answers[0].run_id
    answers += [cli(*call) for call in (("show", dense, *at), ("lineage", dense, *at), ("show", "f" * 32, *at))]
    for wrong in (uri.replace(database, "nowhere"), uri.replace("tracker:", "nobody:"), uri.replace("@", "x@")):
        answers.append(cli("list", "--tracking-uri", wrong, "--debug"))
        assert answers[-1].code == 1
        assert "does not answer" in answers[-1].err
    rows = list(everything(postgres, database))
    assert any(dense in row for row in rows)
    texts = [*rows, *(answer.out + answer.err for answer in answers)]
    texts += [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    for secret in secrets:
        assert not [text[:200] for text in texts if secret in text]


def test_many_processes_may_begin_on_a_fresh_database_at_once(postgres: Postgres, database: str) -> None:
    """MLflow alone dies here: its migrations race."""
    uri = postgres.make(database)
    touched = at_once(touch, PROCESSES, uri, "touched")
    assert duplicates(uri, "touched", touched) == []


def test_every_point_that_a_writer_was_told_is_written_is_there_once(uri: str) -> None:
    written = at_once(write, PROCESSES, uri, "written", SECONDS)
    assert missing(uri, "written", written) == []


def test_a_database_that_is_away_is_waited_for(uri: str, postgres: Postgres) -> None:
    """Its old connections are of no use any more."""
    registry = Registry(uri)
    postgres.stop()
    postgres.start()
    assert registry.search() == []
