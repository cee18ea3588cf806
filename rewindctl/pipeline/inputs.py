"""What the MLflow UI shows of the data that a run used."""

from collections import Counter
from typing import Any

from rewindctl.datasets import Dataset
from rewindctl.registry import DataInput

SHOWN_CLASSES = 20


def used(data: Dataset, *contexts: str) -> list[DataInput]:
    """The parts of a data set that a run used: `training`, `testing`."""
    height, width = data.image_size
    columns = {"image": f"uint8 ({height}, {width}, {data.channels})", "label": f"integer, 0 to {data.classes - 1}"}
    return [
        DataInput(f"{data.name}-{context}", data.digest, _origin(data.name), context, columns, _profile(data, context))
        for context in contexts
    ]


def _origin(name: str) -> str:
    """The data set by the name that `rewindctl data` knows it by; where a machine keeps it is nobody's business."""
    return f"rewindctl data: {name}"


def _profile(data: Dataset, context: str) -> dict[str, Any]:
    labels = data.train_labels if context == "training" else data.test_labels
    counts = Counter(data.class_names[label] for label in labels.tolist())
    sizes = {name: counts[name] for name in data.class_names[:SHOWN_CLASSES]}
    return {"num_rows": len(labels), "classes": data.classes, "images_per_class": sizes}
