"""What one command may spend on trials: updates, or time. It ends between trials, never within one."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rewindctl.durations import parse_duration
from rewindctl.errors import UsageError

UPDATES = re.compile(r"([0-9]{1,12})it")


@dataclass
class Budget:
    """`iterations` or `seconds`, None where it is not of that; `spent`: the updates of this command so far."""

    text: str = ""
    iterations: int | None = None
    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    spent: int = 0
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def allows(self, iterations: int) -> bool:
        """Whether a trial of so many updates may begin: at the speed so far it ends in time. A first one always may."""
        if self.iterations is not None and self.spent + iterations > self.iterations:
            return False
        if self.seconds is None:
            return True
        passed = self.clock() - self.began
        return (
            passed < self.seconds and passed + (passed * iterations / self.spent if self.spent else 0) <= self.seconds
        )


def parse_budget(text: str | None) -> Budget:
    """`9m` or `200000it`; None is no limit. Raises: UsageError."""
    if text is None:
        return Budget()
    if match := UPDATES.fullmatch(text.strip()):
        if int(match[1]):
            return Budget(text, iterations=int(match[1]))
        raise UsageError(f"--budget {text!r} is nothing", "write 9m, 2h or 200000it")
    try:
        return Budget(text, seconds=parse_duration(text, "budget"))
    except UsageError as error:
        raise UsageError(
            error.message.replace("length of time", "length of time, nor a number of updates"),
            f"{error.hint}, or 200000it for updates",
        ) from None
