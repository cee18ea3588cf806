"""The data set that needs no download: all of scikit-learn's digits, each once, split once and for all."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from rewindctl.datasets import Dataset, digits, load_dataset

# Part of the fingerprint of every run on digits: with another digest none of them is found again.
DIGEST = "e9b6904a890a2bed983a1ad2fdd4118332f3bef613510c40673019fe495eb49a"


def samples(data: Dataset) -> list[bytes]:
    images = np.concatenate([data.train_images, data.test_images])
    labels = np.concatenate([data.train_labels, data.test_labels])
    return [image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True)]


def test_sizes_and_types_are_those_promised() -> None:
    data = load_dataset("digits")
    assert data.train_images.shape == (1_000, 8, 8, 1)
    assert data.test_images.shape == (797, 8, 8, 1)
    assert (data.train_images.dtype, data.test_images.dtype) == (np.uint8, np.uint8)
    assert (data.channels, data.classes) == (1, 10)


def test_training_and_test_set_together_are_every_sample_once() -> None:
    bunch = load_digits()
    spread = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    every = [image.tobytes() + bytes([label]) for image, label in zip(spread, bunch.target, strict=True)]
    assert len(every) == 1_797
    assert Counter(samples(load_dataset("digits"))) == Counter(every)


def test_the_17_grey_levels_stay_apart() -> None:
    data = load_dataset("digits")
    assert len(np.unique(np.concatenate([data.train_images, data.test_images]))) == 17
    assert (data.train_images.min(), data.train_images.max()) == (0, 255)


def test_every_class_is_in_both_parts_in_about_equal_shares() -> None:
    data = load_dataset("digits")
    for labels in (data.train_labels, data.test_labels):
        shares = np.bincount(labels, minlength=10) / len(labels)
        assert shares.min() > 0.07
        assert shares.max() < 0.13


def test_every_load_gives_the_same_data_set(tmp_path: Path) -> None:
    first, second = load_dataset("digits"), load_dataset("digits", tmp_path)
    assert first.digest == second.digest == DIGEST
    assert samples(first) == samples(second)


def test_where_scikit_learn_keeps_its_file_elsewhere_the_data_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_dataset("digits").digest
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    assert load_dataset("digits").digest == expected
