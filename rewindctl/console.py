"""All output: data to stdout, talk to stderr."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rewindctl.errors import RewindError

REFRESH_SECONDS = 0.1


class Console:
    """Where a command speaks. `quiet` keeps progress and remarks back, never errors."""

    def __init__(self, *, quiet: bool = False, debug: bool = False) -> None:
        self.quiet, self.debug = quiet, debug

    def data(self, text: str) -> None:
        """A line of result, to stdout."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def json(self, value: Any) -> None:
        """One JSON document, to stdout, on one line. NaN is not JSON: it is refused."""
        self.data(json.dumps(value, allow_nan=False))

    def say(self, text: str) -> None:
        """A remark, to stderr."""
        if not self.quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def error(self, error: RewindError) -> None:
        """One line that names the value, one that says what to do."""
        sys.stderr.write(f"error: {' '.join(error.message.split())}\n")
        if error.hint:
            sys.stderr.write(f"hint: {' '.join(error.hint.split())}\n")
        sys.stderr.flush()

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar on stderr with iterations per second and time left; yields a function that takes the count done.

        Where stderr is no terminal it is a line at the end.
        """
        if self.quiet:
            yield lambda done: None
            return
        began = time.monotonic()
        if not sys.stderr.isatty():
            yield lambda done: None
            seconds = time.monotonic() - began
            self.say(f"{title}: {total:,} iterations in {seconds:.1f} s ({total / max(seconds, 1e-9):.1f} it/s)")
            return
        with _bar() as bar:
            task = bar.add_task(title, total=total, speed="")
            shown = 0.0

            def update(done: int) -> None:
                nonlocal shown
                now = time.monotonic()
                if now - shown >= REFRESH_SECONDS or done == total:
                    shown = now
                    bar.update(task, completed=done, speed=f"{done / max(now - began, 1e-9):.1f} it/s")

            yield update


def _bar() -> Any:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=RichConsole(stderr=True),
    )
