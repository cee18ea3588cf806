"""CIFAR-10 and CIFAR-100, as `NAME.npz` or as torchvision's files. Source: Krizhevsky 2009; the paper, table 3.

The published files are Python pickles, whose MD5 torchvision knows; they are read by nothing that could run code.
"""

import contextlib
import hashlib
import io
import os
import pickle
import pickletools
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rewindctl.datasets.dataset import Dataset, datasets
from rewindctl.datasets.files import find_npz, missing, places, write_npz
from rewindctl.datasets.npz import read_npz
from rewindctl.errors import DataError, UsageError

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
        raise ValueError(f"{path.name} has a different MD5 than the published file")
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


@dataclass(frozen=True)
class _Cifar:
    """What is known of a set: torchvision's class and folder, class count, and the digest of `Dataset`."""

    torchvision_name: str
    folder: str
    classes: int
    digest: str


_SETS = {
    "cifar10": _Cifar(
        "CIFAR10",
        "cifar-10-batches-py",
        10,
        "8c6dcc21d19680c793884637ee0cabf57d0940409fa9a5dc8b5bbc34efff75c0",
    ),
    "cifar100": _Cifar(
        "CIFAR100",
        "cifar-100-python",
        100,
        "272dd04c31e31b9f9436009df56d40a708812f7baff1da129046732cb56a4816",
    ),
}


@datasets.register("cifar10")
def cifar10(data_dir: Path | None) -> Dataset:
    """50,000 training and 10,000 test images of 32x32x3 in 10 classes."""
    return _load("cifar10", data_dir)


@datasets.register("cifar100")
def cifar100(data_dir: Path | None) -> Dataset:
    """50,000 training and 10,000 test images of 32x32x3 in 100 classes."""
    return _load("cifar100", data_dir)


def fetch(name: str, data_dir: Path | None) -> tuple[Dataset, Path]:
    """Download with torchvision, verify, keep as `NAME.npz`; an intact one is kept as it is.

    Raises: UsageError for a set that cannot be downloaded, DataError when the download fails.
    """
    if name not in _SETS:
        datasets[name]  # an unknown name has its own error
        raise UsageError(f"{name} needs no download", "it comes with rewindctl")
    target = places(data_dir)[0] / f"{name}.npz"
    if target.is_file():
        with contextlib.suppress(DataError):  # a damaged one is got again, as its own error advises
            return _load(name, data_dir), target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as folder:
            dataset = _read_torchvision(name, Path(folder), download=True)
            write_npz(target, dataset)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} could not be downloaded: {error}",
            f"download it elsewhere and put {name}.npz or torchvision's files into {target.parent}",
        ) from None
    return dataset, target


def _load(name: str, data_dir: Path | None) -> Dataset:
    path = find_npz(name, data_dir)
    if path is not None:
        return verified(name, Dataset.from_arrays(name, read_npz(path), str(path)), path)
    for place in places(data_dir):
        if (place / _SETS[name].folder).is_dir():
            return _read_torchvision(name, place, download=False)
    looked_at = [place / part for place in places(data_dir) for part in (f"{name}.npz", f"{_SETS[name].folder}/")]
    raise missing(name, looked_at)


def _read_torchvision(name: str, root: Path, *, download: bool) -> Dataset:
    """torchvision knows where the files are and their MD5; it would unpickle whatever they name."""
    import torchvision.datasets
    from torchvision.datasets.utils import download_and_extract_archive

    source = getattr(torchvision.datasets, _SETS[name].torchvision_name)
    if download:
        # torchvision prints to stdout, where only our data belongs.
        with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
            download_and_extract_archive(source.url, str(root), filename=source.filename, md5=source.tgz_md5)
    try:
        arrays = read_files(root / _SETS[name].folder, source)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(
            f"{root / _SETS[name].folder} is incomplete or altered: {str(error)[:200]}",
            f"remove it and run: rewindctl data fetch {name}",
        ) from None
    return verified(name, Dataset.from_arrays(name, arrays, str(root)), root)


def verified(name: str, dataset: Dataset, path: Path) -> Dataset:
    """The data set as it is. Raises: DataError when the images are not the published ones."""
    known = _SETS[name]
    sizes = (len(dataset.train_images), len(dataset.test_images), *dataset.train_images.shape[1:])
    hint = f"get it again: rewindctl data fetch {name}"
    if sizes != (50_000, 10_000, 32, 32, 3) or dataset.classes != known.classes:
        raise DataError(f"{path} is not {name}: {sizes}, {dataset.classes} classes", hint)
    if dataset.digest != known.digest:
        raise DataError(
            f"{path} was altered: its digest is {dataset.digest[:12]}, {name}'s is {known.digest[:12]}", hint
        )
    return dataset


def published_digest(name: str) -> str | None:
    """The digest that a published set must have; None for any other set."""
    return _SETS[name].digest if name in _SETS else None


def folder_of(name: str) -> str | None:
    """The folder of torchvision's files of a set; None for a set that is not downloaded."""
    return _SETS[name].folder if name in _SETS else None
