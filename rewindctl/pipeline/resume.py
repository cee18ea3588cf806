"""The point that an interrupted training goes on from: one file a run, here or in the store too, gone at the end."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

from pydantic import Field

from rewindctl.errors import IntegrityError, RewindError
from rewindctl.pipeline.background import Background
from rewindctl.registry import RunWriter
from rewindctl.registry.runs.manifest import ArtifactPath, File, Strict, parse_strict
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.system.files import replacing, writing
from rewindctl.training.records import Evaluation, ResumePoint


class Measured(Strict):
    """What an `Evaluation` is as JSON; the loss on a test set may be no number."""

    iteration: Annotated[int, Field(ge=0)]
    lr: float
    train_loss: float | None
    test_loss: Annotated[float, Field(allow_inf_nan=True)]
    test_accuracy: Annotated[float, Field(ge=0, le=1)]


class Notes(Strict):
    """What is beside the network in a point."""

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
