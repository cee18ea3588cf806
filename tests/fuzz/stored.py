"""Readers of what lies on this machine or in a store that came from elsewhere: journals, resume points, databases."""

import functools
import itertools
import json
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from rewindctl.cli.session import run_json
from rewindctl.console import OutputStyle
from rewindctl.errors import UsageError
from rewindctl.pipeline.resume import load_point
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import shell_lookup as glance
from rewindctl.registry.records import KIND, SCHEMA
from rewindctl.registry.runs.reading import ANY, DELETED, search
from rewindctl.report.facts import RunFacts
from rewindctl.report.lineage import Family, forms
from rewindctl.report.runs import line, page_of
from rewindctl.report.screen import screen
from rewindctl.specs import TuneSpec
from rewindctl.tuning.sampling import counted, make_pruner, make_sampler
from rewindctl.tuning.search import Search
from rewindctl.tuning.storage import REPEATS, open_storage, open_study
from rewindctl.tuning.summary import best_of, write_table

NUMBERS = itertools.count()
RUN_ID = "ab" * 16
EXPERIMENT = {"experiment_id": 1, "name": "rewindctl", "artifact_location": "/nowhere", "lifecycle_stage": "active"}
RUN = {"run_uuid": RUN_ID, "name": "a run", "status": "FINISHED", "start_time": 10**12, "end_time": 10**12 + 5}
RUN |= {"lifecycle_stage": "active", "experiment_id": 1, "artifact_uri": "/nowhere/artifacts", "user_id": "me"}


def shown(record: RunRecord) -> None:
    """A run in every place that shows one: nothing in it may steer a terminal."""
    orders = ("spec", "accuracy", "compression", "started", "name")
    texts = [line(record), screen(RunFacts(record), OutputStyle())]
    texts += [line(one) for order in orders for one in page_of([record], order, False, 10, 1).runs]
    texts += [forms[form](Family([record], {}), OutputStyle()) for form in ("text", "mermaid", "dot")]
    json.dumps(run_json(record), allow_nan=False)
    for text in texts:
        assert not set("\x1b\x00\x07\r\x9b\u202e") & set(text), repr(text)


# --- journals of searches

SPEC = TuneSpec(
    parent_fingerprint="0" * 64,
    study="a",
    method="finetune",
    space='{"lr":{"high":0.1,"log":true,"low":1e-05,"type":"float"}}',
    seeds=(0,),
    holdout_fraction=0.1,
    holdout_seed=0,
    evaluate_every=1,
    sampler_seed=0,
    startup_trials=4,
    pruner="halving",
)


def journal(data: bytes, folder: Path) -> None:
    """The journal of a search that is gone on with: opened, its dead trials repeated, the next point asked for."""
    path = folder / "journal.log"
    path.write_bytes(data)
    study = open_study(open_storage(str(path)), SPEC, "p" * 32, make_sampler(SPEC), make_pruner(SPEC, 16))
    search = Search(study, {"lr": FloatDistribution(1e-5, 0.1, log=True)}, 10_000, lambda text: None)
    search.repeat_stale()
    for trial in counted(study):
        if REPEATS in trial.user_attrs:
            assert trial.user_attrs[REPEATS] in range(len(study.trials))
    asked = search.study.ask()
    assert 1e-5 <= asked.suggest_float("lr", 1e-5, 0.1, log=True) <= 0.1
    study.tell(asked, 0.5)
    assert best_of(counted(study)).value is not None
    write_table(counted(study), folder / "trials.csv")


