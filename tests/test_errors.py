"""Errors travel between processes whole."""

import pickle

import pytest

from rewindctl.errors import BusyError, DivergedError, RewindError, UsageError


@pytest.mark.parametrize(
    "error",
    [RewindError("what", "do"), UsageError("what"), DivergedError(7, 0.1, float("inf")), BusyError("run", "host:1")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_after_pickling(error: RewindError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert (str(copy), copy.exit_code) == (str(error), error.exit_code)
