"""Training batches on the device: which samples, which crop, which flip, all a function of seed and position."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rewindctl.counting import count_of
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
    """One epoch: sample indices (batches, batch), and the source row and column of every pixel row and column of
    each augmented image, (batches, batch, height, 1) and (batches, batch, 1, width).
    """

    indices: Tensor
    rows: Tensor
    columns: Tensor


class BatchStream:
    """Batch number `position` of an endless run over the training set.

    Every epoch is a fresh permutation; what is left of it after the last whole batch is dropped. Crop and flip are
    drawn independently for every sample. The draws are made on the host, so every device sees the same ones.
    Source: report section 3 (flip, reflection padding, crop).
    """

    def __init__(self, data: DeviceData, batch_size: int, padding: int, mirror: bool, seed: int) -> None:
        samples, height, width = data.train_images.shape[:3]
        if batch_size > samples:
            raise UsageError(f"batch size {batch_size} is larger than the {count_of(samples, 'training image')}")
        if padding >= min(height, width):
            raise UsageError(f"crop padding {padding} does not fit into images of {height}x{width}")
        self.data, self.batch_size, self.padding, self.mirror, self.seed = data, batch_size, padding, mirror, seed
        self.batches_per_epoch = samples // batch_size
        self._epoch, self._draws = 0, self.draw(0)

    def draw(self, epoch: int) -> Draws:
        """The draws of `epoch`, on the device."""
        samples, height, width = self.data.train_images.shape[:3]
        shape = (self.batches_per_epoch, self.batch_size, 1)
        order = stream(self.seed, "order", epoch).permutation(samples)[: shape[0] * shape[1]]
        augment = stream(self.seed, "augment", epoch)
        down, right = augment.integers(0, 2 * self.padding + 1, size=(2, *shape))
        mirrored = augment.integers(0, 2, size=shape) if self.mirror else 0
        rows = reflect(np.arange(height) - self.padding + down, height)
        columns = reflect(np.arange(width) - self.padding + right, width)
        columns = np.where(mirrored, width - 1 - columns, columns)
        device = self.data.device
        return Draws(
            torch.from_numpy(order.reshape(shape[:2])).to(device),
            torch.from_numpy(rows[:, :, :, None]).to(device),
            torch.from_numpy(columns[:, :, None, :]).to(device),
        )

    def batch(self, position: int) -> tuple[Tensor, Tensor]:
        """Standardised images (batch, channels, height, width) float32, channels-last, and labels (batch,)."""
        epoch, index = divmod(position, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._draws = epoch, self.draw(epoch)
        chosen = self._draws.indices[index]
        images = self.data.train_images[chosen[:, None, None], self._draws.rows[index], self._draws.columns[index]]
        return self.data.standardised(images), self.data.train_labels[chosen]


def reflect(positions: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Positions outside 0..size-1 mirrored at the edges, which are not repeated (-1 is 1): reflection padding."""
    mirrored: npt.NDArray[np.int64] = (size - 1) - np.abs((size - 1) - np.abs(positions))
    return mirrored
