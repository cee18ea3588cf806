"""The part of the training set that judges trials. Nothing here reads the test set."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from rewindctl.datasets import Dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import UsageError
from rewindctl.seeds import stream


def held_out(size: int, fraction: float, seed: int) -> npt.NDArray[np.int64]:
    """The sorted indices of `fraction` of `size` training images, a pure function of the three. Raises: UsageError."""
    count = round(size * fraction)
    if not 0 < count < size:
        raise UsageError(
            f"--holdout {fraction:g} holds {count} of {size} training images out", "give a fraction such as 0.1"
        )
    chosen: npt.NDArray[np.int64] = np.sort(stream(seed, "holdout").permutation(size)[:count])
    return chosen


def tuning_data(dataset: Dataset, fraction: float, seed: int, device: torch.device) -> DeviceData:
    """The training set without the held-out part, which takes the place of the test set.

    Pixels are standardised as in a full training, by the statistics of the whole training set.
    """
    held = np.zeros(dataset.train_size, dtype=bool)
    held[held_out(dataset.train_size, fraction, seed)] = True
    images, labels = dataset.train_images, dataset.train_labels
    parts = replace(
        dataset,
        train_images=images[~held],
        train_labels=labels[~held],
        test_images=images[held],
        test_labels=labels[held],
    )
    return DeviceData.upload(parts, device)
