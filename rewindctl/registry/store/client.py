"""Calls of a tracking store: repeated while it is unreachable, failures as errors of one line."""

import gc
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rewindctl.errors import RewindError
from rewindctl.registry.claiming.fencing import fence_engines
from rewindctl.registry.roots.binding import Binding, MisplacedError
from rewindctl.registry.store import failures
from rewindctl.registry.store.address import is_server, sqlite_path
from rewindctl.registry.store.failures import (
    LOCKED,
    LOCKED_HINT,
    READING,
    AwayError,
    DeniedError,
    StoreError,
    hint_for,
    patiently,
    reason_of,
)
from rewindctl.registry.store.mlflow_internals import artifact_repository, engine
from rewindctl.registry.store.sqlite_files import guard_engines
from rewindctl.system.safe_text import redacted, remember, scrubbed

T = TypeVar("T")
# What MLflow takes from the environment unless it is set there. It reports usage to its makers at import; its patience
# is minutes in which a training stands still: see `Client` and `RunWriter`.
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "64",  # connections: two threads of each of 32 lanes, and the usual five
}
# What it is not to take from there, whoever set it: lines on our stdout (each run's address, password and all, SQL,
# models), bars, errors where a note is cut, and a server's word on how long to wait, in place of our own.
UNWANTED = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_PRINT_MODEL_URLS_ON_CREATION": "false",
    "MLFLOW_SQLALCHEMYSTORE_ECHO": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_TRUNCATE_LONG_VALUES": "true",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
SYNCHRONOUS = ("log_batch", "set_tag")  # $MLFLOW_ENABLE_ASYNC_LOGGING would have them return before they are done
# Done twice is done once; makers of experiments and registered models are told that there is one.
REPEATABLE = (
    *(*READING, "set_", "log_", "update_", "delete_"),
    *("create_experiment", "create_registered_model"),
)


