"""What a plan needs to know of a data set, without the data where that is possible."""

from dataclasses import dataclass
from pathlib import Path

from rewindctl.datasets.cifar import published_digest
from rewindctl.datasets.dataset import Dataset
from rewindctl.datasets.files import load_dataset

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
