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
    """One epoch: index, row offset and column offset of every sample, each (batches, batch) int64.

    Offsets are rows of `BatchStream`'s tables: a crop's first row, and its first column with or without the flip.
    """

    indices: Tensor
    down: Tensor
    across: Tensor

    def copy_(self, other: "Draws") -> None:
        """Take the values of `other`; from pinned memory the host does not wait."""
        self.indices.copy_(other.indices, non_blocking=True)
        self.down.copy_(other.down, non_blocking=True)
        self.across.copy_(other.across, non_blocking=True)

    def of(self, trial: int) -> "Draws":
        """The row of a trial, where the first dimension is the trial."""
        return Draws(self.indices[trial], self.down[trial], self.across[trial])


class Epochs:
    """The draws of each epoch of an endless run over the training set.

    Every epoch is a fresh permutation; what is left of it after the last whole batch is dropped. Crop and flip are
    drawn independently for every sample. The draws are made on the host, so every device sees the same ones.
    Source: the paper, section 3 (flip, reflection padding, crop).
    """

    def __init__(self, data: DeviceData, batch_size: int, padding: int, mirror: bool, seed: int) -> None:
        """Raises: UsageError for a batch or a padding that is too large."""
        samples, height, width = data.train_images.shape[:3]
        if batch_size > samples:
            raise UsageError(f"batch size {batch_size} is larger than the {count_of(samples, 'training image')}")
        if padding >= min(height, width):
            raise UsageError(f"crop padding {padding} does not fit into images of {height}x{width}")
        self.data, self.batch_size, self.padding, self.mirror, self.seed = data, batch_size, padding, mirror, seed
        self.batches_per_epoch = samples // batch_size

    def draw(self, epoch: int) -> Draws:
        """The draws of `epoch`, on the host."""
        shape, starts = (self.batches_per_epoch, self.batch_size), 2 * self.padding + 1
        order = stream(self.seed, "order", epoch).permutation(len(self.data.train_images))[: shape[0] * shape[1]]
        augment = stream(self.seed, "augment", epoch)
        down, right = augment.integers(0, starts, size=(2, *shape))
        mirrored = augment.integers(0, 2, size=shape) if self.mirror else np.zeros(shape, np.int64)
        return Draws(self._ready(order.reshape(shape)), self._ready(down), self._ready(right + starts * mirrored))

    def _ready(self, drawn: npt.NDArray[np.int64]) -> Tensor:
        """Where a GPU can take it from without making the host wait."""
        tensor = torch.from_numpy(drawn)
        return tensor.pin_memory() if self.data.device.type == "cuda" else tensor


class BatchStream(Epochs):
    """Batch number `position` of an endless run over the training set.

    `seek` is the host's part: an epoch's draws go to the device once. `take` is the device's: it reads and writes
    tensors at fixed addresses only, so that it can be captured in a CUDA graph and replayed.
    """

    def __init__(
        self,
        data: DeviceData,
        batch_size: int,
        padding: int,
        mirror: bool,
        seed: int,
        kept_in: tuple[Draws, Tensor] | None = None,
    ) -> None:
        """`kept_in`: the tensors for the draws and the index, for who reads them by address."""
        super().__init__(data, batch_size, padding, mirror, seed)
        height, width = data.train_images.shape[1:3]
        starts = np.arange(-padding, padding + 1)[:, None]
        columns = reflect(np.arange(width) + starts, width)
        self._rows = torch.from_numpy(reflect(np.arange(height) + starts, height)).to(data.device)
        self._columns = torch.from_numpy(np.concatenate([columns, width - 1 - columns])).to(data.device)
        self._epoch, self._next = 0, 0
        if kept_in is None:
            shape = (self.batches_per_epoch, batch_size)
            empty = (torch.empty(shape, dtype=torch.int64, device=data.device) for _ in range(3))
            kept_in = Draws(*empty), torch.zeros(1, dtype=torch.int64, device=data.device)
        self._draws, self.index = kept_in
        self._draws.copy_(self.draw(0))

    def seek(self, position: int) -> None:
        """Make `position` the batch that the next `take` gives: one `take` for each `seek`."""
        if position == self._next and position % self.batches_per_epoch:
            self._next += 1  # the last `take` has moved the index there
            return
        epoch, index = divmod(position, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._draws.copy_(self.draw(epoch))
        self.index.fill_(index)
        self._next = position + 1

    def take(self) -> tuple[Tensor, Tensor]:
        """Standardised images (batch, channels, height, width) float32, channels-last, and labels (batch,)."""
        chosen, down, across = (
            drawn.index_select(0, self.index)[0]
            for drawn in (self._draws.indices, self._draws.down, self._draws.across)
        )
        self.index.add_(1).remainder_(self.batches_per_epoch)
        _, height, width, channels = self.data.train_images.shape
        rows, columns = self._rows[down][:, :, None], self._columns[across][:, None, :]
        pixels = (chosen[:, None, None] * height + rows) * width + columns
        # One index a pixel: three (sample, row, column) take four times as long.
        images = self.data.train_images.view(-1, channels).index_select(0, pixels.view(-1))
        images = images.view(self.batch_size, height, width, channels)
        return self.data.standardised(images), self.data.train_labels[chosen]

    def batch(self, position: int) -> tuple[Tensor, Tensor]:
        """The images and labels of batch `position`, as `take` gives them."""
        self.seek(position)
        return self.take()


def reflect(positions: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Positions outside 0..size-1 mirrored at the edges, which are not repeated (-1 is 1): reflection padding."""
    mirrored: npt.NDArray[np.int64] = (size - 1) - np.abs((size - 1) - np.abs(positions))
    return mirrored
