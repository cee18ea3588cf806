"""A store that somebody else made: read as a store, or refused; never a program of theirs that runs here."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Chain

from rewindctl.errors import RegistryError
from rewindctl.registry import Registry
from rewindctl.registry.store import mlflow_internals as internals
from rewindctl.registry.store import sqlite_files

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
PROGRAMS = {
    "a view": f"ALTER TABLE tags RENAME TO t; CREATE VIEW tags AS {ENDLESS} SELECT i AS key FROM n",
    "a view in capitals": "ALTER TABLE tags RENAME TO t; CREATE VIEW TAGS AS SELECT * FROM t",
    "a trigger": "CREATE TRIGGER a BEFORE INSERT ON experiments BEGIN"
    f" INSERT INTO tags {ENDLESS} SELECT i, i, i FROM n; END",
    "a computed column": "ALTER TABLE runs ADD COLUMN more AS (hex(zeroblob(400000000)))",
    "a virtual table": "DROP TABLE params; CREATE VIRTUAL TABLE params USING fts5(run_uuid, key, value)",
}


def alter(store: Path, script: str) -> bytes:
    with closing(sqlite3.connect(store)) as connection:
        connection.executescript(script)
    return store.read_bytes()


def test_every_table_that_has_to_be_plain_is_one_of_mlflows(store: Path) -> None:
    with closing(sqlite3.connect(store)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert names >= internals.PLAIN


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_table_that_does_more_than_keep_is_refused(store: Path, program: str) -> None:
    before = alter(store, PROGRAMS[program])
    with pytest.raises(RegistryError, match=r"is not an MLflow store: .* is not a plain table"):
        Registry(f"sqlite:///{store}")
    assert store.read_bytes() == before


def test_what_a_user_adds_beside_the_tables_is_nobodys_business(store: Path) -> None:
    alter(store, "CREATE VIEW best AS SELECT * FROM latest_metrics; CREATE TABLE notes (a, b AS (a + 1))")
    assert Registry(f"sqlite:///{store}").search() == []


def test_the_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "places.sqlite"
    before = alter(place, "CREATE TABLE bookmarks (x); INSERT INTO bookmarks VALUES (1)")
    with pytest.raises(RegistryError, match="is the database of another program"):
        Registry(f"sqlite:///{place}")
    assert place.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("places*")) == ["places.sqlite"]


def test_a_statement_without_end_is_stopped(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Registry(f"sqlite:///{store}").client
    monkeypatch.setattr(sqlite_files, "LEAST_LOOKS", 1)
    monkeypatch.setattr(sqlite_files, "BYTES_A_LOOK", 1 << 40)
    endless = f"{ENDLESS} SELECT count(*) FROM n"
    with (
        pytest.raises(RegistryError, match="interrupted"),
        client.plain_errors(),
        client.engine.connect() as connection,
    ):
        connection.exec_driver_sql(endless)


def test_each_statement_has_its_own_steps(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that lives for weeks is not stopped by what it did before."""
    monkeypatch.setattr(sqlite_files, "LEAST_LOOKS", 3)
    monkeypatch.setattr(sqlite_files, "STEPS", 10_000)
    monkeypatch.setattr(sqlite_files, "BYTES_A_LOOK", 1 << 40)
    registry = Registry(f"sqlite:///{store}")
    with registry.client.engine.connect() as connection:
        for _ in range(50):
            found = connection.exec_driver_sql(f"{ENDLESS} SELECT count(*) FROM (SELECT i FROM n LIMIT 1000)")
            assert found.scalar() == 1_000


def test_a_value_that_the_file_cannot_hold_is_refused(store: Path) -> None:
    client = Registry(f"sqlite:///{store}").client
    with pytest.raises(RegistryError, match="too big"), client.plain_errors(), client.engine.connect() as connection:
        connection.exec_driver_sql("SELECT hex(zeroblob(400000000))")


def test_values_of_another_kind_are_shown_as_text(copied_chain: Chain) -> None:
    """SQLite keeps anything in any column."""
    run = f"run_uuid = '{copied_chain.dense}'"
    script = f"UPDATE runs SET name = x'ff00', start_time = 'soon', end_time = x'01' WHERE {run};"
    script += f"UPDATE params SET value = x'ff' WHERE {run};"
    script += f"UPDATE latest_metrics SET value = 'much', is_nan = 0 WHERE {run} AND key = 'test_accuracy'"
    alter(copied_chain.store, script)
    (found,) = [one for one in Registry(copied_chain.uri).search() if one.run_id == copied_chain.dense]
    assert (found.name, found.started, found.ended) == ("b'\\xff\\x00'", 0, 0)
    assert set(found.params.values()) == {"b'\\xff'"}
    assert found.edits == (f"metric test_accuracy was edited: it is nan, was {found.metric('test_accuracy')}",)
