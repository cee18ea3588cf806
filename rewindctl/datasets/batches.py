"""Training batches on the device: which samples, which crop, which flip, all a function of seed and position."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rewindctl.datasets.dataset import Dataset
from rewindctl.errors import UsageError
from rewindctl.seeds import stream


@dataclass(frozen=True)
class DeviceData:
    """A data set on the training device: images (n, height, width, channels) uint8, labels (n,) int64.

    `scale` and `shift` (channels,) float32 standardise: (x / 255 - mean) / std = x * scale + shift.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    scale: Tensor
    shift: Tensor

    @classmethod
    def upload(cls, dataset: Dataset, device: torch.device) -> "DeviceData":
        mean, std = np.array(dataset.mean), np.array(dataset.std)
        return cls(
            torch.from_numpy(dataset.train_images).to(device),
            torch.from_numpy(dataset.train_labels).to(device),
            torch.from_numpy(dataset.test_images).to(device),
            torch.from_numpy(dataset.test_labels).to(device),
            torch.tensor(1 / (255 * std), dtype=torch.float32, device=device),
            torch.tensor(-mean / std, dtype=torch.float32, device=device),
        )

    @property
    def device(self) -> torch.device:
        return self.train_images.device

    def standardised(self, images: Tensor) -> Tensor:
        """(n, height, width, channels) uint8 to (n, channels, height, width) float32 in channels-last memory."""
        scaled = images.to(torch.float32).mul_(self.scale).add_(self.shift)
        return scaled.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Draws:
    """The draws of one epoch, each (batches, batch): sample index, crop offset down and right, mirrored or not."""

    indices: Tensor
    down: Tensor
    right: Tensor
    mirrored: Tensor


class BatchStream:
    """Batch number `position` of an endless run over the training set.

    Every epoch is a fresh permutation; what is left of it after the last whole batch is dropped. Crop and flip are
    drawn independently for every sample. The draws are made on the host, so every device sees the same ones.
    """

    def __init__(self, data: DeviceData, batch_size: int, padding: int, mirror: bool, seed: int) -> None:
        samples, height, width = data.train_images.shape[:3]
        if batch_size > samples:
            raise UsageError(f"batch size {batch_size} is larger than the {samples} training images")
        if padding >= min(height, width):
            raise UsageError(f"crop padding {padding} does not fit into images of {height}x{width}")
        self.data, self.batch_size, self.padding, self.mirror, self.seed = data, batch_size, padding, mirror, seed
        self.batches_per_epoch = samples // batch_size
        self._rows = torch.arange(height, device=data.device) - padding
        self._columns = torch.arange(width, device=data.device) - padding
        self._epoch, self._draws = -1, self.draw(0)

    def draw(self, epoch: int) -> Draws:
        """The draws of `epoch`, on the device."""
        shape = (self.batches_per_epoch, self.batch_size)
        count = shape[0] * shape[1]
        order = stream(self.seed, "order", epoch).permutation(len(self.data.train_labels))[:count]
        augment = stream(self.seed, "augment", epoch)
        offsets = augment.integers(0, 2 * self.padding + 1, size=(2, *shape))
        mirrored = augment.integers(0, 2, size=shape) if self.mirror else np.zeros(shape, dtype=np.int64)
        device = self.data.device
        down, right = (torch.from_numpy(part).to(device) for part in offsets)
        return Draws(
            torch.from_numpy(order.reshape(shape)).to(device), down, right, torch.from_numpy(mirrored).bool().to(device)
        )

    def batch(self, position: int) -> tuple[Tensor, Tensor]:
        """Standardised images (batch, channels, height, width) float32, channels-last, and labels (batch,)."""
        epoch, index = divmod(position, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._draws = epoch, self.draw(epoch)
        draws = self._draws
        chosen = draws.indices[index]
        rows = reflect(self._rows + draws.down[index, :, None], len(self._rows))
        columns = reflect(self._columns + draws.right[index, :, None], len(self._columns))
        columns = torch.where(draws.mirrored[index, :, None], len(self._columns) - 1 - columns, columns)
        images = self.data.train_images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self.data.standardised(images), self.data.train_labels[chosen]


def reflect(positions: Tensor, size: int) -> Tensor:
    """Positions outside 0..size-1 mirrored at the edges, which are not repeated (-1 is 1): reflection padding."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()
