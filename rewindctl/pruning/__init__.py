"""Which weights go: scores, exact-count selection, masks."""

from rewindctl.pruning.mask import Mask
from rewindctl.pruning.prune import PruneResult, excluded_layers, prune
from rewindctl.pruning.scores import NetworkWithData, Weights, criteria

__all__ = ["Mask", "NetworkWithData", "PruneResult", "Weights", "criteria", "excluded_layers", "prune"]
