"""Lengths of time as people write them: 30s, 9m, 2h, 1h30m; and the moment at which one is over."""

import re
import time
from dataclasses import dataclass

from rewindctl.errors import UsageError
from rewindctl.system.processes import boot

SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
LONGEST_SECONDS = 366 * 86_400
PATTERN = re.compile("".join(rf"(?:([0-9]{{1,9}}){unit})?" for unit in SECONDS))


@dataclass(frozen=True)
class Deadline:
    """A moment that all processes of this machine agree on, and those of other machines as far as their clocks do."""

    monotonic: float
    wall: float
    boot: str

    @classmethod
    def at(cls, monotonic: float) -> "Deadline":
        """The moment at which `time.monotonic` is so much, here."""
        return cls(monotonic, time.time() + monotonic - time.monotonic(), boot())

    def left(self) -> float:
        """Seconds until then, negative after it."""
        if self.boot == boot():  # this machine's clock that is never set
            return self.monotonic - time.monotonic()
        return self.wall - time.time()


def parse_duration(text: str, option: str) -> int:
    """The seconds of `1h30m`; `option` is named in the refusal as `--option`. Raises: UsageError."""
    match = PATTERN.fullmatch(text.strip().lower())
    parts = [int(part or 0) for part in match.groups()] if match else []
    seconds = sum(part * size for part, size in zip(parts, SECONDS.values(), strict=bool(parts)))
    if not 0 < seconds <= LONGEST_SECONDS:
        meant = f", {text}m for minutes" if text.strip().isdecimal() else ""
        raise UsageError(f"--{option} {text!r} is not a length of time", f"write 30s, 9m, 2h or 1h30m{meant}")
    return seconds
