"""The files of a run: their paths, `manifest.json` with their digests, `record.json` with tags and metrics.

MLflow lets anyone edit a finished run. The tag `rewindctl.record` is the digest of what results rest on, tags and last
values, so that an edit is seen without reading a file; what was there is then read from the record (see `reading`).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rewindctl.errors import IntegrityError
from rewindctl.registry import records as tag
from rewindctl.specs import canonical_json, first_problem

CHECKPOINTS = "checkpoints/"
FINAL = f"{CHECKPOINTS}final.safetensors"
MASK = "mask/mask.safetensors"
LAYERS = "mask/layers.csv"
MANIFEST_FILE = "manifest.json"
RECORD_FILE = "record.json"
MOST_JSON_BYTES = 16 << 20  # of a manifest or a spec
MOST_RECORD_BYTES = 256 << 20  # five million points
LARGEST_FILE = (1 << 33) - 1  # what a tar header can say
ALTERED = "restore it from a backup, or run the stage again with --force"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=LARGEST_FILE)]
ArtifactPath = Annotated[
    str, Field(max_length=250, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,7}$")
]
Model = TypeVar("Model", bound="Strict")

OURS = "rewindctl."
# What changes after the end, where something is, and names of runs, which have other IDs where they are imported:
# lineage is bound by the spec.
NOT_RECORDED = {
    *(tag.MANIFEST, tag.RECORD, tag.OWNER, tag.HEARTBEAT, tag.TICKET, tag.ERROR, tag.RESUME_POINT),
    *(tag.DENSE_RUN, tag.WEIGHTS_FROM, tag.IMPORT, tag.IMPORTED_FROM, tag.OMITTED, tag.COPIED, tag.STORAGE),
}
SHOWN = 60  # characters of a value in a message

Millis = Annotated[int, Field(ge=0, le=tag.LAST_TIME)]
MetricStep = Annotated[int, Field(ge=0, lt=1 << 53)]
MetricName = Annotated[
    str, Field(max_length=250, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_. -]*(/[A-Za-z0-9_][A-Za-z0-9_. -]*)*$")
]
MetricPoint = tuple[MetricStep, Millis, float]  # step, time, value
History = Annotated[tuple[MetricPoint, ...], Field(min_length=1)]


class Strict(BaseModel):
    """No unknown fields, no conversions, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class File(Strict):
    """Bytes that one run or several have as an artifact."""

    sha256: Digest
    size: Size


class Manifest(Strict):
    """Digest and size of every other artifact of a run; a path leads nowhere but below the run's own folder."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    artifacts: Annotated[dict[ArtifactPath, File], Field(max_length=10_000)]

    def results(self) -> dict[str, str]:
        """Digests of what later stages start from: networks and masks. Equal results, the same run."""
        return {path: file.sha256 for path, file in self.artifacts.items() if path.endswith(".safetensors")}


def parse_manifest(data: bytes, where: str, hint: str = ALTERED) -> Manifest:
    """Raises: IntegrityError naming `where` and the first wrong field."""
    return parse_strict(Manifest, data, f"manifest.json of {where}", hint)


def parse_strict(model: type[Model], data: bytes, what: str, hint: str) -> Model:
    """The value in JSON `data`. Raises: IntegrityError naming `what` and the first wrong field."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(
            f"{what} has a form that this version does not know: {first_problem(error)[:300]}", hint
        ) from None


def checkpoint_path(iteration: int | None) -> str:
    """The checkpoint of an iteration; None: the last."""
    return FINAL if iteration is None else f"{CHECKPOINTS}{iteration:08d}.safetensors"


class SealedRecord(Strict):
    """Our tags of a run, but for NOT_RECORDED, and the history of each of its metrics, oldest step first."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    tags: dict[str, str]
    metrics: dict[MetricName, History]

    def text(self) -> str:
        """The file's content."""
        return canonical_json(self.model_dump(mode="json", by_alias=True)) + "\n"

    def last(self) -> dict[str, float]:
        """The value of each metric that MLflow shows: that of the last step."""
        return {key: max(history)[2] for key, history in self.metrics.items()}

    def digest(self) -> str:
        """The value of the tag `rewindctl.record`."""
        return digest_of(self.tags, self.last())

    def edits(self, tags: Mapping[str, str], metrics: Mapping[str, float]) -> Iterator[str]:
        """A line for each difference between this record and the tags and last values that a store shows."""
        yield from _differences("tag", recorded(tags), self.tags)
        yield from _differences("metric", metrics, self.last())


def make_record(tags: Mapping[str, str], metrics: Mapping[str, Mapping[int, tuple[int, float]]]) -> SealedRecord:
    """The record of a run with these tags; of each metric the time (ms) and value by step."""
    histories = {
        key: tuple((step, time, plain(value)) for step, (time, value) in sorted(points.items()))
        for key, points in metrics.items()
        if points
    }
    return SealedRecord.model_validate({"schema": 1, "tags": recorded(tags), "metrics": histories})


def parse_record(data: bytes, where: str, hint: str) -> SealedRecord:
    """Raises: IntegrityError naming `where` and the first wrong field."""
    return parse_strict(SealedRecord, data, f"{RECORD_FILE} of {where}", hint)


def recorded(tags: Mapping[str, str]) -> dict[str, str]:
    """Those of a run's tags that are recorded; an empty one says nothing."""
    return {key: value for key, value in tags.items() if key.startswith(OURS) and key not in NOT_RECORDED and value}


def digest_of(tags: Mapping[str, str], metrics: Mapping[str, float]) -> str:
    """SHA-256 of the recorded tags and the last values that a store shows; 64 hexadecimal digits."""
    finite = {key: plain(value) if math.isfinite(value) else str(value) for key, value in metrics.items()}
    return hashlib.sha256(canonical_json({"metrics": finite, "tags": recorded(tags)}).encode()).hexdigest()


def plain(value: float) -> float:
    """The value as every store gives it back: SQLite has no negative zero."""
    return float(value) + 0.0


def _differences(kind: str, there: Mapping[str, object], was: Mapping[str, object]) -> Iterator[str]:
    for key in sorted(there.keys() | was.keys()):
        if key not in was:
            yield f"{kind} {key} was added after the run had ended"
        elif key not in there:
            yield f"{kind} {key} was removed: it was {_shown(was[key])}"
        elif there[key] != was[key]:
            yield f"{kind} {key} was edited: it is {_shown(there[key])}, was {_shown(was[key])}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
