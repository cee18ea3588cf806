"""rewindctl: an experiment registry for pruning research (train, prune, rewind, compare)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewindctl.api import (
        Comparison,
        Run,
        compare,
        iterate,
        list_runs,
        load_mask,
        load_model,
        open_run,
        prune,
        replay,
        retrain,
        train_dense,
        verify,
    )
    from rewindctl.datasets import register_dataset
    from rewindctl.errors import RewindError
    from rewindctl.models import NetworkConfig, register_model

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "NetworkConfig",
    "RewindError",
    "Run",
    "compare",
    "iterate",
    "list_runs",
    "load_mask",
    "load_model",
    "open_run",
    "prune",
    "register_dataset",
    "register_model",
    "replay",
    "retrain",
    "train_dense",
    "verify",
]
_ELSEWHERE = {
    "NetworkConfig": "rewindctl.models",
    "RewindError": "rewindctl.errors",
    "register_dataset": "rewindctl.datasets",
    "register_model": "rewindctl.models",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: the command line shows its help without PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ELSEWHERE.get(name, "rewindctl.api")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
