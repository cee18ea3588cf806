"""What a bundle says of itself: its files by digest, its runs with everything but their files."""

from typing import Annotated, Final, Literal

from pydantic import Field

from rewindctl.registry import records as tag
from rewindctl.registry.runs.manifest import ArtifactPath, Digest, File, Strict, parse_strict
from rewindctl.registry.runs.record import History, MetricName, Millis
from rewindctl.specs import Kind

FORMAT: Final = "rewindctl-bundle"
VERSION: Final = 1
HINT = "get the bundle again from where it was exported"
SMALLEST_PART = 1 << 16

# What travels as it is. The other tags follow from spec and parent, and are made anew; foreign ones stay behind.
CARRIED = (
    tag.MODEL,
    tag.DATASET,
    tag.SEED,
    tag.STRUCTURE,
    tag.SCOPE,
    tag.SPARSITY,
    tag.METHOD,
    tag.DEVICE,
    tag.PRECISION,
    tag.COLLECTED,
    tag.DETERMINISTIC,
    tag.STEP,
    tag.COMPILED,
    tag.UPDATES,
    tag.SPARED,
    tag.LABEL,
    tag.NOTE,
    tag.USER,
    tag.RECORD,
    tag.TICKET,
)

RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Name = Annotated[str, Field(min_length=1, max_length=250, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, Field(max_length=8_000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")]  # MLflow's limit for a tag


class RunEntry(Strict):
    """A finished run; `artifacts` are its files in the bundle, `omitted` those that its manifest has beyond them."""

    run_id: RunId
    name: Name
    kind: Kind
    fingerprint: Digest
    group: Digest
    spec: Annotated[str, Field(max_length=1_000_000)]
    parent: RunId | None
    weights_from: Annotated[str, Field(pattern=r"^[0-9a-f]{32}@[0-9]{1,12}$")] | None
    started: Annotated[Millis, Field(gt=0)]  # 0 is now to MLflow
    ended: Millis
    tags: dict[Text, Text]
    metrics: dict[MetricName, History]
    artifacts: Annotated[dict[ArtifactPath, Digest], Field(max_length=10_000)]
    omitted: Annotated[tuple[ArtifactPath, ...], Field(max_length=10_000)]

    def last(self, metric: str) -> float:
        """The value that the store shows of a metric: that of the last step."""
        return max(self.metrics[metric])[2]


class Index(Strict):
    """Runs, parents before their children, and files, each once."""

    format: Literal["rewindctl-bundle"]
    version: Literal[1]
    part_bytes: Annotated[int, Field(ge=SMALLEST_PART)] | None
    files: Annotated[tuple[File, ...], Field(max_length=1_000_000)]
    runs: Annotated[tuple[RunEntry, ...], Field(min_length=1, max_length=100_000)]


def parse_index(data: bytes, where: str) -> Index:
    """Raises: IntegrityError naming `where` and the first wrong field."""
    return parse_strict(Index, data, f"the index of {where}", HINT)
