"""All output: data to stdout, talk to stderr."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rewindctl.counting import count_of
from rewindctl.errors import RewindError
from rewindctl.system.safe_text import fitting, one_line, plain, plain_or_bold, scrubbed

REFRESH_SECONDS = 0.1
LOG_SECONDS = 60.0  # between two lines of progress where there is no terminal to draw a bar on
BOARD_SECONDS = 300.0  # between two lines of many stages, when none of them ends
LONGEST_LINE = 4_000  # of an error: a value in it may be of any length


@dataclass(frozen=True)
class OutputStyle:
    """What stdout can show: line-drawing characters, and bold on a terminal.

    `$NO_COLOR` keeps bold back, `$FORCE_COLOR` asks for it elsewhere too; with both there is none.
    """

    unicode: bool = True
    colour: bool = False

    @classmethod
    def of_stdout(cls) -> "OutputStyle":
        encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
        terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        bold = (terminal or bool(os.environ.get("FORCE_COLOR"))) and not os.environ.get("NO_COLOR")
        return cls(encoding.startswith("utf"), bold)

    def strong(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.colour else text


class Console:
    """Where a command speaks. `quiet` keeps progress and remarks back, never errors.

    What steers a terminal is taken out at this door: names, tags and answers may have been written by anyone.
    """

    def __init__(self, *, quiet: bool = False, debug: bool = False) -> None:
        self.quiet, self.debug = quiet, debug

    def data(self, text: str) -> None:
        """A line of result, to stdout."""
        shown = plain_or_bold(text) if sys.stdout.isatty() else plain(text)
        sys.stdout.write(fitting(shown, getattr(sys.stdout, "encoding", None)) + "\n")
        sys.stdout.flush()

    def json(self, value: Any) -> None:
        """One JSON document, to stdout, on one line. NaN is not JSON: it is refused."""
        self.data(json.dumps(value, allow_nan=False))

    def say(self, text: str) -> None:
        """A remark, to stderr."""
        if not self.quiet:
            _to_stderr(plain(text))

    def pause(self, seconds: float) -> None:
        """Wait for something outside; whoever ends the work ends this too."""
        time.sleep(seconds)

    def error(self, error: RewindError) -> None:
        """One line that names the value, one that says what to do."""
        lines = {"error": scrubbed(error.message), "hint": scrubbed(error.hint)}
        shown = {key: " ".join(one_line(text).split())[:LONGEST_LINE] for key, text in lines.items()}
        _to_stderr("\n".join(f"{key}: {text}" for key, text in shown.items() if text or key == "error"))

    def traceback(self, text: str) -> None:
        """A traceback, for --debug; what others wrote into it may hold the address of a store with its password."""
        _to_stderr(plain(scrubbed(text)).rstrip())

    @contextmanager
    def progress(self, title: str, total: int, earlier: float = 0.0) -> Iterator[Callable[[int], None]]:
        """A bar on stderr with iterations per second and time left; yields a function that takes the count done.

        `earlier`: seconds that it took before, of a training that is gone on with. Where stderr is no terminal it is
        a line a minute, and one at the end.
        """
        if self.quiet:
            yield lambda done: None
            return
        began = time.monotonic() - earlier
        if not sys.stderr.isatty():
            said = time.monotonic()

            def log(done: int) -> None:
                nonlocal said
                now = time.monotonic()
                if now - said >= LOG_SECONDS and 0 < done < total:
                    said = now
                    speed = done / (now - began)
                    left = _duration((total - done) / speed)
                    self.say(f"{title}: {done:,} of {count_of(total, 'iteration')}, {speed:.1f} it/s, {left} left")

            yield log
            seconds = time.monotonic() - began
            self.say(
                f"{title}: {count_of(total, 'iteration')} in {seconds:.1f} s ({total / max(seconds, 1e-9):.1f} it/s)"
            )
            return
        with _bar(counts_down=True) as bar:
            task = bar.add_task(one_line(title), total=total, state="")
            shown = 0.0

            def update(done: int) -> None:
                nonlocal shown
                now = time.monotonic()
                if now - shown >= REFRESH_SECONDS or done == total:
                    shown = now
                    bar.update(task, completed=done, state=f"{done / max(now - began, 1e-9):.1f} it/s")

            yield update

    @contextmanager
    def steps(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar on stderr for work in equal parts; yields a function that takes the count done. Needs a terminal."""
        if self.quiet or total < 2 or not sys.stderr.isatty():
            yield lambda done: None
            return
        with _bar() as bar:
            task = bar.add_task(title, total=total, state="")
            yield lambda done: bar.update(task, completed=done)

    @contextmanager
    def board(self, total: int) -> Iterator["Board"]:
        """One bar on stderr for many stages; where stderr is no terminal, a line for each that ends."""
        if self.quiet or not sys.stderr.isatty():
            yield Board(self, total)
            return
        with _bar() as bar:
            yield _LiveBoard(self, total, bar)


class Board:
    """How far many stages are: what is done of how many, how many are under way, updates per second, seconds left."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total = console, total
        self.said = time.monotonic()
        self.update(0, 0, 0.0, None)

    def update(self, done: int, running: int, speed: float, left: float | None) -> None:
        self.done, self.running, self.speed, self.left = done, running, speed, left
        if time.monotonic() - self.said >= BOARD_SECONDS:
            self.line(f"{running} running")

    def line(self, text: str) -> None:
        """A remark about a stage that ended."""
        self.said = time.monotonic()
        left = "" if self.left is None else f", {_duration(self.left)} left"
        self.console.say(f"[{self.done}/{self.total}, {self.speed:.1f} it/s{left}] {text}")


class _LiveBoard(Board):
    def __init__(self, console: Console, total: int, bar: Any) -> None:
        self.console, self.total = console, total
        self.bar = bar
        self.task = bar.add_task("stages", total=total, state="")
        self.update(0, 0, 0.0, None)

    def update(self, done: int, running: int, speed: float, left: float | None) -> None:
        self.done, self.running, self.speed, self.left = done, running, speed, left
        time_left = "" if left is None else f", {_duration(left)} left"
        self.bar.update(self.task, completed=done, state=f"{running} running, {speed:.1f} it/s{time_left}")

    def line(self, text: str) -> None:
        self.bar.console.print(plain(text), markup=False, highlight=False, soft_wrap=True)


def hold_streams() -> None:
    """No file that is opened from now on gets the number of a standard stream that is closed; stderr may be."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 (for the whole process)


def _to_stderr(text: str) -> None:
    """What nobody reads any more costs no work."""
    try:
        sys.stderr.write(fitting(text, getattr(sys.stderr, "encoding", None)) + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _duration(seconds: float) -> str:
    """`0:42:10`, or days where there are many hours."""
    days, rest = divmod(int(seconds), 86_400)
    hours, minutes = divmod(rest // 60, 60)
    return f"{f'{days} d ' if days else ''}{hours}:{minutes:02}:{rest % 60:02}"


def _bar(*, counts_down: bool = False) -> Any:
    """A bar with the count done, the text `state` of its task, and the time that has passed or is left."""
    from rich import progress
    from rich.console import Console as RichConsole

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[state]}", markup=False),
        progress.TimeRemainingColumn() if counts_down else progress.TimeElapsedColumn(),
        console=RichConsole(stderr=True),
    )
