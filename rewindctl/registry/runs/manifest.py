"""`manifest.json`: which files a run has, checked before any of them is read."""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rewindctl.errors import IntegrityError
from rewindctl.specs import first_problem

MANIFEST_FILE = "manifest.json"
MOST_JSON_BYTES = 16 << 20  # of a manifest or a spec
LARGEST_FILE = (1 << 33) - 1  # what a tar header can say
ALTERED = "restore it from a backup, or run the stage again with --force"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=LARGEST_FILE)]
ArtifactPath = Annotated[
    str, Field(max_length=250, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,7}$")
]
Model = TypeVar("Model", bound="Strict")


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
            f"{what} is not of a form that this version knows: {first_problem(error)[:300]}", hint
        ) from None
