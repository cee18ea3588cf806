"""A stage that another process is at is waited for: its result is found, or the stage is ours when it dies.

One that is done, and that only its store does not know of, is uploaded.
"""

from collections.abc import Callable
from typing import Protocol

from rewindctl.console import Console
from rewindctl.durations import Deadline
from rewindctl.errors import BusyError, KeptError, LimitError
from rewindctl.registry import Registry, RunRecord, RunWriter, Watch
from rewindctl.registry.recovery import recover

POLL_SECONDS = 3.0


class Start(Protocol):
    """`Registry.start` of one stage."""

    def __call__(self, *, watch: Watch) -> RunWriter: ...


def find_or_start(
    find: Callable[[], RunRecord | None], start: Start, console: Console, wait: bool, deadline: Deadline | None = None
) -> RunRecord | RunWriter:
    """The finished run of a stage, or an open one to work on.

    Raises: BusyError when another process is at the stage and we are not to `wait`; LimitError when the deadline comes
    first.
    """
    watch, told = Watch(), ""
    found = find()
    while found is None:
        try:
            return start(watch=watch)
        except BusyError as error:
            busy = error
        found = find()  # it may have finished between the two looks
        if found is None and not wait:
            raise busy
        if found is None:
            if busy.run_id != told:
                console.say(f"waits for run {busy.run_id} ({busy.owner}), which is at this stage")
                told = busy.run_id
            if deadline is not None and deadline.left() <= 0:
                raise LimitError(f"run {busy.run_id} ({busy.owner}) is still at this stage")
            console.pause(POLL_SECONDS)
    return found


def bring_kept(registry: Registry, fingerprint: str, console: Console) -> None:
    """Upload what is kept here of a stage, in any experiment; reports are a stage without fingerprint.

    Raises: KeptError when it cannot be.
    """
    for one in recover(registry.uri, fingerprint=fingerprint):
        if one.lost:
            console.say(f"note: results of run {one.run_id} are kept for nothing: {one.text}; {one.hint}")
        elif one.state == "failed" and one.uri == registry.display_uri:
            raise KeptError(one.run_id, one.folder, one.text)
        if one.state in ("uploaded", "superseded"):
            console.say(f"kept results of run {one.run_id}: {one.text}")
