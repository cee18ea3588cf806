"""A setting of the whole process that several trainings in threads want at the same time."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager


class Shared:
    """A context that is entered once, by the first thread that comes in, and left by the last one that goes."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._context = self._make()
                self._context.__enter__()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._context.__exit__(None, None, None)
