"""A runs.csv is read back as it was written, an older one too, and a wrong one is refused by line and column."""

import csv
from collections.abc import Callable
from contextlib import suppress
from itertools import permutations
from pathlib import Path

import pandas as pd
import pytest
from conftest import Chain, Cli
from hypothesis import given
from hypothesis import strategies as st
from report.conftest import Tiny
from study_rows import TINY_STUDY, made_rows

from rewindctl.errors import UsageError
from rewindctl.paper.study import shipped
from rewindctl.report.cells import summarise
from rewindctl.report.formats import formats
from rewindctl.report.frame import tidy_frame
from rewindctl.report.rows import NEWER, read_files, read_rows


@pytest.fixture
def saved(tiny: Tiny, tmp_path: Path) -> Path:
    tidy_frame(tiny.registry()).to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


def assert_same(rows: pd.DataFrame, others: pd.DataFrame) -> None:
    """Wherever they were read from."""
    pd.testing.assert_frame_equal(rows.drop(columns="origin"), others.drop(columns="origin"))


def test_rows_are_read_back_to_the_last_bit_and_say_from_where(tiny: Tiny, saved: Path) -> None:
    rows = read_rows(saved)
    assert_same(rows, tidy_frame(tiny.registry()))
    assert set(rows["origin"]) == {str(saved)}
    rows.to_csv(saved.with_name("passed_on.csv"), index=False)
    pd.testing.assert_frame_equal(read_rows(saved.with_name("passed_on.csv")), rows)


def test_order_of_lines_and_lines_given_twice_do_not_matter(tiny: Tiny, saved: Path) -> None:
    head, *lines = saved.read_text().splitlines()
    saved.write_text("\n".join([head, *lines[::-1], *lines]) + "\n")
    assert_same(read_rows(saved), tidy_frame(tiny.registry()))


def test_older_file_without_the_newest_columns_is_read(tiny: Tiny, saved: Path) -> None:
    whole = tidy_frame(tiny.registry())
    whole.drop(columns=list(NEWER)).to_csv(saved, index=False)
    rows = read_rows(saved)
    pd.testing.assert_frame_equal(rows.drop(columns=list(NEWER)), whole.drop(columns=list(NEWER)))
    assert rows["scale"].tolist() == whole["scale"].tolist()
    assert set(rows["ended"]) == {""}


def test_files_are_merged_without_doubles_in_any_order(tiny: Tiny, tmp_path: Path) -> None:
    whole = tidy_frame(tiny.registry())
    one, other, older = (tmp_path / f"{name}.csv" for name in ("one", "other", "older"))
    whole[whole["seed"] == 0].to_csv(one, index=False)
    whole.iloc[1:].to_csv(other, index=False)
    whole.drop(columns=list(NEWER)).to_csv(older, index=False)
    for order in permutations([one, other, older]):
        assert_same(read_files([*order, order[0]]).rows, whole)
    assert set(read_files([one, other]).rows.query("seed == 0")["origin"]) == {str(one)}


def test_a_trial_that_two_registries_ran_is_that_of_the_first_file(tiny: Tiny, saved: Path, tmp_path: Path) -> None:
    whole = tidy_frame(tiny.registry())
    ids = ["run_id", "prune_run_id", "dense_run_id"]
    again = whole.assign(**{name: whole[name].where(whole[name] == "", "f" + whole[name]) for name in ids})
    again.assign(test_accuracy=0.5).to_csv(tmp_path / "again.csv", index=False)
    assert_same(read_files([saved, tmp_path / "again.csv"]).rows, whole)
    assert set(read_files([tmp_path / "again.csv", saved]).rows["test_accuracy"]) == {0.5}


