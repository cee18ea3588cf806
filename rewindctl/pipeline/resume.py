"""The point that an interrupted training goes on from: one file a run, on this machine, gone at the end."""

from dataclasses import asdict

from rewindctl.errors import IntegrityError
from rewindctl.files import replacing, writing
from rewindctl.registry import RunWriter
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.loop import Evaluation, ResumePoint


def save_point(writer: RunWriter, point: ResumePoint) -> None:
    """Keep `point`, with the digests of the artifacts that the run has so far."""
    notes = {
        "evaluations": [asdict(evaluation) for evaluation in point.evaluations],
        "training_seconds": point.training_seconds,
        "wall_seconds": point.wall_seconds,
        "digests": writer.digests,
    }
    with writing(writer.resume_file), replacing(writer.resume_file) as temporary:
        point.state.save(temporary, notes)


def load_point(writer: RunWriter) -> ResumePoint | None:
    """The point that the run left, None where there is none or it cannot be read: then the training starts anew."""
    path = writer.resume_file
    if not path.is_file():
        return None
    try:
        state, notes = TrainState.load(path), TrainState.notes(path)
        evaluations = tuple(Evaluation(**evaluation) for evaluation in notes["evaluations"])
        writer.digests = {**notes["digests"], **writer.digests}
        seconds = float(notes["training_seconds"])
        return ResumePoint(
            state, evaluations, seconds, float(notes.get("wall_seconds", seconds))
        )  # older ones have none
    except (IntegrityError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
