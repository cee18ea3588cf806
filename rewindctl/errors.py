"""Every error a user can cause: one line that names the value, one line that says what to do, an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class RewindError(Exception):
    """A failure with a message, a hint and the exit code of the process (1: failed)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # Whole, from one process to another, without the arguments of `__init__`.
        return type(self).__new__, (type(self), *self.args), self.__dict__


class UsageError(RewindError):
    """The request itself is wrong: a value, a name, a parent (exit code 2)."""

    exit_code = 2


@contextmanager
def code_of_others(what: str, hint: str, kind: type[RewindError] = UsageError) -> Iterator[None]:
    """A plug-in's code runs in the block. Raises: `kind` with `what` and the reason, for all but our own errors."""
    try:
        yield
    except RewindError:
        raise
    except Exception as error:
        raise kind(f"{what}: {type(error).__name__}: {error}", hint) from error


class LimitError(RewindError):
    """Nothing failed, but the time or budget given was over before everything was done (exit code 3)."""

    exit_code = 3


class NotHereError(RewindError):
    """This machine lacks what an update is made by: nothing is wrong with the run, which is kept to be gone on with."""


class UnknownNameError(UsageError):
    """A name that no catalog entry has."""


class DataError(RewindError):
    """A data set is missing, damaged or of the wrong form."""


class DivergedError(RewindError):
    """The training loss became NaN or infinite.

    `iteration` is the number of finished updates when it happened, `learning_rate` the rate of the refused one.
    """

    def __init__(self, iteration: int, learning_rate: float, loss: float) -> None:
        super().__init__(
            f"training loss is {loss} at iteration {iteration} (learning rate {learning_rate:g}); "
            "stopped before the update",
            "lower the learning rate, or check the data",
        )
        self.iteration = iteration
        self.learning_rate = learning_rate


class RegistryError(RewindError):
    """The tracking store cannot be reached, read or written."""


class BusyError(RegistryError):
    """Another process is at the stage: `run_id` is its run, `owner` the process as host:pid."""

    def __init__(self, run_id: str, owner: str) -> None:
        super().__init__(
            f"run {run_id} ({owner}) is already running this stage",
            "leave out --no-wait to wait for it and use its result; "
            f"if its process is gone: mlflow runs delete --run-id {run_id}",
        )
        self.run_id, self.owner = run_id, owner


class KeptError(RegistryError):
    """The store of a finished run is unreachable or locked: `folder` on this machine holds the results of `run_id`."""

    def __init__(self, run_id: str, folder: str, why: str) -> None:
        super().__init__(
            f"{why}: the results of run {run_id} are kept in {folder}",
            "when the store answers again: rewindctl recover (the same command uploads them too)",
        )
        self.run_id, self.folder = run_id, folder


class DiskError(RegistryError):
    """A file cannot be written: its disk is full or read-only. The request was right, and can be repeated."""


class IntegrityError(RegistryError):
    """An artifact differs from what the manifest of its run says."""
