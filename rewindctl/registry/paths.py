"""Where the files of a run are among its artifacts."""

CHECKPOINTS = "checkpoints/"
FINAL = f"{CHECKPOINTS}final.safetensors"
MASK = "mask/mask.safetensors"
LAYERS = "mask/layers.csv"


def checkpoint_path(iteration: int | None) -> str:
    """The checkpoint of an iteration; None: the last."""
    return FINAL if iteration is None else f"{CHECKPOINTS}{iteration:08d}.safetensors"
