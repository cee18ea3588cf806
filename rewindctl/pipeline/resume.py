"""Writing beside a training by a thread of its own, and the resume point that an interrupted training goes on from.

A resume point is one file a run, on this machine or in the artifact store too, and gone when the run is finished.
"""

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Annotated, Self

from pydantic import Field

from rewindctl.errors import IntegrityError, RewindError
from rewindctl.registry import RunWriter
from rewindctl.registry.runs.manifest import ArtifactPath, File, Strict, parse_strict
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.system.files import replacing, writing
from rewindctl.training.records import Evaluation, ResumePoint

MOST = 4  # handed over and not done: each may hold a whole state of the network
LOOK_SECONDS = 0.2  # how long an interrupt can go unseen that comes just as a wait begins
GIVE_UP_SECONDS = 5.0  # how long a second interrupt waits for what is under way

Job = Callable[[], object]


class Background:
    """A thread that does jobs one after the other, within a `with` block.

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
        """Add a job to the queue; waits while the queue is full. Raises: as `check`."""
        if self.left >= MOST:
            self.wait()
        self.check()
        self._given += 1
        self._jobs.put((job, False))

    def wait(self) -> None:
        """Wait until all jobs are done. Raises: as `check`."""
        _await(self._mark())
        self.check()

    def check(self) -> None:
        """Raises: what a job raised, if one did."""
        if self._error is not None:
            raise self._error

    @property
    def left(self) -> int:
        """The number of jobs that are not done."""
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


class Measured(Strict):
    """What an `Evaluation` is as JSON; the loss on a test set may be no number."""

    iteration: Annotated[int, Field(ge=0)]
    lr: float
    train_loss: float | None
    test_loss: Annotated[float, Field(allow_inf_nan=True)]
    test_accuracy: Annotated[float, Field(ge=0, le=1)]


class Notes(Strict):
    """The contents of a resume point besides the network."""

    evaluations: tuple[Measured, ...]
    training_seconds: Annotated[float, Field(ge=0)]
    wall_seconds: Annotated[float, Field(ge=0)] | None = None  # older points have none
    loss_sum: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    loss_count: Annotated[int, Field(ge=0)] = 0
    digests: dict[ArtifactPath, File]


def save_point(writer: RunWriter, point: ResumePoint) -> None:
    """Keep `point`, with the digests of the artifacts that the run has so far. Raises: RegistryError, DiskError."""
    notes = {
        "evaluations": [asdict(evaluation) for evaluation in point.evaluations],
        "training_seconds": point.training_seconds,
        "wall_seconds": point.wall_seconds,
        "loss_sum": point.loss_sum,
        "loss_count": point.loss_count,
        "digests": writer.digests,
    }
    writer.check_ours()
    with writing(writer.resume_file), replacing(writer.resume_file) as temporary:
        point.state.save(temporary, notes)


@dataclass
class StoredPoints:
    """Brings a run's points to its artifact store by a thread of its own: the training and its record wait for none.

    When one is uploaded the newest is next; those that came in between are left out. One that fails costs nothing but
    the way to go on elsewhere: it is told once, and the next one is tried again.
    """

    writer: RunWriter
    work: Background
    made_on: Mapping[str, str]
    say: Callable[[str], None]
    _told: bool = False

    def offer(self) -> None:
        """That there is a new point. Of two that are left to do the second was not begun, and takes the newest."""
        if self.work.left < 2:
            self.work.give(self._upload)

    def _upload(self) -> None:
        try:
            self.writer.store_point(self.made_on)
        except RewindError as error:
            if not self._told:
                self.say(f"note: a resume point is stored on this machine only: {error.message}")
            self._told = True


def load_point(writer: RunWriter) -> ResumePoint | None:
    """The point that the run left, None where there is none or it cannot be read: then the training starts anew."""
    path = writer.resume_file
    if not path.is_file():
        return None
    try:
        state = TrainState.load(path)
        text = json.dumps(TrainState.notes(path)).encode()
        notes = parse_strict(Notes, text, path.name, "")
    except (IntegrityError, ValueError, RecursionError):
        return None
    evaluations = tuple(Evaluation(**measured.model_dump()) for measured in notes.evaluations)
    digests = {path: file.model_dump() for path, file in notes.digests.items()}
    writer.digests = {**digests, **writer.digests}
    wall = notes.training_seconds if notes.wall_seconds is None else notes.wall_seconds
    return ResumePoint(state, evaluations, notes.training_seconds, wall, notes.loss_sum, notes.loss_count)
