"""The losses of the updates, kept on the device without waiting for it: their sum, and the first that is not finite."""

import torch
from torch import Tensor


class Losses:
    """`stopped` is 1 from the first loss on that is not finite, and 0 before: what skips a fused update."""

    def __init__(self, device: torch.device, kept_in: tuple[Tensor, Tensor, Tensor, Tensor] | None = None) -> None:
        """`kept_in`: sum and iteration (float64), latest and stopped, for who writes them by address."""
        self.count = 0
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        latest = torch.zeros(2, device=device)
        # `iteration` is that of the next loss, or of the first bad one, as `_latest` is the first bad loss.
        self._sum, self.iteration, self._latest, self.stopped = kept_in or (sums[0], sums[1], latest[0], latest[1])

    def tensors(self) -> list[Tensor]:
        """All that `add` and `stop_if_bad` write to."""
        return [self._sum, self.iteration, self._latest, self.stopped]

    def add(self, loss: Tensor) -> None:
        self._sum += loss

    def stop_if_bad(self, loss: Tensor) -> None:
        """In few operations, for each is a kernel of every update."""
        torch.where(self.stopped > 0, self._latest, loss, out=self._latest)
        self.stopped.logical_or_(loss - loss)  # 0 if it is finite, else NaN, which is true
        self.iteration += 1 - self.stopped

    def first_bad(self) -> tuple[int, float] | None:
        """The iteration of the first loss that is not finite, and that loss. Waits for the device."""
        return (int(self.iteration), float(self._latest)) if self.stopped else None

    def so_far(self) -> tuple[float, int]:
        """The sum of the losses since the last mean, and their number. Waits for the device."""
        return float(self._sum), self.count

    def go_on_from(self, total: float, count: int) -> None:
        """As if these losses had been added here."""
        self._sum.fill_(total)
        self.count = count

    def take_mean(self) -> float | None:
        """Of the losses since the last call; None when there was none. Waits for the device."""
        if self.count == 0:
            return None
        mean = float(self._sum) / self.count
        self._sum.zero_()
        self.count = 0
        return mean
