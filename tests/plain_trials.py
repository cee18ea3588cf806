"""`FusedTrials` whose updates PyTorch makes, row by row: quick where the kernels would be interpreted."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from rewindctl.datasets.batches import reflect
from rewindctl.fused.trials import FusedTrials


def instead_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the fused step's updates made so, in this process, alone and in lanes; on a GPU the kernels stay."""
    if not torch.cuda.is_available():
        monkeypatch.setattr("rewindctl.training.shared_step.FusedTrials", PlainTrials)
        monkeypatch.setattr("rewindctl.training.fused_step.FusedTrials", PlainTrials)
        monkeypatch.setattr("rewindctl.training.step.missing_part", lambda device: "")


def in_lanes() -> None:
    """In a process of its own: trials at once are lanes, as on one GPU; PyTorch makes the updates, by one thread."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        instead_of_kernels(patched)
        for module in ("engines.local", "tuning.study"):
            patched.setattr(f"rewindctl.{module}.on_one_gpu", lambda asked, jobs: True)
        patched._setattr.clear()  # for good


class PlainTrials(FusedTrials):
    """The same rows, the same counters; each row by itself, so that no byte depends on another."""

    def run(self, count: int | None = None) -> None:
        for row in range(count or self.count):
            self._update_row(row)

    def _update_row(self, row: int) -> None:
        images, labels = self._batch(row)
        parameters = {name: value.requires_grad_() for name, value in self.parameters_of(row).items()}
        buffers = {name: value.clone() for name, value in self.running_of(row).items()}
        self.network.train()
        loss = cross_entropy(functional_call(self.network, {**parameters, **buffers}, (images,)), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        with torch.no_grad():
            for name, value in self.running_of(row).items():
                value.copy_(buffers[name])
            self._count(row, loss)
            if not self.stopped[row]:
                self._descend(row, dict(zip(parameters, gradients, strict=True)))

    def _batch(self, row: int) -> tuple[Tensor, Tensor]:
        data, padding, draws = self.data, self.constants.crop_padding, self.draws.of(row)
        chosen, down, across = (
            one[int(self.position[row])].numpy() for one in (draws.indices, draws.down, draws.across)
        )
        images = []
        for sample, top, left in zip(chosen, down, across, strict=True):
            mirrored, first = divmod(int(left), 2 * padding + 1)
            rows = reflect(torch.arange(self.height).numpy() + int(top) - padding, self.height)
            columns = reflect(torch.arange(self.width).numpy() + first - padding, self.width)
            image = data.train_images[int(sample)][torch.from_numpy(rows)][:, torch.from_numpy(columns)]
            images.append(image.flip(1) if mirrored else image)
        return data.standardised(torch.stack(images)), data.train_labels[torch.from_numpy(chosen)]

    def _count(self, row: int, loss: Tensor) -> None:
        self.loss_sum[row] += loss
        if not self.stopped[row]:
            self.latest[row] = loss
            self.stopped[row] = float(not torch.isfinite(loss))
            self.iteration[row] += 1 - self.stopped[row]
        self.position[row] = (self.position[row] + 1) % self.batches

    def _descend(self, row: int, gradients: dict[str, Tensor]) -> None:
        gradient = torch.zeros_like(self.weights[row])
        self.layout.put(gradients, gradient)
        weights, momenta, kept = self.weights[row], self.momenta[row], self.kept[row]
        gradient.mul_(kept).add_(weights, alpha=self.constants.weight_decay)
        momenta.mul_(self.constants.momentum).add_(gradient)
        step = gradient + self.constants.momentum * momenta if self.constants.nesterov else momenta
        weights.sub_(self.rate[row] * step)
