"""What the studies of open questions end in: a verdict for each comparison, and a figure of their own."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies import panel, study_of
from study_rows import NO_ROWS, facts, made_rows

from rewindctl.datasets.inventory import DataFacts
from rewindctl.errors import UsageError
from rewindctl.paper.plan import make_plan
from rewindctl.paper.request import comparisons_of
from rewindctl.paper.study import Study, parse_study, shipped
from rewindctl.report.section import write_files
from rewindctl.report.study import StudyReport, study_report
from rewindctl.report.study_figures import study_figures
from rewindctl.report.study_tables import study_tables
from rewindctl.specs import RetrainSpec

QUESTIONS = [name for name, study in shipped().items() if study.comparisons]


def report_of(name: str, rows: pd.DataFrame = NO_ROWS, scale: float = 1.0) -> StudyReport:
    return study_report(rows, shipped()[name], scale=scale)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_study_of_an_open_question_has_verdicts_a_figure_and_six_trials(name: str) -> None:
    study = shipped()[name]
    assert (study.trials, study.part_of_paper, "verdicts" in study.tables) == (6, False, True)
    assert set(study.figures) <= set(study_figures)


@pytest.mark.parametrize("name", QUESTIONS)
def test_nothing_is_trained_twice_under_another_name(name: str) -> None:
    plan, seen = make_plan([shipped()[name]], facts, (0,), 1.0), set()
    for stage in plan.stages.values():
        if isinstance(spec := stage.spec, RetrainSpec):
            bytes_of = (stage.parent, spec.weights_iteration, spec.clock_start, spec.iterations)
            bytes_of += (spec.schedule_iterations, spec.constant_lr, spec.optimizer_state)
            assert bytes_of not in seen, spec
            seen.add(bytes_of)


@pytest.mark.parametrize(("name", "scale"), [*product(QUESTIONS, [1.0]), (QUESTIONS[0], 0.01)])
def test_every_comparison_has_a_row_for_each_scenario_with_runs_and_without(name: str, scale: float) -> None:
    """Labels of full length are found among those of a scaled run."""
    empty, full = (
        study_tables["verdicts"](report_of(name, rows, scale)).rows
        for rows in (NO_ROWS, made_rows(shipped()[name], scale, 6))
    )
    assert len(empty) == len(full) >= len(shipped()[name].comparisons)
    assert set(empty["remark"]) == {"no dense run has both"}
    assert set(full["n"]) == {6}
    assert full[["effect", "low", "high", "p"]].notna().all(axis=None)
    for frame in (empty, full):
        place = ["model", "schedule", "step", "pruned_at", "first_label", "second_label", "first"]
        assert not frame.duplicated(place).any()


def test_the_best_setting_is_the_one_that_was_made_better(tmp_path: Path) -> None:
    rows = made_rows(shipped()["in_between"], seeds=6)
    rng = np.random.default_rng(0)
    rows["test_accuracy"] += rng.normal(0, 0.0005, len(rows))
    rows.loc[rows["label"] == "rewind w=8000 c=0", "test_accuracy"] += 0.02
    report = report_of("in_between", rows)
    made = study_tables["verdicts"](report).rows
    best = made[made["first"].str.startswith("best of ")]
    assert len(best) == 4
    assert set(best["first_label"]) == {"rewind w=8000 c=0"}
    assert set(best["verdict"]) == {"first better"}
    assert best["effect"].between(1.8, 2.2).all()
    names = {path.name for path in write_files(tmp_path, [report.section()], "text", rows)}
    assert {"in_between-heat_map.png", "in_between-verdicts.txt", "in_between-cells.txt"} <= names
    assert "first better" in (tmp_path / "in_between-verdicts.txt").read_text()


def test_panels_that_differ_in_excluded_layers_alone_are_scenarios_of_their_own() -> None:
    whole = panel(methods=[{"method": "lr_rewind"}, {"method": "finetune"}])
    study = study_of(whole, whole | {"exclude": ["stem"]}, tables=["verdicts"], comparisons=[["lr_rewind", "finetune"]])
    rows = made_rows(study)
    report = study_report(rows[rows["exclude"] == ""], study)
    made = study_tables["verdicts"](report).rows
    assert made[["exclude", "n"]].to_numpy().tolist() == [["", 3], ["stem", 0]]


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (["weight_rewind k=7", "lr_rewind"], "no cell has the label 'weight_rewind k=7'"),
        (["lr_rewind", "best of rewind"], "must be the first of a comparison"),
        (["best of rewnd", "lr_rewind"], "no cell has the method 'rewnd'"),
        (["labl=lr_rewind", "lr_rewind"], "unknown column 'labl'"),
        (["label=lr_rewnd,pruned_at=12", "lr_rewind"], "no cell has the label 'lr_rewnd'"),
    ],
)
def test_a_comparison_of_what_no_cell_is_is_refused_before_anything_runs(pair: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        comparisons_of(with_comparison(pair), facts, 1.0)
    assert words in caught.value.message


def with_comparison(pair: list[str]) -> Study:
    text = "schema: 1\nname: mine\ntitle: t\npanels:\n  - {model: resnet8, dataset: digits, iterations: 24, "
    text += "schedule: one_shot, pruned_at: 12, sparsities: [0.5], methods: [{method: lr_rewind}, "
    text += "{method: weight_rewind, k: 12}, {method: rewind, weights_k: 24, lr_k: 12}]}\n"
    return parse_study(f"{text}comparisons: [['{pair[0]}', '{pair[1]}']]\n", "mine")


def test_labels_and_iterations_of_conditions_are_those_of_the_scaled_run() -> None:
    def at(scale: float, *pair: str) -> tuple[tuple[str, str], ...]:
        return comparisons_of(with_comparison(list(pair)), facts, scale)

    assert at(0.5, "weight_rewind k=12", "lr_rewind") == (("weight_rewind k=6", "lr_rewind"),)
    conditions = ("label=weight_rewind k=12,pruned_at=12", "label=weight_rewind k=12,pruned_at=none")
    assert at(0.5, *conditions) == (("label=weight_rewind k=6,pruned_at=6", "label=weight_rewind k=6,pruned_at=none"),)
    assert at(1.0, *conditions) == (conditions,)


# Figures


def texts(axes: object) -> list[str]:
    return [text.get_text() for text in axes.texts]  # type: ignore[attr-defined]


@pytest.mark.parametrize("delta", ["relative", "points"])
def test_the_heat_map_has_each_cell_at_its_w_and_c_and_marks_what_the_methods_are(delta: str) -> None:
    rows = made_rows(shipped()["in_between"], seeds=6)
    rows = rows[rows["label"] != "rewind w=2000 c=0"]
    cells = report_of("in_between", rows).cells
    figure = study_figures["heat_map"](cells, delta)
    axes = [one for one in figure.axes if "clock" in one.get_xlabel()]
    assert len(axes) == 2
    for one, (_, drawn_cells) in zip(axes, cells.groupby("panel"), strict=True):
        weights = [int(tick.get_text().split(" ")[0].replace(",", "")) for tick in one.get_yticklabels()]
        clocks = [int(tick.get_text().replace(",", "")) for tick in one.get_xticklabels()]
        drawn = one.images[0].get_array()
        for _, cell in drawn_cells.iterrows():
            at = weights.index(cell["weights_iteration"]), clocks.index(cell["clock_start"])
            if cell["n"]:
                assert drawn[at] == pytest.approx(cell[f"delta_{delta}"])
            else:
                assert bool(np.ma.getmaskarray(drawn)[at])
        assert len(one.patches) == sum(drawn_cells["method"] != "rewind")
        assert texts(one).count("no runs") == (drawn_cells["n"] == 0).sum()
        assert [t.get_text() for t in one.get_legend().get_texts()] == [
            "weight rewinding (W = C)",
            "LR rewinding (trained weights, C = 0)",
        ]
    assert "no runs" in texts(axes[0])


def test_the_figure_of_lengths_has_a_line_per_kind_over_the_iterations_of_retraining() -> None:
    cells = report_of("retrain_length", made_rows(shipped()["retrain_length"], seeds=6)).cells
    (axes,) = study_figures["length"](cells, "points").axes
    found = {
        line.get_label().partition(" (")[0]: [round(float(x), -3) for x in line.lines[0].get_xdata()]
        for line in axes.containers
    }
    assert found == {
        "fine-tuning at a constant rate": [9000, 18000, 36000, 54000, 72000],
        "LR rewinding, the whole schedule scaled": [9000, 18000, 36000, 54000, 72000],
        "LR rewinding, the schedule from C on": [27000, 36000, 54000, 64000, 72000],
        "weight rewinding, from K on": [40000, 64000],
    }


@pytest.mark.parametrize(("name", "figure"), [("in_between", "heat_map"), ("retrain_length", "length")])
def test_a_study_without_runs_still_draws_its_figure(name: str, figure: str) -> None:
    assert "no runs yet" in study_figures[figure](report_of(name).cells, "relative").axes[0].get_title()


def test_facts_are_asked_for_a_study_with_comparisons_only() -> None:
    asked: list[str] = []

    def noted(name: str) -> DataFacts:
        asked.append(name)
        return facts(name)

    assert comparisons_of(shipped()["fig1"], noted, 1.0) == ()
    assert not asked
