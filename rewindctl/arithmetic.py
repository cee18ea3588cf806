"""In what arithmetic a training runs: what a user asks for. What is done about it is in `training`."""

from dataclasses import dataclass
from typing import Final, Literal

from rewindctl.errors import UsageError

Precision = Literal["fp32", "bf16"]
Step = Literal["pytorch", "fused"]
AUTO: Final = "auto"
ASKED: Final = (AUTO, "fp32", "bf16")
STEPS: Final = (AUTO, "pytorch", "fused")


@dataclass(frozen=True)
class Arithmetic:
    """`precision` is auto, fp32 or bf16; `deterministic`: the same bytes twice on one device, or faster on CUDA.

    `step` is what makes an update: PyTorch's operations, or kernels of our own (fused). `compiled`: PyTorch's compiler
    joins its operations. Raises: UsageError for another precision or step, and for both ways to fewer kernels at once.
    """

    precision: str = AUTO
    deterministic: bool = True
    step: str = AUTO
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ASKED:
            raise UsageError(f"unknown precision {self.precision!r}", f"known: {', '.join(ASKED)}")
        if self.step not in STEPS:
            raise UsageError(f"unknown update step {self.step!r}", f"known: {', '.join(STEPS)}")
        if self.step == "fused" and self.compiled:
            raise UsageError("both --update-step fused and --compile are given", "give one of the two")
