"""What may still be begun of a plan before a moment, and when what is under way is ended."""

import time
from collections import defaultdict
from dataclasses import dataclass, field

from rewindctl.durations import Deadline
from rewindctl.pipeline.plan import Stage

FIRST_SECONDS = 3.0  # what a training's start takes at most, and a mask is thought to take until one was seen
COLD_SECONDS = 15.0  # what a process takes to begin with its first stage
OVERTIME_SECONDS = 5.0  # in which what is under way has to end by itself


@dataclass
class Limit:
    """Trainings stop by themselves at `deadline`, with a point to go on from; a mask is begun only if it can end."""

    deadline: Deadline
    cold: bool = False  # stages run in processes that have to be started
    _longest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _began: dict[str, float] = field(default_factory=dict)

    def allows(self, stage: Stage) -> bool:
        """Whether a stage may begin now: a training could at least make a start, anything else would end in time."""
        needed = FIRST_SECONDS if stage.iterations else self._longest[stage.spec.kind] or FIRST_SECONDS
        return self.deadline.left() > needed + (COLD_SECONDS if self.cold else 0.0)

    def begun(self, stage: Stage) -> None:
        self._began[stage.key] = time.monotonic()

    def ended(self, stage: Stage) -> None:
        self.cold = False
        seconds = time.monotonic() - self._began.pop(stage.key)
        self._longest[stage.spec.kind] = max(seconds, self._longest[stage.spec.kind])

    @property
    def is_spent(self) -> bool:
        """Whether even what was to end by itself is ended now."""
        return self.deadline.left() < -OVERTIME_SECONDS
