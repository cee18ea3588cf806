"""scikit-learn's bundled handwritten digits, the data set that needs no download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

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
    pixels, labels = _bundled()
    images = np.rint(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    order = np.random.RandomState(SPLIT_SEED).permutation(len(images))  # a stream NumPy keeps for ever
    train, test = order[:TRAINING_SAMPLES], order[TRAINING_SAMPLES:]
    arrays = {
        "x_train": images[train],
        "y_train": labels[train],
        "x_test": images[test],
        "y_test": labels[test],
    }
    return Dataset.from_arrays("digits", arrays, "scikit-learn's digits")


def _bundled() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Pixels (n, 64) 0..16 and labels (n,), from `load_digits`' own file: importing scikit-learn takes a second."""
    package = find_spec("sklearn")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz" if package and package.origin else None
    if path is None or not path.is_file():  # another version may keep it elsewhere
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return pixels, labels
    rows = np.loadtxt(path, delimiter=",")
    return rows[:, :-1], rows[:, -1].astype(np.int64)
