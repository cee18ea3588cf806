"""A data set in memory: checked, in canonical order, with the digest that fingerprints carry."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rewindctl.catalog import Catalog, require_plain
from rewindctl.errors import DataError, code_of_others

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Images (n, height, width, channels) uint8 and labels (n,) int64 for training and test.

    `mean` and `std` are per channel over the training images, on a scale of 0 to 1.
    """

    name: str
    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str

    @property
    def channels(self) -> int:
        return int(self.train_images.shape[3])

    @property
    def train_size(self) -> int:
        return len(self.train_images)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.train_images.shape[1]), int(self.train_images.shape[2])

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @classmethod
    def from_arrays(cls, name: str, arrays: dict[str, Any], where: str) -> "Dataset":
        """From `x_train`, `y_train`, `x_test`, `y_test` and, if there, `class_names`.

        Samples are put in the order of their SHA-256, so the same samples are the same data set, with the same
        digest and the same results, whichever file and order they came in.

        Raises: DataError naming `where` and what is wrong.
        """
        parts = {}
        for part in ("train", "test"):
            images, labels = _checked_part(arrays, part, where)
            order = _canonical_order(images, labels)
            parts[part] = (np.ascontiguousarray(images[order]), labels[order])
        (x_train, y_train), (x_test, y_test) = parts["train"], parts["test"]
        if x_train.shape[1:] != x_test.shape[1:]:
            raise DataError(f"{where}: training images are {x_train.shape[1:]}, test images {x_test.shape[1:]}")
        if len(np.unique(y_train)) < 2:
            raise DataError(f"{where}: every training label is {y_train[0]}", "a classifier needs two classes or more")
        names = _class_names(arrays.get("class_names"), int(max(np.max(y_train), np.max(y_test))) + 1, where)
        mean, std = _channel_statistics(x_train)
        return cls(name, x_train, y_train, x_test, y_test, names, mean, std, _digest(x_train, y_train, x_test, y_test))


datasets: Catalog[Callable[[Path | None], Dataset]] = Catalog("data set")
Reader = TypeVar("Reader", bound=Callable[[Path | None], dict[str, Any]])


def register_dataset(name: str) -> Callable[[Reader], Reader]:
    """Decorator: a function of the data folder (`--data-dir`; None where not given) becomes the data set `name`.

    It returns `x_train` and `x_test`, uint8 (n, height, width, channels) with 1 or 3 channels, `y_train` and `y_test`,
    integers from 0, and may add `class_names`. The digest of the arrays is part of a run's fingerprint: changed data
    is another experiment.
    """

    require_plain("data set", name)

    def add(read: Reader) -> Reader:
        @functools.wraps(read)
        def load(data_dir: Path | None) -> Dataset:
            with code_of_others(f"data set {name!r} cannot be read", "see the package that registers it", DataError):
                return Dataset.from_arrays(name, read(data_dir), f"data set {name!r}")

        datasets.register(name)(load)
        return read

    return add


def _checked_part(arrays: dict[str, Any], part: str, where: str) -> tuple[Images, Labels]:
    missing = [key for key in (f"x_{part}", f"y_{part}") if key not in arrays]
    if missing:
        raise DataError(f"{where} lacks {' and '.join(missing)}", "it needs x_train, y_train, x_test and y_test")
    images, labels = np.asarray(arrays[f"x_{part}"]), np.asarray(arrays[f"y_{part}"])
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise DataError(
            f"{where}: x_{part} is {images.dtype} {images.shape}",
            "it must be uint8 (n, height, width, channels) with 1 or 3 channels",
        )
    labels = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise DataError(
            f"{where}: y_{part} is {labels.dtype} {labels.shape} for {len(images)} images",
            "it must be one integer for each image",
        )
    if int(labels.min()) < 0 or int(labels.max()) >= 2**15:
        raise DataError(f"{where}: y_{part} runs from {labels.min()} to {labels.max()}", "classes count from 0")
    return images, labels.astype(np.int64)


def _class_names(given: Any, count: int, where: str) -> tuple[str, ...]:
    if given is None:
        return tuple(str(index) for index in range(count))
    names = np.asarray(given)
    if names.shape != (count,):  # a name more would be an output more, with the digest the same
        raise DataError(
            f"{where}: class_names has shape {names.shape} for labels up to {count - 1}", "it must be a name for each"
        )
    return tuple(str(name) for name in names.tolist())


def _canonical_order(images: Images, labels: Labels) -> npt.NDArray[np.int64]:
    tails = labels.astype("<u4").tobytes()
    keys = [hashlib.sha256(image.tobytes() + tails[4 * i : 4 * i + 4]).digest() for i, image in enumerate(images)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__))


def _digest(*arrays: npt.NDArray[Any]) -> str:
    """SHA-256 over shape and bytes of each array (labels as 32-bit integers)."""
    digest = hashlib.sha256()
    for array in arrays:
        data = array if array.dtype == np.uint8 else array.astype("<u4")
        digest.update(f"{data.dtype.str}{data.shape}".encode())
        digest.update(data.tobytes())
    return digest.hexdigest()


def _channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and standard deviation per channel, from 256-bin histograms."""
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[3]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        mean = float(share @ levels)
        means.append(mean)
        deviations.append(max(float(np.sqrt(share @ (levels - mean) ** 2)), 1 / 255))  # a constant channel stays finite
    return tuple(means), tuple(deviations)
