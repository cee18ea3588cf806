"""Taking runs away: what goes with them, in which order, and what was left behind by others."""

from rewindctl.registry.deleting.removal import PlannedRemoval, plan, remove

__all__ = ["PlannedRemoval", "plan", "remove"]
