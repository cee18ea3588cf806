"""A table says the same in every form, and no cell can break its form."""

import csv
import html
import io
import json
import re
from typing import Any

import pandas as pd
import pytest
from conftest import Chain
from hypothesis import given, settings
from hypothesis import strategies as st

from rewindctl.paper.plan import pruning_name
from rewindctl.report.cells import summarise
from rewindctl.report.formats import Table, formats
from rewindctl.report.frame import tidy_frame
from rewindctl.report.tables import method_name, tables
from rewindctl.rewinding.methods import methods

SPECIAL = st.text(alphabet="ab[*<> |\\&%$#_{}~^-.1", min_size=1, max_size=12).map(str.strip).filter(bool)


@pytest.fixture
def cells(chain: Chain) -> pd.DataFrame:
    return summarise(tidy_frame(chain.registry()))


def shown(table: Table) -> pd.DataFrame:
    """What people see, as a frame."""
    lines = table.lines()
    return pd.DataFrame(lines[1:], columns=lines[0])


def test_results_of_the_chain_are_dense_and_three_methods(cells: pd.DataFrame) -> None:
    table = shown(tables["results"](cells))
    assert sorted(table["retraining"]) == ["LR rewinding", "fine-tuning", "none (dense)", "weight rewinding k=6"]
    assert set(table["n"]) == {"1"}
    by_name = table.set_index("retraining")
    assert by_name.loc["none (dense)", "difference (points)"] == ""
    assert by_name.loc["none (dense)", "pruning"] == "-"
    assert set(by_name.drop("none (dense)")["pruning"]) == {"one-shot"}
    assert set(by_name.drop("none (dense)")["compression"]) == {"5.00x"}


def test_results_show_the_numbers_of_the_cells_in_percent(cells: pd.DataFrame) -> None:
    cells = cells.assign(n=3)
    for (_, row), (_, cell) in zip(shown(tables["results"](cells)).iterrows(), cells.iterrows(), strict=True):
        assert float(row["accuracy %"]) == pytest.approx(100 * cell["median"], abs=0.0051)
        low, high = map(float, row["10th-90th %"].split("-"))
        assert (low, high) == pytest.approx((100 * cell["p10"], 100 * cell["p90"]), abs=0.0051)
        assert float(row["sparsity %"]) == pytest.approx(100 * cell["sparsity"], abs=0.0051)
        if cell["method"] != "none":
            assert float(row["difference (points)"]) == pytest.approx(cell["delta_points"], abs=0.0051)
            assert row["difference (points)"][0] in "+-"


def test_one_trial_has_no_spread(cells: pd.DataFrame) -> None:
    assert set(cells["n"]) == {1}
    assert set(shown(tables["results"](cells))["10th-90th %"]) == {""}


def test_scaled_results_are_marked_and_full_ones_need_no_mark(cells: pd.DataFrame) -> None:
    assert set(shown(tables["results"](cells))["scale"]) == {"x0.08"}
    both = pd.concat([cells, cells.assign(scale=1.0)])
    assert set(shown(tables["results"](both))["scale"]) == {"x0.08", "full"}
    assert "scale" not in shown(tables["results"](cells.assign(scale=1.0)))


def test_precisions_are_named_where_there_are_several_and_nowhere_else(cells: pd.DataFrame) -> None:
    assert set(cells["precision"]) == {"fp32"}
    assert "precision" not in shown(tables["results"](cells))
    bf16, older = cells.assign(precision="bf16"), cells.assign(precision="", dense_precision="")
    names = shown(tables["results"](pd.concat([cells, bf16, older])))["precision"]
    assert set(names) == {"fp32", "bf16 (dense fp32)", "unknown"}
    assert "precision" not in shown(tables["results"](older))


def test_best_accuracies_are_named_best(chain: Chain) -> None:
    best = tables["results"](summarise(tidy_frame(chain.registry()), "best"))
    assert "best accuracy %" in shown(best)


