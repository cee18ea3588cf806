"""Data sets by name, as uint8 arrays in one canonical order, and their batches on the training device."""

from rewindctl.datasets import cifar as _cifar
from rewindctl.datasets import digits as _digits
from rewindctl.datasets.dataset import Dataset, datasets, register_dataset
from rewindctl.datasets.files import load_dataset

__all__ = ["Dataset", "datasets", "load_dataset", "register_dataset"]

del _cifar, _digits