class Client:
    """An MlflowClient whose failures are RegistryErrors of one line.

    A store that goes away is asked again for `patience` seconds, unless that might do something twice.
    """

    def __init__(self, uri: str, patience: float = 0.0) -> None:
        os.environ.update(UNWANTED)
        for key, value in DEFAULTS.items():
            os.environ.setdefault(key, value)
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is told once, by us
        # Interrupted within a query, or cut off from its database, it would print a traceback.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
        remember(uri)
        self.uri, self.display_uri = uri, redacted(uri)
        self.upgrades: dict[tuple[str, str, str], Any] = {}  # of runs of an older schema: see `reading`
        self.records: dict[tuple[str, str], Any] = {}  # of finished runs: see `reading`
        self.artifacts: Any = None  # what `reading` has read of the store's files
        self.edited: dict[str, tuple[str, ...]] = {}  # what was found edited, by run ID
        path = sqlite_path(uri)
        self._patience, self._remote = patience, path is None
        self.binding = Binding(path) if path is not None else None
        if not self._remote:
            guard_engines()
        if not is_server(uri):
            fence_engines()
        with self.plain_errors():
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    @property
    def absence(self) -> str:
        """That the store does not answer, and why one of its kind does not."""
        return f"the tracking store {self.display_uri} {'is unreachable' if self._remote else LOCKED}"

    def impatient(self) -> "Client":
        """The same client, whose calls fail at once when the store is unreachable."""
        other = Client.__new__(Client)
        other.__dict__.update(self.__dict__, _patience=0.0)
        return other

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if name in SYNCHRONOUS:
                kwargs["synchronous"] = True

            def once() -> Any:
                with self.plain_errors(name, args):
                    if self.binding is not None and not name.startswith(READING):
                        self.binding.require()
                    return method(*args, **kwargs)

            return self.patiently(once, repeatable=name.startswith(REPEATABLE))

        return call

    def patiently(self, call: Callable[[], T], *, repeatable: bool = True) -> T:
        """The call's result; repeated for a while where the store is unreachable and the call may be repeated."""

        def plainly() -> T:
            with self.plain_errors():
                return call()

        may_wait = repeatable or not self._remote  # what a lock keeps out was not done
        return patiently(plainly, self._patience if may_wait else 0.0)

    def is_misplaced(self) -> bool:
        """Whether it is a SQLite store that was copied or moved, and names files that are not its own."""
        try:
            self.refuse_misplaced()
        except MisplacedError:
            return True
        return False

    def refuse_misplaced(self) -> None:
        """Changes nothing. Raises: MisplacedError where the store's files are not its own, AwayError."""
        if self.binding is not None:
            with self.plain_errors():
                self.binding.refuse()

    def require_bound(self) -> None:
        """Before anything is written or deleted. Raises: as `refuse_misplaced`, but retries an unreachable store."""
        if self.binding is not None:
            self.patiently(self.binding.require)

    def delete_artifacts(self, artifact_uri: str, path: str | None = None) -> None:
        """Delete the artifacts of a run, or those below `path`: what MlflowClient has no method for."""
        self.require_bound()
        with self.plain_errors("delete_artifacts", (artifact_uri,)):
            artifact_repository(artifact_uri, self.uri).delete_artifacts(path)

    @property
    def engine(self) -> Any:
        """The database's own connections, None where the store is a server."""
        return engine(self._client)

    def list_files(self, artifact_uri: str) -> dict[str, int]:
        """Every file below an artifact URI and its bytes, whatever became of its run; empty where there is none."""
        with self.plain_errors("list_files", (artifact_uri,)):
            repository = artifact_repository(artifact_uri, self.uri)
            files: dict[str, int] = {}
            folders: list[str | None] = [None]
            while folders:
                for entry in repository.list_artifacts(folders.pop()):
                    if entry.is_dir:
                        folders.append(entry.path)
                    else:
                        files[entry.path] = entry.file_size or 0
            return files

    @contextmanager
    def plain_errors(self, method: str = "", values: tuple[Any, ...] = ()) -> Iterator[None]:
        """Failures of MLflow and of what it stands on become a StoreError of one line.

        `method` and `values` are what was asked, to name the right that is missing.
        """
        try:
            yield
        except RewindError:
            raise
        except (KeyboardInterrupt, SystemExit) as error:
            _let_go(error)
            raise
        except Exception as error:  # MLflow's, SQLAlchemy's, drivers', and those of an answer that is none
            reason = scrubbed(reason_of(error)[:3_000])  # MLflow's messages hold whole addresses
            message = f"the tracking store {self.display_uri} answered: {reason[:300]}"
            if self._remote and failures.is_outage(error):
                raise AwayError(message) from error
            if not self._remote and failures.is_locked(error):
                raise AwayError(self.absence, LOCKED_HINT) from error
            if self._remote and (code := failures.refused(error)):
                raise self._refusal(code, method, values) from error
            raise StoreError(message, hint_for(reason), str(getattr(error, "error_code", ""))) from error

    def _refusal(self, code: str, method: str, values: tuple[Any, ...]) -> DeniedError:
        name = failures.user_of(self.uri)
        user = f"user {name!r}" if name else "a caller without a user"
        if code == failures.UNKNOWN:
            return DeniedError(
                f"the tracking server {self.display_uri} rejects {user}",
                "check user and password: in --tracking-uri, or $MLFLOW_TRACKING_USERNAME and "
                "$MLFLOW_TRACKING_PASSWORD",
                code,
            )
        if method.startswith("create_experiment") or method == "create_registered_model":
            what = f"{method.removeprefix('create_').replace('_', ' ')} {values[0]!r}"
            return DeniedError(f"{user} may not make {what} in {self.display_uri}", "ask an administrator for it", code)
        right, subject = failures.missing(self._client, method, values)
        return DeniedError(
            f"{user} may not {failures.VERBS[right]} {subject} in {self.display_uri}",
            f"ask its owner or an administrator for {right}",
            code,
        )


def _let_go(error: BaseException | None) -> None:
    """Free what an interrupted call held: a cursor within a query keeps SQLite's lock from whoever cleans up now."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    gc.collect()  # a session and its transaction hold each other
