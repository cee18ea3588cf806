"""`record.json`: the tags and every metric of a run as it was sealed, under the digest of its manifest.

MLflow lets anyone edit a finished run. The tag `rewindctl.record` is the digest of what results rest on, tags and last
values, so that an edit is seen without reading a file; what was there is then read from the record (see `reading`).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from rewindctl.registry import records as tag
from rewindctl.registry.runs.manifest import Strict, parse_strict
from rewindctl.specs import canonical_json

RECORD_FILE = "record.json"
MOST_RECORD_BYTES = 256 << 20  # five million points
OURS = "rewindctl."
# What changes after the end, where something is, and names of runs, which have other IDs where they are imported:
# lineage is bound by the spec.
NOT_RECORDED = {
    *(tag.MANIFEST, tag.RECORD, tag.OWNER, tag.HEARTBEAT, tag.TICKET, tag.ERROR, tag.RESUME_POINT),
    *(tag.DENSE_RUN, tag.WEIGHTS_FROM, tag.IMPORT, tag.IMPORTED_FROM, tag.OMITTED, tag.COPIED, tag.STORAGE),
}
SHOWN = 60  # characters of a value in a message

Millis = Annotated[int, Field(ge=0, le=tag.LAST_TIME)]
Step = Annotated[int, Field(ge=0, lt=1 << 53)]
MetricName = Annotated[
    str, Field(max_length=250, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_. -]*(/[A-Za-z0-9_][A-Za-z0-9_. -]*)*$")
]
Point = tuple[Step, Millis, float]  # step, time, value
History = Annotated[tuple[Point, ...], Field(min_length=1)]


class Record(Strict):
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
        """What a store that shows these tags and last values says otherwise, or beyond it: a line each."""
        yield from _differences("tag", recorded(tags), self.tags)
        yield from _differences("metric", metrics, self.last())


def make_record(tags: Mapping[str, str], metrics: Mapping[str, Mapping[int, tuple[int, float]]]) -> Record:
    """The record of a run with these tags; of each metric the time (ms) and value by step."""
    histories = {
        key: tuple((step, time, plain(value)) for step, (time, value) in sorted(points.items()))
        for key, points in metrics.items()
        if points
    }
    return Record.model_validate({"schema": 1, "tags": recorded(tags), "metrics": histories})


def parse_record(data: bytes, where: str, hint: str) -> Record:
    """Raises: IntegrityError naming `where` and the first wrong field."""
    return parse_strict(Record, data, f"{RECORD_FILE} of {where}", hint)


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
