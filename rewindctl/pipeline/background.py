"""Writing beside a training: one thread does what it is handed, in order, while the training goes on."""

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

MOST = 4  # handed over and not done: each may hold a whole state of the network
LOOK_SECONDS = 0.2  # how long an interrupt can go unseen that comes just as a wait begins
GIVE_UP_SECONDS = 5.0  # how long a second interrupt waits for what is under way

Job = Callable[[], object]


class Background:
    """Does what it is given, one after the other, from the beginning of a `with` block to its end.

    The first failure is the last thing done: it is raised by the next call, and at the end of the block. Whatever ends
    the block, what was given is done first, at an interrupt too; a second interrupt drops what was not begun.

    Between the threads are queues made in C alone: an interrupt within a lock made in Python may leave it locked.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Job, bool] | None] = SimpleQueue()
        self._given, self._done = 0, 0
        self._error: BaseException | None = None
        self._dropping = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._work, name="background", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._drain()
        finally:
            self._jobs.put(None)
        if (error is None or isinstance(error, Exception)) and error is not self._error:
            self.check()  # what failed here failed first

    def give(self, job: Job) -> None:
        """Have it done after all that was given before; waits where too much is left to do. Raises: as `check`."""
        if self.left >= MOST:
            self.wait()
        self.check()
        self._given += 1
        self._jobs.put((job, False))

    def wait(self) -> None:
        """Until all that was given is done. Raises: as `check`."""
        _await(self._mark())
        self.check()

    def check(self) -> None:
        """Raises: what a job raised, if one did."""
        if self._error is not None:
            raise self._error

    @property
    def left(self) -> int:
        """How much was given and is not done."""
        return self._given - self._done

    def _mark(self) -> "SimpleQueue[None]":
        """Gets its item when all that was given is done, or dropped."""
        mark: SimpleQueue[None] = SimpleQueue()
        self._jobs.put((partial(mark.put, None), True))
        return mark

    def _drain(self) -> None:
        try:
            _await(self._mark())
        except BaseException:  # a second interrupt
            self._dropping = True
            with suppress(Empty):
                self._mark().get(timeout=GIVE_UP_SECONDS)
            raise

    def _work(self) -> None:
        while self._do(self._jobs.get()):
            pass

    def _do(self, item: tuple[Job, bool] | None) -> bool:
        """Do one thing, and keep nothing of it; False at the end."""
        if item is None:
            return False
        job, is_mark = item
        if is_mark:
            job()
            return True
        try:
            if self._error is None and not self._dropping:
                job()
        except BaseException as error:
            self._error = error
        self._done += 1
        return True


def _await(mark: "SimpleQueue[None]") -> None:
    while True:
        with suppress(Empty):
            return mark.get(timeout=LOOK_SECONDS)
