"""What MLflow does not document and we use all the same, each with its reason; nothing of it stands anywhere else.

For their sake `mlflow` has an upper bound in pyproject.toml, and `make test-oldest` tries the lower one. What its UI
keeps in the browser (`ui/front_page`) and in tags of an experiment (`ui/views`) is undocumented too.
"""

from typing import Any

# Its tables. SQLite stores are read directly where MLflow is too slow to load (completion), would change what it opens
# (other stores, those that were moved), or has no call: the addresses of files, and all of a relocation.
OF_A_STORE = {"experiments", "runs"}
# What is read and written for a run; MLflow has triggers and computed columns elsewhere.
PLAIN = {
    *("experiments", "experiment_tags", "runs", "tags", "params", "metrics", "latest_metrics", "webhooks"),
    *("datasets", "inputs", "input_tags", "registered_models", "registered_model_tags", "registered_model_aliases"),
    *("model_versions", "model_version_tags", "logged_models", "logged_model_metrics", "logged_model_params"),
    *("logged_model_tags", "trace_info", "trace_tags"),
    "alembic_version",
}

# Whether a store is whole: MLflow has no call that does not also make or migrate it.
MIGRATED = "SELECT version_num FROM alembic_version"
HAS_EXPERIMENT = "SELECT 1 FROM experiments LIMIT 1"  # it writes its default one after the last migration
HAS_TABLES_POSTGRESQL = "SELECT to_regclass('experiments') IS NOT NULL"

# Other stores of this machine: MLflow would migrate them.
RUN_IDS = "SELECT run_uuid FROM runs"
LOCATIONS = "SELECT artifact_location FROM experiments"
TWINS = f"{LOCATIONS} WHERE name = ? AND creation_time = ?"

# Whose files are whose, looked at before every write; the tag is set by the first of several processes.
HOMES = """
    SELECT one.experiment_id, one.name, one.artifact_location, one.creation_time, mark.value,
        EXISTS (SELECT 1 FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid AND tags.key = 'rewindctl.kind'
            WHERE runs.experiment_id = one.experiment_id)
    FROM experiments AS one LEFT JOIN experiment_tags AS mark
        ON mark.experiment_id = one.experiment_id AND mark.key = ?
"""
BIND = "INSERT OR IGNORE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)"

# A relocation: MLflow has no call that changes an address.
FOLDERS = """
    SELECT artifact_uri FROM runs WHERE experiment_id = :id
    UNION SELECT artifact_location FROM logged_models WHERE experiment_id = :id
"""
_OF_RUNS = "run_id IN (SELECT run_uuid FROM runs WHERE experiment_id = :id)"
_OF_TRACES = (
    "key = 'mlflow.artifactLocation' AND request_id IN (SELECT request_id FROM trace_info WHERE experiment_id = :id)"
)
# Every column in which MLflow keeps an address below an experiment's artifact root.
_ADDRESSES = (
    ("runs", "artifact_uri", "experiment_id = :id"),
    ("logged_models", "artifact_location", "experiment_id = :id"),
    ("model_versions", "source", _OF_RUNS),
    ("model_versions", "storage_location", _OF_RUNS),
    ("trace_tags", "value", _OF_TRACES),
)
MOVE = (
    *(
        f"UPDATE {table} SET {column} = :new || substr({column}, :length + 1) "
        f"WHERE ({column} = :old OR substr({column}, 1, :length + 1) = :below) AND {which}"
        for table, column, which in _ADDRESSES
    ),
    "UPDATE experiments SET artifact_location = :new WHERE experiment_id = :id",
)
REBIND = "INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)"
_OURS = "SELECT run_uuid FROM tags WHERE key = 'rewindctl.kind'"
_RUNS = f"SELECT run_uuid FROM runs WHERE experiment_id = :id AND run_uuid IN ({_OURS})"
_UNFINISHED = f"run_uuid IN ({_RUNS}) AND status IN ('RUNNING', 'SCHEDULED', 'KILLED')"
TAG = "INSERT OR REPLACE INTO tags (key, value, run_uuid)"
TAG_RUN = f"{TAG} VALUES (?, ?, ?)"
TAG_RUNS = f"{TAG} SELECT :key, :value, run_uuid FROM ({_RUNS})"
TAG_UNFINISHED = f"{TAG} SELECT :key, :value, run_uuid FROM runs WHERE {_UNFINISHED}"
FAIL_UNFINISHED = f"UPDATE runs SET status = 'FAILED' WHERE {_UNFINISHED}"
TAGGED = f"SELECT run_uuid, value FROM tags WHERE key = :key AND run_uuid IN ({_RUNS})"

# What a shell offers: MLflow takes seconds to load.
GLANCE_RUNS = """
    SELECT runs.run_uuid, runs.status, kinds.value, runs.name FROM runs
    JOIN tags AS kinds ON kinds.run_uuid = runs.run_uuid AND kinds.key = 'rewindctl.kind'
    WHERE runs.lifecycle_stage = 'active' AND runs.run_uuid GLOB ? {kinds} ORDER BY runs.start_time DESC LIMIT ?
"""
GLANCE_ALIASES = """
    SELECT 'models:/' || aliases.name || '@' || alias FROM registered_model_aliases AS aliases
    JOIN model_versions AS versions ON versions.name = aliases.name AND versions.version = aliases.version
    JOIN runs ON runs.run_uuid = versions.run_id AND runs.lifecycle_stage = 'active' AND runs.status = 'FINISHED'
    JOIN tags AS kinds ON kinds.run_uuid = runs.run_uuid AND kinds.key = 'rewindctl.kind' AND kinds.value = 'dense'
    WHERE aliases.name GLOB '*-dense' ORDER BY aliases.name, alias LIMIT ?
"""
GLANCE_EXPERIMENTS = "SELECT name FROM experiments WHERE lifecycle_stage = 'active' ORDER BY experiment_id LIMIT ?"


def mapping() -> Any:
    """MLflow's classes of its tables, any database's: a search by its API takes seconds for a thousand runs, and a
    fence must look within the transaction that it guards."""
    from mlflow.store.tracking.dbmodels import models

    return models


def engine(client: Any) -> Any:
    """An MlflowClient's connections to its database, None where the store is a server: for `mapping`."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = client._tracking_client.store
    return store.engine if isinstance(store, SqlAlchemyStore) else None


def artifact_repository(artifact_uri: str, tracking_uri: str) -> Any:
    """The files at an address: MlflowClient deletes none, and lists none of a run that is deleted."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(artifact_uri, tracking_uri=tracking_uri)


def saved_user() -> str:
    """The user of MLflow's own file of credentials, to be named where a right is missing; empty without one."""
    from mlflow.utils.credentials import read_mlflow_creds

    return read_mlflow_creds().username or ""


def ui() -> tuple[Any, str]:
    """The application of MLflow's UI and the folder of its pages: it has no setting for what it opens on."""
    import mlflow.server
    from mlflow.server.fastapi_app import app

    return app, str(mlflow.server.app.static_folder)
