"""The life of a run, whatever its kind: found, or claimed and its work done; then sealed and finished, or failed.

A run of another process is waited for: its result is used, or the stage is ours when that process dies. A run that is
finished but not uploaded is uploaded.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from rewindctl.console import Console
from rewindctl.errors import BusyError, DivergedError, KeptError, LimitError, RegistryError
from rewindctl.pipeline.pipeline import Pipeline
from rewindctl.registry import OwnerWatch, Registry, RunRecord, RunWriter
from rewindctl.registry import records as tag
from rewindctl.registry.delivery.recovery import recover
from rewindctl.training.device import device_name, environment

POLL_SECONDS = 3.0
FAILED_RUN = "rewindctl_run_id"


@dataclass(frozen=True)
class Outcome:
    """A finished run; `reused` when it was found and not made."""

    run: RunRecord
    reused: bool


class StartRun(Protocol):
    """`Registry.start` of one stage. Raises: BusyError."""

    def __call__(self, *, watch: OwnerWatch) -> RunWriter: ...


@dataclass(frozen=True)
class Life:
    """The parts that differ between kinds of runs: fingerprint, how to find and claim it, its work, its first tags.

    `forced`: always make a new run. `wait`: wait for a process that runs the stage, instead of failing.
    """

    fingerprint: str
    find: Callable[[], RunRecord | None]
    claim: StartRun
    work: Callable[[RunWriter], None]
    tags: Mapping[str, str] = field(default_factory=dict)
    forced: bool = False
    wait: bool = True


def live(life: Life, pipeline: Pipeline) -> Outcome:
    """The finished run, found or made.

    Raises: BusyError when another process runs it and `wait` is off; LimitError when the deadline comes first;
    KeptError; whatever its work raises, with the run closed, which `failed_run` knows.
    """
    if not life.forced:
        deliver_kept(pipeline.registry, life.fingerprint, pipeline.console)
    found = _find_or_claim(life, pipeline)
    if isinstance(found, RunRecord):
        return Outcome(found, reused=True)
    return Outcome(_carry_out(found, life, pipeline), reused=False)


def _find_or_claim(life: Life, pipeline: Pipeline) -> RunRecord | RunWriter:
    """The finished run of a stage, or an open one to work on."""
    find = (lambda: None) if life.forced else life.find
    deadline, watch, told = pipeline.policy.deadline, OwnerWatch(), ""
    found = find()
    while found is None:
        try:
            return life.claim(watch=watch)
        except BusyError as error:
            busy = error
        found = find()  # it may have finished between the two looks
        if found is None and not life.wait:
            raise busy
        if found is None:
            if busy.run_id != told:
                pipeline.console.say(
                    f"waiting for run {busy.run_id} ({busy.owner}), which is already running this stage"
                )
                told = busy.run_id
            if deadline is not None and deadline.left() <= 0:
                raise LimitError(f"run {busy.run_id} ({busy.owner}) is still running this stage")
            pipeline.console.pause(POLL_SECONDS)
    return found


def _carry_out(writer: RunWriter, life: Life, pipeline: Pipeline) -> RunRecord:
    """Do the work of an open run and finish it, or close it with what went wrong."""
    try:
        writer.tag({tag.DEVICE: device_name(pipeline.device), **life.tags})
        writer.write_json("environment.json", environment(pipeline.device))
        life.work(writer)
        writer.seal()
        return writer.finish(pipeline.console.say)
    except BaseException as error:
        if isinstance(error, DivergedError):
            where = {tag.DIVERGED_ITERATION: str(error.iteration), tag.DIVERGED_RATE: f"{error.learning_rate:g}"}
            with suppress(RegistryError):  # the run is closed in any case
                writer.tag(where)
            error.hint += f"; the FAILED run: rewindctl show {writer.run_id}"
        writer.fail(error)
        error.__dict__[FAILED_RUN] = writer.run_id
        raise


def failed_run(error: BaseException) -> str | None:
    """The run that recorded `error`, or None."""
    found = error.__dict__.get(FAILED_RUN)
    return found if isinstance(found, str) else None


def deliver_kept(registry: Registry, fingerprint: str, console: Console) -> None:
    """Upload what is kept here of a stage, in any experiment; reports are a stage without fingerprint.

    Raises: KeptError when it cannot be.
    """
    for one in recover(registry.uri, fingerprint=fingerprint):
        if one.lost:
            console.say(f"note: results of run {one.run_id} are not needed any more: {one.text}; {one.hint}")
        elif one.state == "failed" and one.uri == registry.display_uri:
            raise KeptError(one.run_id, one.folder, one.text)
        if one.state in ("uploaded", "superseded"):
            console.say(f"kept results of run {one.run_id}: {one.text}")
