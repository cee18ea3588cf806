"""The columns of the tidy frame, and what a value of each may be where it is read from a file."""

import re
from collections.abc import Callable
from typing import Any

from rewindctl.pipeline.pipeline import UNTIL_DECIDED

LONGEST = 200


class WrongValueError(ValueError):
    """Says what a value should have been."""


def _text(pattern: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if len(value) > LONGEST or not re.fullmatch(pattern, value):
            raise WrongValueError(f"not of the form {pattern}" if len(value) <= LONGEST else f"longer than {LONGEST}")
        return value

    return parse


def _printable(value: str) -> str:
    if len(value) > LONGEST or not value.isprintable():
        raise WrongValueError(f"not printable text of at most {LONGEST} characters")
    return value


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in names:
            raise WrongValueError(f"none of {', '.join(name or 'empty' for name in names)}")
        return value

    return parse


def _number(low: float, high: float, *, empty: bool = False) -> Callable[[str], float | None]:
    def parse(value: str) -> float | None:
        if empty and value == "":
            return None
        try:
            number = float(value)
        except ValueError:
            raise WrongValueError("not a number") from None
        if not low <= number <= high:
            raise WrongValueError(f"not between {low:g} and {high:g}")
        return number

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"\d{1,12}(\.0)?", value) or not low <= int(float(value)) <= high:
            raise WrongValueError(f"not a whole number between {low} and {high:,}")
        return int(float(value))

    return parse


_NAME = _text(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TYPES: dict[str, Callable[[str], Any]] = {
    "run_id": _NAME,
    "model": _NAME,
    "dataset": _NAME,
    "iterations": _whole(1, 10**9),
    "scale": _number(1e-9, 1e9, empty=True),
    "recipe": _printable,
    "structure": _one_of("unstructured", "structured", ""),
    "scope": _one_of("global", "layerwise", ""),
    "criterion": _text(r"[A-Za-z0-9._-]*"),
    "channel_norm": _one_of("keep", "remove", ""),
    "exclude": _printable,
    "pruned_at": _number(0, 1e9, empty=True),
    "schedule": _one_of("dense", "one_shot", "iterative"),
    "step": _number(0, 1, empty=True),
    "level": _whole(0, 1_000),
    "method": _text(r"[A-Za-z0-9_]+"),
    "label": _printable,
    "group": _NAME,
    "seed": _whole(0, 2**32 - 1),
    "sparsity_asked": _number(0, 1),
    "sparsity": _number(0, 1),
    "compression": _number(1, 1e12),
    "test_accuracy": _number(0, 1),
    "test_accuracy_best": _number(0, 1),
    "prune_run_id": _text(r"([A-Za-z0-9][A-Za-z0-9._-]*)?"),
    "dense_run_id": _NAME,
    "dense_group": _NAME,
    "dense_accuracy": _number(0, 1),
    "dense_accuracy_best": _number(0, 1),
    "device": _printable,
    "precision": _text(r"[a-z0-9+]*"),
    "dense_precision": _text(r"[a-z0-9]*"),
    "deterministic": _one_of("True", "False", ""),
    "collected": _one_of(UNTIL_DECIDED, ""),
    "data_digest": _text(r"[0-9a-f]*"),
    "iterations_per_second": _number(0, 1e9, empty=True),
    "ended": _text(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)?"),
    "origin": _printable,
}
