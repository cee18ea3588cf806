"""What a bundle says of itself: its files by digest, its runs with everything but their files."""

from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rewindctl.errors import IntegrityError
from rewindctl.registry import records as tag
from rewindctl.specs import Kind, first_problem

FORMAT: Final = "rewindctl-bundle"
VERSION: Final = 1
HINT = "get the bundle again from where it was exported"
SMALLEST_PART = 1 << 16
LARGEST_FILE = (1 << 33) - 1  # what a tar header can say
LAST_TIME = 10**14  # milliseconds; the year 5138

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
    tag.SPARED,
    tag.LABEL,
    tag.NOTE,
    tag.USER,
)

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Millis = Annotated[int, Field(ge=0, le=LAST_TIME)]
Step = Annotated[int, Field(ge=0, lt=1 << 53)]
Size = Annotated[int, Field(ge=0, le=LARGEST_FILE)]
Name = Annotated[str, Field(min_length=1, max_length=250, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, Field(max_length=8_000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")]  # MLflow's limit for a tag
ArtifactPath = Annotated[
    str, Field(max_length=250, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,7}$")
]
MetricName = Annotated[
    str, Field(max_length=250, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_. -]*(/[A-Za-z0-9_][A-Za-z0-9_. -]*)*$")
]
Point = tuple[Step, Millis, float]  # step, time, value


Model = TypeVar("Model", bound="Strict")


class Strict(BaseModel):
    """No unknown fields, no conversions, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class File(Strict):
    """Bytes that one run or several have as an artifact."""

    sha256: Digest
    size: Size


class RunEntry(Strict):
    """A finished run; `artifacts` are its files in the bundle, `omitted` those that its manifest has beyond them."""

    run_id: RunId
    name: Name
    kind: Kind
    fingerprint: Digest
    group: Digest
    spec: Annotated[str, Field(max_length=8_000)]
    parent: RunId | None
    weights_from: Annotated[str, Field(pattern=r"^[0-9a-f]{32}@[0-9]{1,12}$")] | None
    started: Annotated[Millis, Field(gt=0)]  # 0 is now to MLflow
    ended: Millis
    tags: dict[Text, Text]
    metrics: dict[MetricName, Annotated[tuple[Point, ...], Field(min_length=1)]]
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


class Manifest(Strict):
    """`manifest.json`: digest and size of every other artifact of a run."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    artifacts: dict[ArtifactPath, File]

    def results(self) -> dict[str, str]:
        """Digests of what later stages start from: networks and masks. Equal results, the same run."""
        return {path: file.sha256 for path, file in self.artifacts.items() if path.endswith(".safetensors")}


def parse_index(data: bytes, where: str) -> Index:
    """Raises: IntegrityError naming `where` and the first wrong field."""
    return _parse(Index, data, f"the index of {where}")


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Raises: IntegrityError naming `where` and the first wrong field."""
    return _parse(Manifest, data, f"manifest.json of {where}")


def _parse(model: type[Model], data: bytes, what: str) -> Model:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(
            f"{what} is none that version {VERSION} knows: {first_problem(error)[:300]}", HINT
        ) from None
