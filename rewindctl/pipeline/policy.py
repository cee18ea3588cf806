"""How stages are run, on whichever device and machine: no spec and no fingerprint knows of it."""

from dataclasses import dataclass, field

from rewindctl.arithmetic import Arithmetic


@dataclass(frozen=True)
class RunPolicy:
    """`force`: also what the registry has. `checkpoint_seconds`: between two points that an interrupted run goes on
    from. `wait`: for a stage that another process is at, rather than fail.
    """

    force: bool = False
    checkpoint_seconds: float = 60.0
    wait: bool = True
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
