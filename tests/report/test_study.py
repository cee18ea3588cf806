"""Every cell of a study is there once, with exactly its runs and exactly its published number."""

import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report.conftest import Tiny
from study_rows import NO_ROWS, facts, made_rows, text_of, tiny_study

from rewindctl.paper.plan import make_plan
from rewindctl.paper.reference import paper_points, paper_tables, renda_points
from rewindctl.paper.study import Study, parse_study, shipped
from rewindctl.report.formats import formats
from rewindctl.report.frame import tidy_frame
from rewindctl.report.section import tables_text, write_files
from rewindctl.report.study import StudyReport, study_report
from rewindctl.report.study_tables import study_tables

FIGURES = [f"fig{number}" for number in range(1, 7)]


def report_of(study: Study, rows: pd.DataFrame = NO_ROWS, **options: Any) -> StudyReport:
    return study_report(rows, study, **options)


@pytest.mark.parametrize("name", list(shipped()))
def test_every_cell_appears_once_and_without_runs_it_is_empty_and_says_so(name: str) -> None:
    report = report_of(shipped()[name])
    wanted = [cell.group for cell in make_plan([shipped()[name]], facts, (0,)).cells]
    assert (report.cells["group"].tolist() if wanted else []) == wanted
    if wanted:
        assert set(report.cells["n"]) == {0}
        assert report.cells[["median", "p10", "p90", "baseline", "difference"]].isna().all(axis=None)
        assert text_of(report).count(f"0/{shipped()[name].trials}") >= len(wanted)


@pytest.mark.parametrize("name", FIGURES)
def test_every_published_point_of_a_figure_reaches_exactly_one_cell(name: str) -> None:
    points = paper_points()
    points = points[(points["figure"] == int(name[3:])) & (points["compression"] > 1)]
    cells = report_of(shipped()[name]).cells

    def keyed(frame: pd.DataFrame, compression: str) -> pd.DataFrame:
        keys = [frame["schedule"], frame["step"].astype(float).fillna(0), frame["method"]]
        frame = frame.assign(key=list(zip(*keys, frame[compression].round(3), strict=True)))
        return frame.set_index("key").sort_index()

    ours = keyed(cells, "compression_asked")
    theirs = keyed(points.rename(columns={"step_fraction": "step"}), "compression")
    assert ours.index.is_unique
    assert ours.index.tolist() == theirs.index.tolist()
    for mine, published in (
        ("published_delta_relative", "delta_accuracy_pp"),
        ("published_delta_relative_p10", "ci80_low_pp"),
        ("published_delta_relative_p90", "ci80_high_pp"),
        ("published_delta_points", "delta_true_pp"),
    ):
        known = theirs[published].notna()
        assert ((ours[mine] - theirs[published])[known].abs() < 1e-4).all()
    assert (100 * ours["published_median"] - theirs["accuracy_pct"]).abs().max() < 1e-9
    assert set(ours["published_source"]) == {f"report figure {name[3:]}"}


def test_table5_and_the_baselines_are_those_of_the_paper() -> None:
    cells = report_of(shipped()["table5"]).cells.set_index("method")
    for row in paper_tables()["table_5"]["rows"]:
        published = cells.loc[row["method"] or "none", "published_median"]
        assert 100 * published == pytest.approx(row["test_accuracy_pct"])
    published = report_of(shipped()["table1"]).cells["published_median"]
    assert (100 * published).tolist() == pytest.approx([92.46, 93.71, 71.9, 94.29, 72.21])


PANEL = "schema: 1\nname: mine\ntitle: t\npanels:\n  - {model: resnet20, dataset: cifar10, schedule: one_shot, "
UNUSUAL = [
    "scope: layerwise, sparsities: [0.2], methods: [{method: lr_rewind}]}",
    "structure: structured, channel_norm: remove, sparsities: [0.2], methods: [{method: lr_rewind}]}",
    "recipe: wrn, sparsities: [0.2], methods: [{method: lr_rewind}]}",
    "sparsities: [0.2], methods: [{method: weight_rewind, k: 2000}]}",
    "sparsities: [0.2], methods: [{method: finetune, lr: 0.01}]}",
    "sparsities: [0.2], methods: [{method: finetune, iterations: 1000}]}",
    "sparsities: [0.2], methods: [{method: lr_rewind, optimizer_state: restored}]}",
    "sparsities: [0.25], methods: [{method: lr_rewind}]}",
]


@pytest.mark.parametrize("panel", UNUSUAL)
def test_cell_of_other_settings_has_no_published_number(panel: str) -> None:
    report = report_of(parse_study(PANEL + panel, "mine"))
    assert report.cells["published_median"].isna().all()
    assert set(report.cells["published_source"]) == {""}


@pytest.mark.parametrize("name", ["lr_clock", "wrn_checkpoint"])
def test_variants_that_the_paper_leaves_open_are_all_compared_with_it(name: str) -> None:
    assert report_of(shipped()[name]).cells["published_median"].notna().all()


