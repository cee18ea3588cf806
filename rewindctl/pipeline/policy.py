"""How stages are run, on whichever device and machine: no spec and no fingerprint knows of it."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from rewindctl.arithmetic import Arithmetic
from rewindctl.durations import Deadline
from rewindctl.errors import UsageError

UNTIL_DECIDED = "until_decided"  # a rule: trials go where those before did not decide

Place = Literal["machine", "store"]


@dataclass(frozen=True)
class RunPolicy:
    """`force`: also what the registry has. `checkpoint_seconds`: between two points that an interrupted run goes on
    from. `wait`: for a stage that another process is at, rather than fail. `replay`: make states again that a training
    did not record, rather than fail. `deadline`: when a training keeps such a point and stops, and nothing is waited
    for any more. `collected`: the rule that adds the trials, a tag of their runs. `resume_points`: whether those points
    are on this machine alone, or in the artifact store too. Raises: UsageError for another place.
    """

    force: bool = False
    checkpoint_seconds: float = 60.0
    wait: bool = True
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    replay: bool = True
    deadline: Deadline | None = None
    collected: str = ""
    resume_points: Place = "machine"

    def __post_init__(self) -> None:
        if self.resume_points not in get_args(Place):
            known = ", ".join(get_args(Place))
            raise UsageError(f"unknown place of resume points {self.resume_points!r}", f"known: {known}")
