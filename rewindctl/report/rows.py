"""Tidy rows from a CSV file, so that results of other machines can be kept and drawn without their registry."""

import csv
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from rewindctl.errors import RewindError, UsageError
from rewindctl.files import read_text
from rewindctl.pipeline.policy import UNTIL_DECIDED
from rewindctl.report.formats import starts_formula
from rewindctl.report.frame import COLUMNS, in_order
from rewindctl.training.recipes import default_recipe, recipes

LARGEST_FILE = 100_000_000
MOST_ROWS = 200_000
MOST_COLUMNS = 1_000
LONGEST = 200
NEWER = (  # columns that older files lack
    "scale",
    "recipe",
    "pruned_at",
    "prune_run_id",
    "precision",
    "dense_precision",
    "deterministic",
    "collected",
    "data_digest",
    "iterations_per_second",
    "ended",
)
SAME_IN_GROUP = ("model", "dataset", "iterations", "scale", "structure", "scope", "method", "label", "sparsity_asked")
TRIAL = ("group", "seed", "schedule", "step", "precision", "dense_precision")


class _WrongValueError(ValueError):
    """Says what a value should have been."""


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of a `runs.csv`, older ones without the newest columns too; other columns are left out.

    What an older file does not say stays empty, but for the scale, which follows from the length: no precision is
    guessed, so its rows are neither pooled nor paired with those that name theirs.
    Raises: UsageError naming the file, line and column.
    """
    text = read_text(path, str(path), LARGEST_FILE, "give a runs.csv that compare wrote")
    rows = _read(csv.DictReader(StringIO(text, newline=""), strict=True, restkey="", restval=None), path)
    return in_order(pd.DataFrame(rows, columns=list(COLUMNS)))


def _read(reader: "csv.DictReader[str]", path: Path) -> list[dict[str, Any]]:
    try:
        _check_header(reader, path)
        rows: list[dict[str, Any]] = []
        seen: dict[tuple[Any, ...], dict[str, Any]] = {}
        groups: dict[str, tuple[Any, ...]] = {}
        for line in reader:
            where = f"{path}, line {reader.line_num}"
            row = _row(line, where)
            trial = tuple(row[name] for name in TRIAL)
            if seen.get(trial) == row:
                continue  # the same run in two files put together
            if trial in seen:
                raise _wrong(
                    where, f"run {row['run_id']} is the trial of run {seen[trial]['run_id']}", "keep one of the two"
                )
            settings = tuple(row[name] for name in SAME_IN_GROUP)
            if groups.setdefault(row["group"], settings) != settings:
                raise _wrong(where, f"group {row['group']:.12} has other settings than above", "correct the file")
            if len(rows) >= MOST_ROWS:
                raise _wrong(where, f"more than {MOST_ROWS:,} rows", "give fewer")
            seen[trial] = row
            rows.append(row)
        return rows
    except csv.Error as error:
        raise _wrong(f"{path}, line {reader.line_num}", f"not CSV: {error}", "correct the file") from None


def _check_header(reader: "csv.DictReader[str]", path: Path) -> None:
    names = list(reader.fieldnames or [])
    if len(names) > MOST_COLUMNS:
        raise _wrong(f"{path}, line 1", f"{len(names):,} columns", "give a runs.csv that compare wrote")
    if missing := [column for column in COLUMNS if column not in names and column not in NEWER]:
        raise _wrong(f"{path}, line 1", f"no column {missing[0]!r}", "give a runs.csv that compare wrote")
    if twice := [name for name in names if names.count(name) > 1]:
        raise _wrong(f"{path}, line 1", f"column {twice[0]!r:.80} is there twice", "keep one of them")


def _row(line: dict[str, Any], where: str) -> dict[str, Any]:
    if "" in line and isinstance(line[""], list):
        raise _wrong(where, "more values than columns", "quote values that hold commas")
    row: dict[str, Any] = {}
    for column in COLUMNS:
        text = line.get(column, "")
        if text is None:
            raise _wrong(where, f"no value for column {column!r}", "the line is too short")
        try:
            row[column] = _TYPES[column](_unmarked(text.strip()))
        except _WrongValueError as error:
            raise _wrong(where, f"{column} = {text!r:.80}: {error}", "correct the file") from None
    if (row["schedule"] == "iterative") != (row["step"] is not None):
        raise _wrong(
            where, f"step = {line.get('step')!r:.80} with schedule {row['schedule']!r}", "only iterative has one"
        )
    if row["scale"] is None:
        row["scale"] = _scale(row)
    return row


def _scale(row: dict[str, Any]) -> float:
    """Of a file from before the column: the length over that of the usual recipe."""
    return float(row["iterations"] / recipes[default_recipe(row["model"], row["dataset"])].iterations)


def _unmarked(text: str) -> str:
    """Without the apostrophe that keeps a spreadsheet from running the text."""
    return text[1:] if text[:1] == "'" and starts_formula(text[1:]) else text


def _wrong(where: str, problem: str, hint: str) -> RewindError:
    return UsageError(f"{where}: {problem}", hint)


def _text(pattern: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if len(value) > LONGEST or not re.fullmatch(pattern, value):
            raise _WrongValueError(f"not of the form {pattern}" if len(value) <= LONGEST else f"longer than {LONGEST}")
        return value

    return parse


def _printable(value: str) -> str:
    if len(value) > LONGEST or not value.isprintable():
        raise _WrongValueError(f"not printable text of at most {LONGEST} characters")
    return value


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in names:
            raise _WrongValueError(f"none of {', '.join(name or 'empty' for name in names)}")
        return value

    return parse


def _number(low: float, high: float, *, empty: bool = False) -> Callable[[str], float | None]:
    def parse(value: str) -> float | None:
        if empty and value == "":
            return None
        try:
            number = float(value)
        except ValueError:
            raise _WrongValueError("not a number") from None
        if not low <= number <= high:
            raise _WrongValueError(f"not between {low:g} and {high:g}")
        return number

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"\d{1,12}(\.0)?", value) or not low <= int(float(value)) <= high:
            raise _WrongValueError(f"not a whole number between {low} and {high:,}")
        return int(float(value))

    return parse


_NAME = _text(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TYPES: dict[str, Callable[[str], Any]] = {
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
}