def test_cells_table_is_every_number_unrounded(cells: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(tables["cells"](cells).rows, cells)


@pytest.mark.parametrize("form", list(formats))
@pytest.mark.parametrize("name", list(tables))
def test_every_table_has_every_form_and_every_method_in_it(cells: pd.DataFrame, name: str, form: str) -> None:
    text = formats[form](tables[name](cells)).replace("\\", "")
    for _, cell in cells.iterrows():
        for_people = name == "results" and form not in ("csv", "json")
        assert (method_name(cell["method"], cell["label"]) if for_people else cell["label"]) in text


def test_csv_reads_back_to_the_last_bit(cells: pd.DataFrame) -> None:
    again = list(csv.DictReader(io.StringIO(formats["csv"](cells))))
    assert [row["run_ids"] for row in again] == cells["run_ids"].tolist()
    for column in ("median", "p10", "p90", "baseline", "delta_points", "delta_relative", "compression", "n"):
        assert [float(row[column]) for row in again] == cells[column].tolist()


def test_json_reads_back_to_the_last_bit(cells: pd.DataFrame) -> None:
    again = json.loads(formats["json"](cells))
    assert [row["run_ids"] for row in again] == cells["run_ids"].tolist()
    for column in ("median", "p10", "p90", "baseline", "delta_points", "delta_relative", "compression", "n"):
        assert [row[column] for row in again] == cells[column].tolist()


def test_missing_number_is_null_in_json() -> None:
    table = pd.DataFrame({"step": [0.2, float("nan")], "none": [None, None], "n": [1, 2]})
    assert json.loads(formats["json"](table)) == [
        {"step": 0.2, "none": None, "n": 1},
        {"step": None, "none": None, "n": 2},
    ]


@pytest.mark.parametrize("name", list(tables))
def test_numbers_stay_numbers_in_csv_and_json(cells: pd.DataFrame, name: str) -> None:
    table = tables[name](cells)
    for row, cell in zip(json.loads(formats["json"](table)), cells.to_dict(orient="records"), strict=True):
        for key in ("median", "n", "delta_points", "compression", "iterations", "scale"):
            assert isinstance(row[key], int | float)
            assert row[key] == cell[key]
    for line, cell in zip(
        csv.DictReader(io.StringIO(formats["csv"](table))), cells.to_dict(orient="records"), strict=True
    ):
        assert float(line["median"]) == cell["median"]


@settings(deadline=None)
@given(values=st.lists(SPECIAL, min_size=1, max_size=4))
def test_markdown_has_as_many_columns_in_every_line_whatever_is_in_the_cells(values: list[str]) -> None:
    table = pd.DataFrame({"a": values, "b": values[::-1]})
    lines = formats["markdown"](table).splitlines()
    rows = [[part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert all(len(row) == 2 for row in rows)
    shown = [html.unescape(re.sub(r"\\(.)", r"\1", row[0])) for row in rows[2:]]
    assert shown == [" ".join(value.split()) for value in values]


@settings(deadline=None)
@given(values=st.lists(SPECIAL, min_size=1, max_size=4))
def test_latex_escapes_every_special_character(values: list[str]) -> None:
    lines = formats["latex"](pd.DataFrame({"network_%": values})).splitlines()
    body = [line.removesuffix(r" \\") for line in lines if line.endswith(r" \\")]
    assert body[0] == r"network\_\%"
    back = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^"}
    back |= {r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|"}
    back |= {f"\\{character}": character for character in "&%$#_{}"}
    tokens = re.compile(
        "|".join(re.escape(token) for token in sorted(back, key=len, reverse=True)) + r"|[^\\&%$#_{}~^<>|]"
    )
    assert not [line for line in body[1:] if line[0] in "[*"], "would be an argument of the line end before it"
    for line, value in zip([line.removeprefix("{}") for line in body[1:]], values, strict=True):
        assert "".join(tokens.findall(line)) == line, "nothing is left unescaped"
        assert tokens.sub(lambda token: back.get(token[0], token[0]), line) == " ".join(value.split())


def test_latex_is_one_tabular_with_a_column_each(cells: pd.DataFrame) -> None:
    table = tables["results"](cells)
    lines = formats["latex"](table).splitlines()
    columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", lines[0])
    assert columns
    assert len(columns[1]) == len(table.columns)
    assert lines[-1] == r"\end{tabular}"
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == len(table.rows) + 1
    assert all(len(re.findall(r"(?<!\\)&", row)) == len(table.columns) - 1 for row in rows)


def test_text_is_aligned_numbers_to_the_right() -> None:
    lines = formats["text"](
        pd.DataFrame({"name": ["a", "long one"], "n": [5, 100], "points": ["", "-1.25"]})
    ).splitlines()
    assert lines == [
        "name        n  points",
        "--------  ---  ------",
        "a           5",
        "long one  100   -1.25",
    ]


@pytest.mark.parametrize("form", list(formats))
def test_every_form_ends_without_a_line_break(cells: pd.DataFrame, form: str) -> None:
    assert not formats[form](cells).endswith("\n")


def test_every_method_of_the_catalog_has_a_name_in_the_paper() -> None:
    assert all(method_name(name, name) not in {name, ""} for name in methods)


def test_method_name_keeps_what_the_label_adds() -> None:
    assert method_name("weight_rewind", "weight_rewind k=6 restarted clock") == "weight rewinding k=6 restarted clock"
    assert method_name("none", "none") == "none (dense)"
    assert method_name("mine", "mine a=1") == "mine a=1"


USUAL: dict[str, Any] = {"schedule": "one_shot", "step": None, "structure": "unstructured", "scope": "global"}
USUAL |= {"criterion": "magnitude", "channel_norm": "keep", "exclude": "", "pruned_at": None}
PRUNINGS: list[dict[str, Any]] = [
    {},
    {"schedule": "dense"},
    {"schedule": "iterative", "step": 0.2},
    {"schedule": "iterative", "step": 0.3},
    {"structure": "structured"},
    {"structure": "structured", "channel_norm": "remove"},
    {"scope": "layerwise"},
    {"pruned_at": 72_000.0},
    {"criterion": "random"},
    {"exclude": "stem"},
    {"structure": "structured", "scope": "layerwise"},
]


def test_prunings_that_differ_have_names_that_differ() -> None:
    names = [pruning_name(pd.Series(USUAL | change)) for change in PRUNINGS]
    assert len(set(names)) == len(PRUNINGS)
    assert names[:3] == ["one-shot", "-", "iterative (0.2)"]