def test_files_that_say_different_things_of_a_run_are_refused(
    tiny: Tiny, saved: Path, cli: Cli, tmp_path: Path
) -> None:
    tidy_frame(tiny.registry()).assign(test_accuracy=0.5).iloc[1:].to_csv(tmp_path / "b.csv", index=False)
    answer = cli("compare", "--from", str(saved), "--from", "b.csv")
    assert (answer.code, answer.out) == (2, "")
    error, _ = answer.err.splitlines()
    assert "error: b.csv, line 2: test_accuracy of run" in error
    assert f"is 0.5, but 0.{error.partition('but 0.')[2].split()[0]} in {saved}, line 3" in error


def test_an_older_file_says_no_precision_and_is_not_pooled_with_one_that_does(tiny: Tiny, saved: Path) -> None:
    whole = tidy_frame(tiny.registry())
    assert set(whole["precision"]) == set(whole["dense_precision"]) == {"fp32"}
    assert set(whole["deterministic"]) == {"True"}
    half = whole[whole["seed"] == 0].drop(columns=["precision", "dense_precision", "deterministic"])
    half.to_csv(saved, index=False)
    older = read_rows(saved)
    assert set(older["precision"]) == set(older["dense_precision"]) == set(older["deterministic"]) == {""}
    cells = summarise(pd.concat([older, whole[whole["seed"] == 1]], ignore_index=True))
    assert set(zip(cells["precision"], cells["n"], strict=True)) == {("", 1), ("fp32", 1)}


def test_a_trial_in_each_precision_is_no_trial_given_twice(tiny: Tiny, saved: Path) -> None:
    whole = tidy_frame(tiny.registry())
    other = whole.assign(run_id="f" + whole["run_id"], precision="bf16")
    pd.concat([whole, other]).to_csv(saved, index=False)
    assert sorted(set(read_rows(saved)["precision"])) == ["bf16", "fp32"]


def test_columns_of_others_are_left_out_and_a_mark_of_the_encoding_is_no_letter(tiny: Tiny, saved: Path) -> None:
    tidy_frame(tiny.registry()).assign(mine="x,y").to_csv(saved, index=False, encoding="utf-8-sig")
    assert_same(read_rows(saved), tidy_frame(tiny.registry()))


@pytest.mark.parametrize("form", list(formats))
def test_tables_from_the_file_are_those_of_the_registry(tiny: Tiny, cli: Cli, tmp_path: Path, form: str) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY_STUDY)
    where = ("--tracking-uri", tiny.uri)
    assert cli("compare", "--output", "out", *where).code == 0
    for options in ((), ("--table", "cells"), ("--study", "tiny.yaml")):
        line = ("compare", "--format", form, *options)
        registry, file = cli(*line, *where), cli(*line, "--from", "out/runs.csv")
        assert (file.code, file.out) == (0, registry.out)
    assert not (tmp_path / "mlflow.db").exists()


WRONG: list[tuple[str, str, str]] = [
    ("test_accuracy", "1.5", "not between 0 and 1"),
    ("test_accuracy", "nan", "not between 0 and 1"),
    ("test_accuracy", "", "not a number"),
    ("compression", "inf", "not between"),
    ("compression", "0.5", "not between"),
    ("iterations", "12.5", "not a whole number"),
    ("iterations", "1e5", "not a whole number"),
    ("iterations", "-3", "not a whole number"),
    ("seed", "9" * 400, "not a whole number"),
    ("schedule", "twice", "none of dense"),
    ("structure", "diagonal", "none of unstructured"),
    ("run_id", "../../etc/passwd", "not of the form"),
    ("group", "", "not of the form"),
    ("model", "<script>", "not of the form"),
    ("label", "a\nb", "not printable"),
    ("label", "x" * 300, "not printable"),
    ("device", "\x1b[31m", "not printable"),
    ("precision", "half precision", "not of the form"),
    ("deterministic", "yes", "none of True, False, empty"),
    ("prune_run_id", "../mask", "not of the form"),
    ("step", "0.5", "with schedule 'one_shot'"),
    ("ended", "yesterday", "not of the form"),
]