def test_renda_et_al_are_matched_by_compression_and_only_where_they_have_the_settings() -> None:
    cells = report_of(shipped()["fig1"], against="renda").cells
    assert cells["published_median"].notna().all()
    points = renda_points()
    for _, cell in cells.iterrows():
        same = points[(points["network"] == "resnet20") & (points["schedule"] == cell["schedule"])]
        same = same[(same["method"] == cell["method"]) & ((same["compression"] / cell["compression"] - 1).abs() < 0.01)]
        assert round(100 * cell["published_median"], 4) in set(same["test_acc_median_pct"].round(4))
        assert cell["published_p10"] <= cell["published_median"] <= cell["published_p90"]
    for name in ("fig3", "fig4", "fig5"):
        assert report_of(shipped()[name], against="renda").cells["published_median"].isna().all()
    assert report_of(shipped()["fig1"], against="none").cells["published_median"].isna().all()


def test_runs_of_a_cell_are_those_that_the_plan_made_for_it(tiny: Tiny) -> None:
    report = report_of(tiny_study, tidy_frame(tiny.registry()))
    for cell, (_, row) in zip(tiny.plan.cells, report.cells.iterrows(), strict=True):
        assert set(row["run_ids"].split()) == {tiny.runs[key] for key in cell.stages}
        assert (row["n"], row["planned"], row["group"]) == (2, 3, cell.group)
        accuracies = [tiny.registry().get(tiny.runs[key]).metrics["test_accuracy"] for key in cell.stages]
        assert row["median"] == pytest.approx(sum(accuracies) / 2)
    assert set(report.rows["run_id"]) == {
        run_id for key, run_id in tiny.runs.items() if tiny.plan.stages[key].spec.kind != "prune"
    }


def test_fewer_trials_than_planned_are_marked_and_more_are_not() -> None:
    study = shipped()["table5"]
    for trials, shown in ((5, "3/5"), (3, "3"), (2, "3")):
        table = study_tables["table5"](report_of(study, made_rows(study), trials=trials))
        column = table.lines()[0].index("n")
        assert {line[column] for line in table.lines()[1:]} == {shown}
        assert bool(table.notes) == (trials == 5)


def test_difference_is_ours_minus_published_of_the_median_and_of_the_delta() -> None:
    study = shipped()["fig1"]
    for _, cell in report_of(study, made_rows(study)).cells.iterrows():
        assert cell["difference"] == pytest.approx(100 * (cell["median"] - cell["published_median"]))
        assert cell["difference_delta"] == pytest.approx(cell["delta_points"] - cell["published_delta_points"])


