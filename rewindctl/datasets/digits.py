"""scikit-learn's bundled handwritten digits, the data set that needs no download."""

from pathlib import Path

import numpy as np

from rewindctl.datasets.dataset import Dataset, datasets

TRAINING_SAMPLES = 1_000
SPLIT_SEED = 0


@datasets.register("digits")
def digits(data_dir: Path | None) -> Dataset:
    """1,000 training and 797 test images of 8x8, grey levels 0..16 spread over 0..255.

    Split at random once and for all: the file is in the order of its writers.
    Source: scikit-learn's `load_digits` (Alpaydin and Kaynak 1998).
    """
    del data_dir
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    order = np.random.RandomState(SPLIT_SEED).permutation(len(images))  # a stream NumPy keeps for ever
    train, test = order[:TRAINING_SAMPLES], order[TRAINING_SAMPLES:]
    arrays = {
        "x_train": images[train],
        "y_train": bunch.target[train],
        "x_test": images[test],
        "y_test": bunch.target[test],
    }
    return Dataset.from_arrays("digits", arrays, "scikit-learn's digits")
