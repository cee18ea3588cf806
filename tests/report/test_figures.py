"""A figure draws the numbers of the cells, every method in its legend, and leaves them beside it as CSV."""

import csv
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image
from study_rows import made_rows

from rewindctl.errors import UsageError
from rewindctl.paper.study import shipped
from rewindctl.report.cells import summarise
from rewindctl.report.figures import AXIS, curves, figures
from rewindctl.report.frame import COLUMNS
from rewindctl.report.section import Drawing, Section
from rewindctl.report.study import study_report

METHODS = {
    "finetune": "fine-tuning",
    "weight_rewind k=6": "weight rewinding k=6",
    "lr_rewind": "LR rewinding",
    "rewind w=6 c=0": "rewinding w=6 c=0",
}
COMPRESSIONS = (2.0, 5.0, 10.0)


def made_cells(**changes: Any) -> pd.DataFrame:
    """Three trials of four methods at three compressions, and their dense runs."""
    rng = np.random.default_rng(0)
    usual = {
        "model": "resnet20",
        "dataset": "cifar10",
        "iterations": 72_000,
        "structure": "unstructured",
        "scope": "global",
        "criterion": "magnitude",
        "channel_norm": "keep",
        "exclude": "",
        "schedule": "one_shot",
        "step": None,
        "level": 1,
        "sparsity_asked": 0.5,
        "dense_accuracy": 0.92,
        "dense_accuracy_best": 0.93,
    } | changes
    rows = []
    for label, compression, seed in [(m, c, s) for m in METHODS for c in COMPRESSIONS for s in range(3)]:
        accuracy = 0.9 - 0.01 * compression + rng.uniform(0, 0.05)
        name = f"{label} {compression}"
        rows.append(
            usual
            | {"run_id": f"{name} {seed}", "method": label.split()[0], "label": label, "group": name, "seed": seed}
            | {"compression": compression, "sparsity": 1 - 1 / compression, "test_accuracy": accuracy}
            | {"test_accuracy_best": accuracy, "dense_run_id": f"dense{seed}"}
        )
    dense = {
        "method": "none",
        "label": "none",
        "group": "dense",
        "schedule": "dense",
        "compression": 1.0,
        "sparsity": 0.0,
    }
    dense |= {"run_id": "dense", "seed": 0, "test_accuracy": 0.92, "test_accuracy_best": 0.93, "dense_run_id": "dense"}
    return summarise(pd.DataFrame([*rows, usual | dense], columns=list(COLUMNS)))


def panels(cells: pd.DataFrame, delta: str = "relative") -> list[Any]:
    return list(figures["curves"](cells, delta).axes)


