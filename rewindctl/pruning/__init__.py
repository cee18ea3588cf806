"""Which weights go: scores, exact-count selection, masks."""

from rewindctl.pruning.mask import Mask
from rewindctl.pruning.prune import PruneResult, prune
from rewindctl.pruning.scores import criteria

__all__ = ["Mask", "PruneResult", "criteria", "prune"]
