"""What trials of one set of kernels take of a device's memory, known before any of it is taken."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rewindctl.datasets.batches import DeviceData
from rewindctl.fused.tiles import Tiles
from rewindctl.fused.trials import Constants, FusedTrials
from rewindctl.models import Network

META = torch.device("meta")  # tensors of sizes alone


@dataclass(frozen=True)
class LaneBytes:
    """Bytes of each trial, and those that all trials share, beside the data set."""

    each: int
    shared: int

    def of(self, trials: int) -> int:
        """Bytes of so many trials together."""
        return self.shared + trials * self.each


def lane_bytes(
    network: Network, train_size: int, image: tuple[int, int, int], constants: Constants, device: torch.device
) -> LaneBytes:
    """Of `FusedTrials` on `device`, trained on so many images of (height, width, channels).

    Raises: UsageError for more images in a batch than one tensor can hold.
    """
    pixels, labels = _sized(train_size, *image), _sized(train_size, dtype=torch.int64)
    each_channel = _sized(image[2], dtype=torch.float32)
    data = DeviceData(pixels, labels, pixels, labels, each_channel, each_channel)
    trials = FusedTrials(network, data, constants, 1, Tiles.usual(device, constants.dtype))
    return LaneBytes(trials.memory.bytes_per_trial, trials.where.table().nbytes)


def _sized(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)
