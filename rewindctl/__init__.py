"""rewindctl: an experiment registry for pruning research (train, prune, rewind, compare)."""

__version__ = "0.1.0"
