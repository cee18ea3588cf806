"""What a criterion can ask of a trained network: some of its training images, and the gradients on them."""

import copy
from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rewindctl.datasets.batches import DeviceData
from rewindctl.models import Network
from rewindctl.seeds import stream
from rewindctl.training.graph import alone
from rewindctl.training.kernels import reproducible

IMAGES, BATCH = 2_048, 256


class TrainedNetwork:
    """A network with training images drawn by a seed: `rewindctl.pruning.NetworkWithData`.

    The images are standardised, neither cropped nor flipped. `network` is not changed.
    """

    def __init__(self, network: Network, data: DeviceData, seed: int, images: int = IMAGES, batch: int = BATCH) -> None:
        self._network, self._data, self._seed, self._images, self._batch = network, data, seed, images, batch
        self.used_data = False

    @cached_property
    def network(self) -> Network:
        """A copy on the device of the data, in evaluation mode."""
        return self._copied()

    @property
    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (batch, channels, height, width) and labels (batch,): the same ones each time."""
        self.used_data = True
        drawn = stream(self._seed, "scores").permutation(len(self._data.train_images))[: self._images]
        for chosen in torch.from_numpy(drawn).to(self._data.device).split(self._batch):
            yield self._data.standardised(self._data.train_images[chosen]), self._data.train_labels[chosen]

    @cached_property
    def gradients(self) -> Mapping[str, Tensor]:
        """Of the mean cross-entropy over the images, by parameter name, float32, on the CPU.

        Batch norm uses its running statistics: then the gradient is that of the network which is evaluated, a mean
        over images that does not depend on how they are batched, and no statistic changes.
        """
        network, count = self._copied(), 0
        with alone(self._data.device), reproducible(self._data.device, deterministic=True), torch.enable_grad():
            for images, labels in self.batches:
                cross_entropy(network(images), labels, reduction="sum").backward()
                count += len(labels)
        return {
            name: torch.zeros_like(p, device="cpu") if p.grad is None else p.grad.cpu().contiguous() / count
            for name, p in network.named_parameters()
        }

    def _copied(self) -> Network:
        return copy.deepcopy(self._network).to(self._data.device).to(memory_format=torch.channels_last).eval()