@pytest.mark.parametrize("name", ["fig1", "table1", "table4", "table5"])
def test_cells_that_were_not_selected_are_told_from_those_without_runs(name: str) -> None:
    study = shipped()[name]
    groups = [cell.group for cell in make_plan([study], facts, (0,)).cells]
    selected = set(groups[: len(groups) // 2])
    empty = report_of(study, selected=selected)
    assert (empty.cells["planned"] > 0).tolist() == empty.cells["group"].isin(selected).tolist()
    (table,) = empty.section().tables.values()
    lines = [" ".join(line) for line in table.lines()[1:]]
    assert sum("no runs" in line for line in lines) == sum(group in selected for group in groups)
    assert sum("not selected" in line for line in lines) == sum(group not in selected for group in groups)
    whole = report_of(study, made_rows(study), selected=selected)
    assert not any(word in text_of(whole) for word in ("no runs", "not selected")), "what has runs is shown"


@pytest.mark.parametrize(
    ("name", "against"), [*product(shipped(), ["report"]), *product(["fig1", "table5"], ["renda", "none"])]
)
def test_no_two_columns_of_a_table_have_one_name(name: str, against: str) -> None:
    report = report_of(shipped()[name], against=against)
    for table in (*report.section().tables.values(), study_tables["cells"](report)):
        headings = table.lines()[0]
        assert len(set(headings)) == len(headings), headings


def test_scaled_and_full_runs_never_meet_in_a_cell() -> None:
    study = shipped()["fig1"]
    rows = pd.concat([made_rows(study), made_rows(study, 0.01, 2)], ignore_index=True)
    full, scaled = report_of(study, rows), report_of(study, rows, scale=0.01)
    assert (set(full.cells["n"]), set(full.rows["scale"])) == ({3}, {1.0})
    assert (set(scaled.cells["n"]), set(scaled.rows["scale"])) == ({2}, {0.01})


@pytest.mark.parametrize(
    ("name", "form"), [*product(["fig1", "table1", "table4"], ["text"]), *product(["table5"], formats)]
)
def test_nothing_scaled_is_unmarked_or_has_a_difference(tmp_path: Path, name: str, form: str) -> None:
    study = shipped()[name]
    report = report_of(study, made_rows(study, 0.01), scale=0.01)
    assert report.cells[["difference", "difference_delta"]].isna().all(axis=None)
    assert report.cells["published_median"].notna().any()
    assert ("0.01" if form in ("csv", "json") else "SCALED X0.01") in text_of(report, form)
    if form != "text":
        return
    names = {path.name for path in write_files(tmp_path, [report.section()], form, report.rows)} - {"runs.csv"}
    assert all("scaled-x0.01" in name for name in names)
    assert len(names) == (4 if study.figures else 1)


def in_bf16(rows: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """The rows, those of the first seeds trained in bf16, dense run and retraining."""
    changed = {"precision": "bf16", "dense_precision": "bf16"}
    return rows.assign(**{name: rows[name].where(rows["seed"] >= seeds, to) for name, to in changed.items()})


@pytest.mark.parametrize("name", ["fig1", "table1", "table4", "table5"])
def test_a_study_never_pools_precisions_and_names_them_where_there_are_several(name: str) -> None:
    study = shipped()[name]
    rows = made_rows(study)
    one, both = report_of(study, rows), report_of(study, in_bf16(rows, 1))
    assert "precision" not in text_of(one)
    cells = both.cells.set_index(["group", "precision"])
    assert len(cells) == 2 * len(one.cells)
    assert set(zip(both.cells["precision"], both.cells["n"], strict=True)) == {("bf16", 1), ("fp32", 2)}
    for (group, precision), cell in cells.iterrows():
        own = rows[(rows["group"] == group) & ((rows["seed"] < 1) == (precision == "bf16"))]
        assert cell["median"] == pytest.approx(own["test_accuracy"].median())
        assert cell["baseline"] == pytest.approx(own["dense_accuracy"].median())
    (table,) = both.section().tables.values()
    column = table.lines()[0].index("precision")
    assert {line[column] for line in table.lines()[1:]} == {"bf16", "fp32"}


def test_in_a_table_of_several_precisions_a_cell_without_runs_has_none() -> None:
    study = shipped()["table5"]
    rows = in_bf16(made_rows(study), 1)
    table = study_tables["table5"](report_of(study, rows[rows["method"] != "finetune"]))
    names, column = table.lines()[0], table.lines()[0].index("precision")
    empty = [line for line in table.lines()[1:] if "no runs" in line]
    assert [line[column] for line in empty] == [""]
    assert len(empty[0]) == len(names)


def test_parameters_are_counted_and_equal_the_published_ones() -> None:
    for name in ("table1", "table2"):
        rows = study_tables[name](report_of(shipped()[name])).rows
        known = rows[rows["published_parameters"].notna()]
        assert len(known) >= 1
        assert (known["parameters"] == known["published_parameters"]).all()
        assert (known["kernel_parameters"] == known["published_kernel_parameters"]).all()
        assert (rows["parameters"] > 0).all()


def test_times_of_devices_are_apart_and_named() -> None:
    study = shipped()["table4"]
    rows = made_rows(study)
    rows.loc[rows["seed"] == 0, "device"] = "other GPU"
    table = study_tables["table4"](report_of(study, rows)).rows
    assert sorted(set(zip(table["device"], table["n"], strict=True))) == [("other GPU", 1), ("some GPU", 2)]
    row = table[table["model"] == "resnet20"].set_index("device").loc["some GPU"]
    assert row["iterations_per_second"] == 101.5
    assert row["minutes"] == pytest.approx(72_000 / 101.5 / 60)
    assert row["difference_iterations_per_second"] == pytest.approx(101.5 - 59.0)


def test_data_set_that_is_not_here_is_not_filled_in() -> None:
    table = study_tables["table3"](report_of(shipped()["table3"]))
    assert len(table.rows) == 8
    assert set(table.rows["n"]) == {0}
    assert all("data not here" in line for line in table.lines()[1:])


def test_numbers_are_numbers_in_json_of_one_table_and_of_several() -> None:
    study = shipped()["table5"]
    report = report_of(study, made_rows(study))
    assert [row["n"] for row in json.loads(text_of(report, "json"))] == [3, 3, 3, 3]
    both = tables_text(report.section(tables=["cells", "table5"]).tables, "json")
    assert {name: len(rows) for name, rows in json.loads(both).items()} == {"table5-cells": 4, "table5": 4}


def test_best_accuracy_is_taken_when_asked_for_and_named() -> None:
    study = shipped()["table5"]
    final, best = (report_of(study, made_rows(study), accuracy=name) for name in ("final", "best"))
    assert (best.cells["median"] - final.cells["median"]).tolist() == pytest.approx([0.001] * 4)
    assert "best accuracy" in text_of(best)
    assert "best accuracy" not in text_of(final)


def test_rows_without_their_baseline_or_of_other_studies_change_nothing() -> None:
    study = shipped()["fig1"]
    rows = made_rows(study)
    more = pd.concat([rows, made_rows(shipped()["fig3"])], ignore_index=True)
    pd.testing.assert_frame_equal(report_of(study, rows).cells, report_of(study, more).cells)
    assert math.isfinite(report_of(study, rows).cells["baseline"].sum())
