"""The published CIFAR files: Python pickles, whose MD5 torchvision knows, read by nothing that could run code."""

import hashlib
import io
import pickle
import pickletools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

# What the published files name; anything else would be a call of its author's choice.
ALLOWED = (
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
)
LARGEST_FILE = 200_000_000  # bytes; the largest published one has 155 MB


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's old name
            return super().find_class(module, name)


def read_files(folder: Path, source: Any) -> dict[str, Any]:
    """Images, labels and class names from the files that torchvision's class `source` lists.

    The bytes that are read are those whose MD5 was checked. Raises: ValueError naming the file that is not as
    published, OSError.
    """
    meta = _read(folder / source.meta["filename"], source.meta["md5"])
    arrays: dict[str, Any] = {"class_names": np.array(meta[source.meta["key"]])}
    for part, listed in (("train", source.train_list), ("test", source.test_list)):
        entries = [_read(folder / name, digest) for name, digest in listed]
        pixels = np.vstack([entry["data"] for entry in entries]).reshape(-1, 3, 32, 32)
        labels = [
            label for entry in entries for label in (entry["labels"] if "labels" in entry else entry["fine_labels"])
        ]
        arrays |= {f"x_{part}": pixels.transpose(0, 2, 3, 1), f"y_{part}": np.array(labels)}
    return arrays


def _read(path: Path, md5: str) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path.name} is missing or too large")
    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"{path.name} has another MD5 than the published file")
    return unpickled(content)


def unpickled(content: bytes) -> dict[str, Any]:
    """A dictionary of arrays, lists and text. Raises: ValueError for anything else, before it is made."""
    try:
        # The C unpickler makes a memo as long as the largest place that is named in it, in a file of a few bytes.
        for operation, argument, _ in pickletools.genops(content):
            if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(content):
                raise ValueError(f"it has {len(content):,} bytes and a memo of {argument:,}")
        found = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a pickle is a program: it may end anywhere
        raise ValueError(f"it is not a pickle of arrays: {error}") from None
    if not isinstance(found, dict):
        raise ValueError("it is not a pickle of a dictionary")
    return found
