"""The contract of an engine, which runs the stages of a plan."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Task:
    """A stage to run: its key in the plan, its spec as canonical JSON, the run of its parent, what to say before."""

    key: str
    spec: str
    parent_run_id: str | None
    remark: str = ""


@dataclass(frozen=True)
class Answer:
    """How a task ended: its run, and a message where it failed.

    `crashed`: the worker died, for whatever reason; the stage may be tried again. `stopped`: the time was over,
    and it goes on another time. `reused`: the run existed already.
    """

    key: str
    run_id: str | None = None
    message: str = ""
    hint: str = ""
    crashed: bool = False
    stopped: bool = False
    reused: bool = False


class Engine(Protocol):
    """Where stages run. `run_plan` drives it, from one thread; it knows no plan and no order.

    `slots` tasks may be under way at once; the number may change from one call to the next. `submit` takes a task whose
    parent is done and of which no twin is under way, when fewer than `slots` are, and returns at once. `wait` returns
    the answers that are there, after at most about so many seconds, each task's once; an engine that works in the
    calling thread answers when it is done. A stage that fails, a worker that dies and an end of time are answers, an
    interrupt is raised. `progress` gives the updates made so far of the tasks under way, by key, as far as known.
    `close` comes last, whatever happened: it ends what is under way as Ctrl-C does, recorded and with a point to go on
    from, and within about a minute's grace leaves no process or thread behind that could write to a run.
    """

    slots: int
    shown: Callable[[], None]  # called when there is progress and nobody is in `wait` to look

    def submit(self, task: Task) -> None: ...
    def wait(self, seconds: float) -> list[Answer]: ...
    def progress(self) -> dict[str, int]: ...
    def close(self) -> None: ...
