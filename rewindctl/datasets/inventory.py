"""What is known of data sets, without reading them where that is possible: sizes, digests, places."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewindctl.datasets.cifar import folder_of, published_digest
from rewindctl.datasets.dataset import Dataset, datasets
from rewindctl.datasets.files import find_npz, imported, load_dataset, places

CIFAR_SIZE, CIFAR_IMAGE = 50_000, (32, 32)


@dataclass(frozen=True)
class DataFacts:
    """Name, digest, number of training images, their height and width, channels, classes."""

    name: str
    digest: str
    train_size: int
    image_size: tuple[int, int]
    channels: int
    classes: int


def facts_of(name: str, data_dir: Path | None) -> DataFacts:
    """From what is published of a data set, else from the data. Raises: UnknownNameError, DataError."""
    digest = published_digest(name)
    if digest is not None:
        return DataFacts(name, digest, CIFAR_SIZE, CIFAR_IMAGE, 3, 100 if name == "cifar100" else 10)
    return describe_facts(load_dataset(name, data_dir))


def describe_facts(data: Dataset) -> DataFacts:
    """The facts of a data set in memory."""
    return DataFacts(data.name, data.digest, data.train_size, data.image_size, data.channels, data.classes)


def inventory(data_dir: Path | None) -> list[dict[str, Any]]:
    """Name and place of each data set, `place` None for one that is missing."""
    rows: list[dict[str, Any]] = []
    for name in datasets:
        folder = folder_of(name)
        if folder is None:
            rows.append({"name": name, "place": "built in"})
            continue
        found = find_npz(name, data_dir) or next((p / folder for p in places(data_dir) if (p / folder).is_dir()), None)
        rows.append({"name": name, "place": str(found) if found else None})
    return rows + [
        {"name": name, "place": str(place / f"{name}.npz")} for name, place in sorted(imported(data_dir).items())
    ]


def describe(dataset: Dataset) -> dict[str, Any]:
    """What a person wants to know of a data set."""
    return {
        "name": dataset.name,
        "train": len(dataset.train_images),
        "test": len(dataset.test_images),
        "shape": "x".join(str(size) for size in dataset.train_images.shape[1:]),
        "classes": dataset.classes,
        "digest": dataset.digest,
    }
