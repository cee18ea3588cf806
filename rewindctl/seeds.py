"""Named streams of random numbers derived from one seed, each independent of the others."""

import numpy as np

_STREAMS = {"init": 0, "order": 1, "augment": 2, "holdout": 3, "scores": 4}


def stream(seed: int, name: str, counter: int = 0) -> np.random.Generator:
    """The generator of stream `name` at `counter` (the epoch), a pure function of the three."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, _STREAMS[name], counter])))


def derived_seed(seed: int, name: str) -> int:
    """A 63-bit seed for a generator that is not NumPy's."""
    return int(stream(seed, name).integers(2**63))
