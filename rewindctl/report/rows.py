"""Tidy rows from CSV files, so that results of other machines can be kept and drawn without their registry."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from rewindctl.errors import RewindError, UsageError
from rewindctl.report.columns import LONGEST, TYPES, WrongValueError
from rewindctl.report.formats import starts_formula
from rewindctl.report.frame import COLUMNS, in_order
from rewindctl.system.files import read_text
from rewindctl.system.safe_text import one_line
from rewindctl.training.recipes import default_recipe, recipes

LARGEST_FILE = 100_000_000
MOST_ROWS = 200_000
MOST_COLUMNS = 1_000
NEWER = (  # columns that older files lack
    "scale",
    "recipe",
    "exclude",
    "pruned_at",
    "prune_run_id",
    "precision",
    "dense_precision",
    "deterministic",
    "collected",
    "data_digest",
    "iterations_per_second",
    "ended",
    "origin",
)
SAME_IN_GROUP = (
    *("model", "dataset", "iterations", "scale", "structure", "scope", "criterion", "channel_norm", "exclude"),
    *("method", "label", "sparsity_asked"),
)
RUN = ("run_id", "schedule", "step")  # a level of a chain is a row of each schedule that it is a result of
TRIAL = ("group", "seed", "schedule", "step", "precision", "dense_precision")


@dataclass(frozen=True)
class Files:
    """The rows of one or several files, each once; `runs`: the IDs of the runs that stand in each file."""

    rows: pd.DataFrame
    runs: dict[Path, frozenset[str]]

    @property
    def name(self) -> str:
        return ", ".join(path.name for path in self.runs)


@dataclass(frozen=True)
class _Line:
    row: dict[str, Any]
    path: Path
    where: str


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of one file, as `read_files` has them. Raises: UsageError."""
    return read_files([path]).rows


def read_files(paths: Sequence[Path]) -> Files:
    """The rows of `runs.csv` files, older ones without the newest columns too; other columns are left out.

    A run that stands in several files is one row, and so is a trial that was run in several registries: that of the
    file given first. `origin` stays what a file says it is, else it is the file's path. What an older file does not
    say stays empty, but for the scale, which follows from the length: no precision is guessed, so its rows are neither
    pooled nor paired with those that name theirs.
    Raises: UsageError naming the file, line and column; both lines where two say different things of one run.
    """
    found: dict[tuple[Any, ...], _Line] = {}
    trials: dict[tuple[Any, ...], _Line] = {}
    runs: dict[Path, frozenset[str]] = {}
    for path in dict.fromkeys(paths):
        lines = list(_lines(path))
        runs[path] = frozenset(line.row["run_id"] for line in lines)
        for line in lines:
            row, run = line.row, tuple(line.row[name] for name in RUN)
            other = trials.setdefault((path, *(row[name] for name in TRIAL)), line).row["run_id"]
            if other != row["run_id"]:
                raise _wrong(line.where, f"run {row['run_id']} is the trial of run {other}", "keep one of the two")
            found[run] = _agreed(found[run], line) if run in found else line
            if len(found) > MOST_ROWS:
                raise _wrong(line.where, f"more than {MOST_ROWS:,} rows", "give fewer")
    rows = pd.DataFrame(_complete(found.values()), columns=list(COLUMNS))
    return Files(in_order(rows.drop_duplicates(list(TRIAL))), runs)


def _agreed(first: _Line, second: _Line) -> _Line:
    """The first, with what it does not say and the second does. Raises: UsageError where they differ."""
    row = dict(first.row)
    for column, value in second.row.items():
        if column in NEWER and row[column] in ("", None):
            row[column] = value
        elif value != row[column] and column != "origin" and not (column in NEWER and value in ("", None)):
            raise _wrong(
                second.where,
                f"{column} of run {row['run_id']} is {value}, but {row[column]} in {first.where}",
                "correct one of the two, or leave it out",
            )
    return replace(first, row=row)


def _complete(lines: Iterable[_Line]) -> Iterator[dict[str, Any]]:
    """The rows with their scale. Raises: UsageError for a group of several settings."""
    groups: dict[str, tuple[tuple[Any, ...], str]] = {}
    for line in lines:
        row = line.row
        if row["scale"] is None:
            row["scale"] = _scale(row)
        settings = tuple(row[name] for name in SAME_IN_GROUP)
        of_group, where = groups.setdefault(row["group"], (settings, line.where))
        if of_group != settings:
            raise _wrong(line.where, f"group {row['group']:.12} has other settings than in {where}", "correct the file")
        yield row


def _lines(path: Path) -> Iterator[_Line]:
    """The rows of a file, line by line. Raises: UsageError."""
    text = read_text(path, str(path), LARGEST_FILE, "give a runs.csv that compare wrote")
    reader = csv.DictReader(StringIO(text, newline=""), strict=True, restkey="", restval=None)
    origin = one_line(str(path))[-LONGEST:].strip()
    try:
        _check_header(reader, path)
        for line in reader:
            where = f"{path}, line {reader.line_num}"
            row = _row(line, where)
            yield _Line(row | {"origin": row["origin"] or origin}, path, where)
    except csv.Error as error:
        raise _wrong(f"{path}, line {reader.line_num}", f"not CSV: {error}", "correct the file") from None


def _check_header(reader: "csv.DictReader[str]", path: Path) -> None:
    names = list(reader.fieldnames or [])
    if len(names) > MOST_COLUMNS:
        raise _wrong(f"{path}, line 1", f"{len(names):,} columns", "give a runs.csv that compare wrote")
    if missing := [column for column in COLUMNS if column not in names and column not in NEWER]:
        raise _wrong(f"{path}, line 1", f"no column {missing[0]!r}", "give a runs.csv that compare wrote")
    if twice := [name for name in names if names.count(name) > 1]:
        raise _wrong(f"{path}, line 1", f"column {twice[0]!r:.80} appears twice", "keep one of them")


def _row(line: dict[str, Any], where: str) -> dict[str, Any]:
    if "" in line and isinstance(line[""], list):
        raise _wrong(where, "more values than columns", "quote values that hold commas")
    row: dict[str, Any] = {}
    for column in COLUMNS:
        text = line.get(column, "")
        if text is None:
            raise _wrong(where, f"no value for column {column!r}", "the line is too short")
        try:
            row[column] = TYPES[column](_unmarked(text.strip()))
        except WrongValueError as error:
            raise _wrong(where, f"{column} = {text!r:.80}: {error}", "correct the file") from None
    if (row["schedule"] == "iterative") != (row["step"] is not None):
        raise _wrong(
            where, f"step = {line.get('step')!r:.80} with schedule {row['schedule']!r}", "only iterative has one"
        )
    return row


def _scale(row: dict[str, Any]) -> float:
    """Of a file from before the column: the length over that of the usual recipe."""
    return float(row["iterations"] / recipes[default_recipe(row["model"], row["dataset"])].iterations)


def _unmarked(text: str) -> str:
    """Without the apostrophe that keeps a spreadsheet from running the text."""
    return text[1:] if text[:1] == "'" and starts_formula(text[1:]) else text


def _wrong(where: str, problem: str, hint: str) -> RewindError:
    return UsageError(f"{where}: {problem}", hint)