@functools.cache
def journal_lines() -> bytes:
    """A journal with a trial that ended, one that failed, and one whose worker is gone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.log"
        study = open_study(open_storage(str(path)), SPEC, "p" * 32, make_sampler(SPEC), make_pruner(SPEC, 16))
        for number in range(3):
            trial = study.ask()
            trial.set_user_attr("owner", "elsewhere:1:2:3:4")
            trial.set_user_attr("beat", 1.0)
            trial.suggest_float("lr", 1e-5, 0.1, log=True)
            trial.report(0.5, 1)
            if number == 0:
                study.tell(trial, 0.5)
            elif number == 1:
                trial.set_user_attr("diverged", "the loss is nan")
                study.tell(trial, state=TrialState.FAIL)
        text = re.sub(r'"worker_id":"[^"]*"', '"worker_id":"w"', path.read_text())
        return re.sub(r"\d{4}-\d\d-\d\dT[^\"]*", "2026-01-01T00:00:00+00:00", text).encode()


def journal_changed(old: str, new: str) -> bytes:
    text = journal_lines().decode()
    assert old in text
    return text.replace(old, new).encode()


# --- resume points


class Interrupted:
    """What `load_point` asks of a run."""

    def __init__(self, resume_file: Path) -> None:
        self.resume_file, self.digests = resume_file, dict[str, Any]()


def resume_point(path: Path) -> None:
    """A point is one whole, or none: then the training starts anew."""
    run: Any = Interrupted(path)
    point = load_point(run)
    if point is None:
        raise UsageError("no point")
    for evaluation in point.evaluations:
        assert evaluation.iteration >= 0
        assert 0 <= evaluation.test_accuracy <= 1
        assert evaluation.train_loss is None or isinstance(evaluation.train_loss, float)
        assert isinstance(evaluation.test_loss + evaluation.lr, float)
    assert point.training_seconds >= 0
    assert all(len(file["sha256"]) == 64 and file["size"] >= 0 for file in run.digests.values())


# --- databases

READ = ("experiments", "experiment_tags", "runs", "tags", "params", "latest_metrics", "registered_models")
READ += ("model_versions", "registered_model_aliases", "registered_model_tags", "model_version_tags", "webhooks")
READ += ("inputs", "input_tags", "datasets", "metrics", "logged_models")


def store_file(data: bytes, folder: Path) -> None:
    """The bytes of a whole database."""
    with _database(folder, data) as path:
        with closing(sqlite3.connect(path)) as connection, suppress(sqlite3.Error, ValueError):
            if not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
                return  # an empty one is made a store, which takes seconds
        _look(path)


def store_rows(data: bytes, folder: Path) -> None:
    """Rows by table, as JSON, in a database that is right otherwise."""
    with _database(folder, empty_store()) as path:
        try:
            with closing(sqlite3.connect(path)) as connection, connection:
                for table, rows in json.loads(data).items():
                    for row in rows:
                        names = ", ".join(f'"{name}"' for name in row)
                        places = ", ".join("?" * len(row))
                        connection.execute(
                            f'INSERT INTO "{table}" ({names}) VALUES ({places})', [*map(_cell, row.values())]
                        )
        except (ValueError, TypeError, AttributeError, RecursionError, OverflowError, sqlite3.Error):
            raise UsageError("no rows") from None
        _look(path)


def _cell(value: Any) -> Any:
    """A JSON value as SQLite keeps it; a list of numbers stands for bytes."""
    return bytes(value) if isinstance(value, list) else value


def store_schema(data: bytes, folder: Path) -> None:
    """SQL that is carried out on a database that is right otherwise, for at most a moment, by its maker."""
    with _database(folder, empty_store(rows=True)) as path:
        try:
            with closing(sqlite3.connect(path)) as connection, connection:
                steps = itertools.count()
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 20)
                connection.set_progress_handler(lambda: next(steps) > 50, 1_000)
                connection.set_authorizer(_only_here)
                connection.executescript(data.decode("utf-8", "replace"))
        except (ValueError, sqlite3.Error, sqlite3.Warning):
            pass  # what came before it was done
        _look(path)


def _only_here(action: int, *about: Any) -> int:
    return sqlite3.SQLITE_DENY if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_PRAGMA) else sqlite3.SQLITE_OK


def _look(path: Path) -> None:
    uri = f"sqlite:///{path}"
    with suppress(Exception):  # as the shell's completion does
        glance.runs(uri, "", ("dense",))
        glance.baselines(uri)
        glance.experiments(uri)
    registry = Registry(uri)
    try:
        _read(registry)
    finally:
        registry.artifacts.downloads.cleanup()


def _read(registry: Registry) -> None:
    deleted = search(registry.client, [registry.experiment_id], {SCHEMA: ANY}, view=DELETED)
    found = [*registry.search(), *deleted]
    for run in found[:20]:
        shown(run)
        registry.children(run)
        assert registry.get(run.run_id, deleted=True).run_id == run.run_id
    search(registry.client, None, {KIND: "dense"})
    with suppress(UsageError):
        registry.resolve("abababab")
    with suppress(UsageError):
        registry.resolve("models:/resnet8-digits-dense@seed-0")


@contextmanager
def _database(folder: Path, content: bytes) -> Iterator[Path]:
    """A database that MLflow has not seen before, and forgets."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as ModelStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path = folder / f"{next(NUMBERS)}.db"
    path.write_bytes(content)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield path
    finally:
        tempfile.tempdir = before
        for store in (SqlAlchemyStore, ModelStore):
            engine = store._engine_map.pop(f"sqlite:///{path}", None)
            if engine is not None:
                engine.dispose()
        for left in (*folder.glob(f"{path.name}*"), folder / f".{path.name}.lock"):
            left.unlink(missing_ok=True)


