"""Which data sets are there, without reading them."""

from pathlib import Path
from typing import Any

from rewindctl.datasets.cifar import folder_of
from rewindctl.datasets.dataset import Dataset, datasets
from rewindctl.datasets.files import find_npz, imported, places


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