@pytest.mark.parametrize(("column", "value", "reason"), WRONG)
def test_wrong_value_is_named_with_its_line_and_column(
    chain: Chain, cli: Cli, tmp_path: Path, column: str, value: str, reason: str
) -> None:
    frame = tidy_frame(chain.registry()).astype(object)
    frame.loc[1, column] = value
    frame.to_csv(tmp_path / "runs.csv", index=False)
    answer = cli("compare", "--from", "runs.csv")
    assert (answer.code, answer.out) == (2, "")
    error, _ = answer.err.splitlines()
    assert f"runs.csv, line {4 if value == 'a' + chr(10) + 'b' else 3}" in error
    assert f"{column} = " in error
    assert reason in error


def test_trial_that_is_there_with_two_runs_is_refused(saved: Path) -> None:
    head, first, *lines = saved.read_text().splitlines()
    other = "e" if first.startswith("f") else "f"
    saved.write_text("\n".join([head, first, other + first[1:], *lines]) + "\n")
    with pytest.raises(UsageError, match=rf"line 3: run {other}\w+ is the trial of run"):
        read_rows(saved)


@pytest.mark.parametrize(("column", "value"), [("scale", 1.0), ("exclude", "stem"), ("criterion", "random")])
def test_group_of_two_kinds_of_runs_is_refused(tiny: Tiny, saved: Path, column: str, value: object) -> None:
    frame = tidy_frame(tiny.registry())
    frame.loc[1, column] = value
    frame.loc[1, "seed"] = 7
    frame.to_csv(saved, index=False)
    with pytest.raises(UsageError, match="has other settings than in"):
        read_rows(saved)


FILES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("empty", lambda data: b"", "no column"),
    ("other", lambda data: b"a,b\n1,2\n", "no column 'run_id'"),
    ("binary", lambda data: b"\x89PNG\r\n\x1a\n\x00\xff", "not UTF-8"),
    ("cut", lambda data: data[: len(data) // 2].rpartition(b",")[0], "no value for column"),
    ("wide", lambda data: data.replace(b"\n", b",1,2\n").replace(b",1,2\n", b"\n", 1), "more values than columns"),
    ("quote", lambda data: data + b'"', "not CSV"),
    ("twice", lambda data: b"run_id," + data, "appears twice"),
]


@pytest.mark.parametrize(("name", "damage", "reason"), FILES, ids=[name for name, *_ in FILES])
def test_file_that_is_no_such_csv_is_refused(
    saved: Path, cli: Cli, name: str, damage: Callable[[bytes], bytes], reason: str
) -> None:
    saved.write_bytes(damage(saved.read_bytes()))
    answer = cli("compare", "--from", str(saved))
    assert (answer.code, answer.out) == (2, ""), name
    assert reason in answer.err.splitlines()[0]
    assert len(answer.err.splitlines()) == 2


def test_file_that_is_not_there_is_named(cli: Cli) -> None:
    answer = cli("compare", "--from", "nowhere.csv")
    assert answer.code == 2
    assert "nowhere.csv cannot be read" in answer.err


def test_file_without_retrainings_has_nothing_to_compare(saved: Path, cli: Cli) -> None:
    head, *lines = saved.read_text().splitlines()
    saved.write_text("\n".join([head, *(line for line in lines if ",dense," in line)]) + "\n")
    answer = cli("compare", "--from", str(saved))
    assert answer.code == 1
    assert "nothing to compare in" in answer.err


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "runs.csv"
    head = ",".join(made_rows(shipped()["table2"], seeds=1).columns)
    path.write_bytes(head.encode() + b"\n" + data)
    with suppress(UsageError):
        assert len(read_rows(path)) == 0


def test_shipped_results_are_readable(cli: Cli) -> None:
    root = Path(__file__).parents[2] / "plots"
    files = sorted(root.glob("*/runs.csv"))
    assert files
    for path in files:
        rows = read_rows(path)
        with path.open() as file:
            assert len(rows) == len(list(csv.DictReader(file)))
