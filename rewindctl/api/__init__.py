"""The functions of the command line, from Python: the same validation, the same fingerprints, the same runs.

    from rewindctl import compare, prune, retrain, train_dense

    dense = train_dense("resnet8", "digits", seed=0)
    mask = prune(dense, compression=20)
    retrained = retrain(mask, "weight_rewind", k=30)
    network = retrained.model()  # an nn.Module, the mask applied, in evaluation mode
    print(compare().cells)

Each function takes the options of its command under the same names and returns plain objects. Runs that the registry
has are reused. Nothing is printed unless `progress=True`. Wrong requests raise a `RewindError` child, whose
`message` names the value and whose `hint` says what to do.
"""

from rewindctl.api.reading import Comparison, compare, list_runs, load_mask, load_model, open_run, verify
from rewindctl.api.run import Run
from rewindctl.api.stages import iterate, prune, replay, retrain, train_dense

__all__ = [
    "Comparison",
    "Run",
    "compare",
    "iterate",
    "list_runs",
    "load_mask",
    "load_model",
    "open_run",
    "prune",
    "replay",
    "retrain",
    "train_dense",
    "verify",
]
