"""Every data set of the catalog, present or not, keeps the same promises; so does an imported one."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli

from rewindctl.datasets import Dataset, datasets, load_dataset
from rewindctl.datasets.batches import BatchStream, DeviceData
from rewindctl.datasets.files import import_dataset
from rewindctl.errors import DataError

NAMES = (*datasets, "imported")


def loaded(name: str) -> Dataset:
    """The data set; one that has to be downloaded is no part of these tests."""
    if name == "imported":
        rng = np.random.default_rng(0)
        images, labels = rng.integers(0, 256, (90, 9, 7, 3), dtype=np.uint8), np.arange(90) % 3
        np.savez("in.npz", x_train=images[:60], y_train=labels[:60], x_test=images[60:], y_test=labels[60:])
        import_dataset(name, Path("in.npz"), None)
    try:
        return load_dataset(name)
    except DataError:
        pytest.skip(f"{name} is not bundled")


@pytest.mark.parametrize("name", NAMES)
def test_arrays_are_of_the_promised_form(name: str) -> None:
    data = loaded(name)
    assert data.name == name
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        assert (images.dtype, labels.dtype, images.ndim) == (np.uint8, np.int64, 4)
        assert images.flags.c_contiguous
        assert labels.shape == images.shape[:1]
        assert set(labels.tolist()) == set(range(data.classes))
    assert data.train_images.shape[1:] == data.test_images.shape[1:]
    assert data.channels in (1, 3)


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_finite_and_the_digest_stays(name: str) -> None:
    data = loaded(name)
    assert len(data.mean) == len(data.std) == data.channels
    assert all(0 <= mean <= 1 for mean in data.mean)
    assert all(deviation > 0 and math.isfinite(deviation) for deviation in data.std)
    assert len(data.digest) == 64
    assert load_dataset(name).digest == data.digest


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_in_canonical_order(name: str) -> None:
    data = loaded(name)
    arrays = {"x_train": data.train_images[::-1], "y_train": data.train_labels[::-1]}
    arrays |= {"x_test": data.test_images[::-1], "y_test": data.test_labels[::-1]}
    assert np.array_equal(Dataset.from_arrays(name, arrays, "memory").train_images, data.train_images)


@pytest.mark.parametrize("name", NAMES)
def test_batches_can_be_drawn(name: str) -> None:
    data = loaded(name)
    batches = BatchStream(DeviceData.upload(data, torch.device("cpu")), 16, padding=1, mirror=True, seed=0)
    images, labels = batches.batch(batches.batches_per_epoch)
    assert images.shape == (16, data.channels, *data.train_images.shape[1:3])
    assert torch.isfinite(images).all()
    assert 0 <= int(labels.min()) <= int(labels.max()) < data.classes


@pytest.mark.parametrize("name", list(datasets))
def test_catalog_entry_says_what_it_is_and_is_listed(name: str, cli: Cli) -> None:
    assert (datasets[name].__doc__ or "").strip()
    assert name in {row["name"] for row in json.loads(cli("data", "list", "--json").out)}


@pytest.mark.parametrize("name", list(datasets))
def test_built_in_name_is_not_taken_by_other_images(name: str, cli: Cli, tmp_path: Path) -> None:
    images, labels = np.arange(16, dtype=np.uint8).reshape(4, 2, 2, 1), np.arange(4) % 2
    np.savez("in.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert cli("data", "import", name, "in.npz").code in (1, 2)
    assert not list((tmp_path / "cache").rglob("*.npz"))
