"""Small studies on the digits for the tests of plans and engines."""

from typing import Any

import yaml

from rewindctl.paper.study import Study, parse_study

METHODS: tuple[dict[str, Any], ...] = ({"method": "finetune"}, {"method": "weight_rewind", "k": 6})


def panel(**fields: Any) -> dict[str, Any]:
    """Two methods at one sparsity on a baseline of 24 iterations, unless said otherwise."""
    usual: dict[str, Any] = {"model": "resnet8", "dataset": "digits", "iterations": 24}
    if fields.get("schedule") != "dense":
        usual |= {"schedule": "one_shot", "sparsities": [0.5], "methods": [*METHODS]}
    return usual | fields


def text_of(*panels: dict[str, Any], **fields: Any) -> str:
    """A study as YAML."""
    study = {"schema": 1, "name": "tiny", "title": "Tiny", "panels": list(panels or [panel()])} | fields
    return str(yaml.safe_dump(study, sort_keys=False))


def study_of(*panels: dict[str, Any], **fields: Any) -> Study:
    return parse_study(text_of(*panels, **fields), "tiny.yaml")