@functools.cache
def empty_store(rows: bool = False) -> bytes:
    """A database that MLflow takes for its own, in few bytes: of the tables that nothing here reads, the names."""
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (the tables of both are known once they are imported)
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.db.utils import _get_latest_schema_revision
    from sqlalchemy.dialects.sqlite import dialect
    from sqlalchemy.schema import CreateTable

    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("PRAGMA page_size = 512")
        for name, table in Base.metadata.tables.items():
            real = str(CreateTable(table).compile(dialect=dialect()))
            connection.execute(real if name in READ else f"CREATE TABLE {name} (x)")
        connection.execute("CREATE TABLE alembic_version (version_num)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (_get_latest_schema_revision(),))
        connection.execute("INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (0, 'D', 'active')")
        for table_name, content in _right_rows().items() if rows else ():
            for row in content:
                names, places = ", ".join(row), ", ".join("?" * len(row))
                connection.execute(f"INSERT INTO {table_name} ({names}) VALUES ({places})", [*row.values()])
        connection.commit()
        return connection.serialize()


def _right_rows() -> dict[str, list[dict[str, Any]]]:
    tags = {"rewindctl.kind": "dense", "rewindctl.schema": "1", "rewindctl.seed": "0"}
    metric = {"key": "test_accuracy", "value": 0.5, "timestamp": 1, "step": 0, "is_nan": 0, "run_uuid": RUN_ID}
    return {
        "experiments": [EXPERIMENT],
        "runs": [RUN],
        "tags": [{"key": key, "value": value, "run_uuid": RUN_ID} for key, value in tags.items()],
        "params": [{"key": "iterations", "value": "24", "run_uuid": RUN_ID}],
        "latest_metrics": [metric],
    }


def rows(**changes: Any) -> bytes:
    """The rows of a store with one run; `table__column` changes a value in the table's rows."""
    found = _right_rows()
    for place, value in changes.items():
        table, column = place.split("__")
        found[table] = [{**row, column: value} for row in found[table]]
    return json.dumps(found).encode()


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
SCHEMAS = (
    f"ALTER TABLE tags RENAME TO t; CREATE VIEW tags AS {ENDLESS} SELECT i AS key, i AS value, i AS run_uuid FROM n",
    f"ALTER TABLE runs RENAME TO r; CREATE VIEW runs AS {ENDLESS} SELECT r.* FROM n, r",
    "ALTER TABLE params RENAME TO p; CREATE VIEW params AS SELECT key, hex(zeroblob(400000000)) AS value, run_uuid"
    " FROM p",
    "DROP TABLE params; CREATE TABLE params (run_uuid, key, value AS (hex(zeroblob(400000000))));",
    "DROP TABLE experiments; CREATE VIRTUAL TABLE experiments USING fts5(name)",
    "DELETE FROM experiments WHERE experiment_id = 1; CREATE TRIGGER a BEFORE INSERT ON experiments BEGIN"
    f" INSERT INTO tags {ENDLESS} SELECT i, i, i FROM n; END",
    "DROP TABLE alembic_version",
    "DELETE FROM experiments",
    "UPDATE alembic_version SET version_num = '../../x'",
    "DELETE FROM alembic_version",
    "DROP TABLE tags; CREATE TABLE tags (x)",
    "UPDATE runs SET name = zeroblob(900000); UPDATE tags SET value = zeroblob(900000)",
)
