"""In what arithmetic a training runs: what a user asks for. What is done about it is in `training.precision`."""

from dataclasses import dataclass
from typing import Final, Literal

from rewindctl.errors import UsageError

Precision = Literal["fp32", "bf16"]
AUTO: Final = "auto"
ASKED: Final = (AUTO, "fp32", "bf16")


@dataclass(frozen=True)
class Arithmetic:
    """`precision` is auto, fp32 or bf16; `deterministic`: the same bytes twice on one device, or faster on CUDA.

    Raises: UsageError for another precision.
    """

    precision: str = AUTO
    deterministic: bool = True

    def __post_init__(self) -> None:
        if self.precision not in ASKED:
            raise UsageError(f"unknown precision {self.precision!r}", f"known: {', '.join(ASKED)}")
