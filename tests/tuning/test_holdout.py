"""The held-out part: of the training set alone, the same for the same seed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewindctl.datasets import load_dataset
from rewindctl.errors import UsageError
from rewindctl.tuning.request import held_out, tuning_data


@given(st.integers(2, 5_000), st.floats(0.01, 0.99), st.integers(0, 2**32 - 1))
def test_exactly_the_fraction_is_held_out_each_image_once(size: int, fraction: float, seed: int) -> None:
    count = round(size * fraction)
    if not 0 < count < size:
        with pytest.raises(UsageError, match="--holdout"):
            held_out(size, fraction, seed)
        return
    chosen = held_out(size, fraction, seed)
    assert len(chosen) == len(set(chosen.tolist())) == count
    assert chosen.min() >= 0
    assert chosen.max() < size
    assert np.array_equal(chosen, held_out(size, fraction, seed))


def test_another_seed_holds_out_others() -> None:
    assert not np.array_equal(held_out(1000, 0.1, 0), held_out(1000, 0.1, 1))


def test_both_parts_together_are_the_training_set_and_nothing_else() -> None:
    dataset = load_dataset("digits")
    data = tuning_data(dataset, 0.2, 3, torch.device("cpu"))
    held = held_out(dataset.train_size, 0.2, 3)
    rest = np.setdiff1d(np.arange(dataset.train_size), held)
    assert np.array_equal(data.test_images.numpy(), dataset.train_images[held])
    assert np.array_equal(data.test_labels.numpy(), dataset.train_labels[held])
    assert np.array_equal(data.train_images.numpy(), dataset.train_images[rest])
    assert np.array_equal(data.train_labels.numpy(), dataset.train_labels[rest])