def legend(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_every_method_is_in_the_legend_with_its_number_of_trials() -> None:
    (axes,) = panels(made_cells())
    assert sorted(legend(axes)) == sorted(f"{name} (n = 3)" for name in METHODS.values())
    assert "10th-90th percentile of n trials" in axes.get_legend().get_title().get_text()


FP32 = {"precision": "fp32", "dense_precision": "fp32"}
BF16 = {"precision": "bf16", "dense_precision": "bf16"}


def test_lines_of_several_precisions_are_lines_of_their_own_and_named_in_the_legend() -> None:
    (axes,) = panels(pd.concat([made_cells(**FP32), made_cells(**BF16, dense_accuracy=0.9)]))
    assert sorted(legend(axes)) == sorted(f"{name}, {p} (n = 3)" for name in METHODS.values() for p in ("bf16", "fp32"))
    assert all(len(container.lines[0].get_xdata()) == len(COMPRESSIONS) for container in axes.containers)
    looks = [(container.lines[0].get_color(), container.lines[0].get_marker()) for container in axes.containers]
    assert len(set(looks)) == len(looks)
    assert "dense 90.00 % (bf16), 92.00 % (fp32)" in axes.get_title()
    (alone,) = panels(made_cells(**FP32))
    assert sorted(legend(alone)) == sorted(f"{name} (n = 3)" for name in METHODS.values())


def test_a_published_curve_is_drawn_once_whatever_the_precisions() -> None:
    study = shipped()["fig1"]
    rows = made_rows(study)
    rows.loc[rows["seed"] == 0, list(BF16)] = "bf16"
    rows = rows[(rows["precision"] == "fp32") | (rows["sparsity_asked"] != 0.59)]
    (axes, _) = figures["curves"](study_report(rows, study).cells, "points").axes
    labels = [container.get_label() for container in axes.containers]
    assert labels.count("_published") == 3
    assert {"LR rewinding, bf16 (n = 1)", "LR rewinding, fp32 (n = 2)"} <= set(labels)
    published = axes.containers[labels.index("_published")].lines[0]
    assert len(published.get_xdata()) == 10


def test_trials_that_differ_in_number_are_given_as_a_range() -> None:
    cells = made_cells()
    cells.loc[(cells["label"] == "lr_rewind") & (cells["compression"] == 5), "n"] = 2
    assert "LR rewinding (n = 2-3)" in legend(panels(cells)[0])


def floats(values: Any) -> npt.NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


@pytest.mark.parametrize("delta", list(AXIS))
def test_points_and_error_bars_are_the_numbers_of_the_cells(delta: str) -> None:
    cells = made_cells()
    (axes,) = panels(cells, delta)
    assert len(axes.containers) == len(METHODS)
    for container in axes.containers:
        label = next(key for key, name in METHODS.items() if container.get_label() == f"{name} (n = 3)")
        cell = cells[cells["label"] == label].sort_values("compression")
        line, _, (bars,) = container.lines
        np.testing.assert_allclose(floats(line.get_ydata()), cell[f"delta_{delta}"])
        np.testing.assert_allclose(floats(line.get_xdata()), cell["compression"], rtol=0.05)
        ends = floats([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, cell[[f"delta_{delta}_p10", f"delta_{delta}_p90"]])


@pytest.mark.parametrize(("delta", "words"), [("relative", "% of the dense accuracy"), ("points", "percentage points")])
def test_axes_say_what_they_are(delta: str, words: str) -> None:
    (axes,) = panels(made_cells(), delta)
    assert axes.get_xscale() == "log"
    assert words in axes.get_ylabel()
    assert "compression" in axes.get_xlabel()
    assert [tick for tick in axes.get_xticks() if tick in COMPRESSIONS] == list(COMPRESSIONS)


def test_lines_differ_in_colour_and_in_marker_for_who_sees_no_colour() -> None:
    (axes,) = panels(made_cells())
    lines = [container.lines[0] for container in axes.containers]
    for looks in ([line.get_color() for line in lines], [line.get_marker() for line in lines]):
        assert len(set(looks)) == len(METHODS)


DIFFERENT: list[dict[str, Any]] = [
    {"model": "resnet56"},
    {"dataset": "cifar100"},
    {"structure": "structured"},
    {"scope": "layerwise"},
    {"channel_norm": "remove"},
    {"exclude": "stem"},
    {"schedule": "iterative", "step": 0.2},
    {"iterations": 1_000},
]


@pytest.mark.parametrize("change", DIFFERENT, ids=lambda change: next(iter(change)))
def test_settings_that_differ_have_a_panel_each_and_a_title_each(change: dict[str, Any]) -> None:
    drawn = panels(pd.concat([made_cells(), made_cells(**change)]))
    assert len(drawn) == 2
    assert len({axes.get_title() for axes in drawn}) == 2
    assert all(len(legend(axes)) == len(METHODS) for axes in drawn)


def test_dense_runs_are_the_line_at_zero_not_a_point() -> None:
    (axes,) = panels(made_cells())
    assert not [label for label in legend(axes) if "dense" in label]
    assert "dense 92.00 %" in axes.get_title()
    assert any(list(line.get_ydata()) == [0, 0] for line in axes.get_lines())


def test_cell_of_one_trial_and_no_relative_difference_can_be_drawn() -> None:
    cells = made_cells().query("compression == 5").assign(n=1)
    for name in ("delta_relative", "delta_relative_p10", "delta_relative_p90"):
        cells.loc[cells["label"] == "finetune", name] = np.nan
    assert len(legend(panels(cells)[0])) == len(METHODS)


@pytest.mark.parametrize("delta", list(AXIS))
def test_saved_figure_is_an_image_a_drawing_and_its_numbers(tmp_path: Path, delta: str) -> None:
    cells = made_cells()
    paths = Section("All", {}, {"curves": Drawing("All", cells, delta, curves)}).write_drawings(tmp_path / "plots")
    assert [path.name for path in paths] == ["curves.png", "curves.svg", "curves.csv"]
    assert sorted(paths) == sorted((tmp_path / "plots").iterdir())
    with Image.open(paths[0]) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(2**24) or []) > 10
    assert ElementTree.parse(paths[1]).getroot().tag.endswith("svg")
    with paths[2].open(newline="") as file:
        drawn = [(float(row["median"]), row["run_ids"]) for row in csv.DictReader(file)]
    assert drawn == list(zip(cells["median"], cells["run_ids"], strict=True))


def test_folder_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    section = Section("All", {}, {"curves": Drawing("All", made_cells(), "points", curves)})
    with pytest.raises(UsageError, match="file cannot be written"):
        section.write_drawings(tmp_path / "file")
    assert (tmp_path / "file").read_text() == ""


def of_study(**changes: Any) -> tuple[pd.DataFrame, list[Any]]:
    """The cells of the paper's figure 1 with made-up trials, changed where asked, and the panels drawn of them."""
    study = shipped()["fig1"]
    cells = study_report(made_rows(study, **changes), study).cells
    return cells, list(figures["curves"](cells, "relative").axes)


def test_ours_is_solid_and_filled_over_published_dashed_and_hollow_in_the_same_colour() -> None:
    cells, drawn = of_study()
    assert [axes.get_title().splitlines()[0] for axes in drawn] == [
        "resnet20 on cifar10, one-shot",
        "resnet20 on cifar10, iterative (0.2)",
    ]
    for axes, (_, panel) in zip(drawn, cells.groupby("panel"), strict=True):
        lines = [container.lines[0] for container in axes.containers]
        published, ours = lines[::2], lines[1::2]
        for back, front in zip(published, ours, strict=True):
            assert (back.get_color(), back.get_marker()) == (front.get_color(), front.get_marker())
            assert (front.get_linestyle(), back.get_linestyle()) == ("-", "--")
            assert (back.get_markerfacecolor(), front.get_markerfacecolor()) == ("white", front.get_color())
            assert back.get_zorder() < front.get_zorder()
        values = np.concatenate([floats(line.get_ydata()) for line in published])
        np.testing.assert_allclose(sorted(values), sorted(panel["published_delta_relative"]))
        assert "published: the paper's figure 1" in legend(axes)


def test_cell_without_runs_is_a_gap_and_one_with_few_is_ringed() -> None:
    study = shipped()["fig1"]
    rows = made_rows(study)
    gone = rows["sparsity_asked"] == 0.59
    few = (rows["sparsity_asked"] == 0.79) & (rows["seed"] > 0)
    cells = study_report(rows[~gone & ~few], study).cells
    (axes, _) = figures["curves"](cells, "points").axes
    front = axes.containers[1].lines[0]
    assert int(np.isnan(floats(front.get_ydata())).sum()) == 1
    assert "fewer than 3 trials" in legend(axes)
    assert "3 of 30 cells have no runs" in axes.get_legend().get_title().get_text()
    assert "weight rewinding k=8000 (n = 0-3)" in legend(axes)


def test_cells_that_were_not_selected_are_not_missing() -> None:
    study = shipped()["fig1"]
    rows = made_rows(study)
    tuned = frozenset(rows.loc[rows["method"] == "finetune", "group"])
    cells = study_report(rows.iloc[:0], study, selected=tuned).cells
    (axes, _) = figures["curves"](cells, "points").axes
    assert "10 of 10 cells have no runs" in axes.get_legend().get_title().get_text()
    cells = study_report(rows.iloc[:0], study, selected=()).cells
    (axes, _) = figures["curves"](cells, "points").axes
    assert "not selected" in axes.get_title()
    assert "no runs" not in axes.get_legend().get_title().get_text()


def test_study_without_runs_draws_the_published_curve_alone() -> None:
    _, (axes, _) = of_study(seeds=0)
    assert "no runs yet" in axes.get_title()
    assert "30 of 30 cells have no runs" in axes.get_legend().get_title().get_text()


def test_scaled_panels_say_so_in_their_titles() -> None:
    study = shipped()["fig1"]
    cells = study_report(made_rows(study, 0.01), study, scale=0.01).cells
    assert all("SCALED x0.01" in axes.get_title() for axes in figures["curves"](cells, "relative").axes)
    assert all("SCALED x0.01389" in axes.get_title() for axes in panels(made_cells(scale=1_000 / 72_000)))


def test_best_accuracies_are_named_on_the_axis() -> None:
    cells = made_cells()
    cells["accuracy"] = "best"
    assert panels(cells)[0].get_ylabel().startswith("best-accuracy difference")


def test_one_trial_has_no_error_bar() -> None:
    (axes,) = panels(made_cells().assign(n=1))
    for container in axes.containers:
        _, _, (bars,) = container.lines
        assert not [segment for segment in bars.get_segments() if len(segment) and np.isfinite(segment).all()]
