"""Where the files of a run are: among its artifacts, and on this machine."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

CHECKPOINTS = "checkpoints/"
FINAL = f"{CHECKPOINTS}final.safetensors"
MASK = "mask/mask.safetensors"
LAYERS = "mask/layers.csv"


def checkpoint_path(iteration: int | None) -> str:
    """The checkpoint of an iteration; None: the last."""
    return FINAL if iteration is None else f"{CHECKPOINTS}{iteration:08d}.safetensors"


def local_path(artifact_uri: str) -> Path | None:
    """The folder of an artifact URI, None where it is not one of this machine."""
    parts = urlsplit(artifact_uri)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None
