"""What is asked for: studies by name, each once; cells by conditions."""

from functools import cache
from pathlib import Path

import pytest
from studies import panel, study_of, text_of

from rewindctl.datasets.inventory import DataFacts, facts_of
from rewindctl.errors import UsageError
from rewindctl.paper.plan import Cell, StudyPlan
from rewindctl.paper.request import planned, studies_of
from rewindctl.paper.study import shipped


@cache
def facts(name: str) -> DataFacts:
    return facts_of(name, None)


def plan_of(name: str, cells: str | None = None) -> StudyPlan:
    return planned([shipped()[name]], facts, (0,), cells, 1.0)


def selected(name: str, cells: str) -> list[Cell]:
    return plan_of(name, cells).cells


def compressions(cells: list[Cell]) -> set[float]:
    return {round(cell.compression, 2) for cell in cells}


# Studies


def test_all_is_the_paper() -> None:
    assert studies_of(("all",)) == [study for study in shipped().values() if study.part_of_paper]
    assert studies_of(("fig3", "all", "fig3"))[0].name == "fig3"
    assert len(studies_of(("fig3", "all", "fig3"))) == 11


def test_two_studies_of_one_name_are_refused_unless_they_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text_of(name="fig1"))
    (tmp_path / "copy.yaml").write_text(text_of(name="fig1"))
    assert len(studies_of(("mine.yaml", "copy.yaml"))) == 1
    with pytest.raises(UsageError, match="two studies are named 'fig1'"):
        studies_of(("fig1", "mine.yaml"))


def test_without_seeds_the_trials_are_the_studys() -> None:
    plan = planned([study_of(trials=2)], facts, None, None, 1.0)
    assert {len(cell.stages) for cell in plan.cells} == {2}


# Cells

COUNTS = [
    ("fig1", "method=lr_rewind", 20),
    ("fig1", "method!=lr_rewind", 40),
    ("fig1", "schedule=iterative,method=finetune", 10),
    ("fig1", "schedule = iterative , method = finetune", 10),
    ("fig1", "step=0.2", 30),
    ("fig1", "step!=0.2", 30),
    ("fig1", "step=none", 30),
    ("fig1", "k=8000", 20),
    ("fig1", "k!=8000", 40),
    ("fig1", "k>7999", 20),
    ("fig1", "panel=0", 30),
    ("fig1", "panel>0", 30),
    ("fig1", "study=fig1", 60),
    ("fig1", "label=weight_rewind k=8000", 20),
    ("fig1", "model=resnet20,dataset=cifar10,structure=unstructured,scope=global", 60),
    ("fig1", "compression=9.35", 6),
    ("fig1", "compression=9.35x", 6),
    ("fig1", "compression!=9.35", 54),
    ("fig1", "compression>=9.35", 6),
    ("fig1", "compression<=9.35", 60),
    ("fig1", "compression<9.35", 54),
    ("fig1", "compression>9.34", 0),
    ("fig1", "compression>5", 18),
    ("fig1", "compression>5,compression<7", 6),
    ("fig1", "sparsity=0.893", 6),
    ("fig1", "sparsity<=0.36", 12),
    ("fig1", "sparsity<0.36", 6),
    ("fig1", "sparsity>0.866", 6),
    ("fig5", "sparsity=0.975", 2),
    ("fig5", "sparsity=0.99", 2),
    ("fig5", "compression=100", 2),
    ("table5", "method=none", 1),
    ("table5", "sparsity=0", 1),
    ("table5", "compression=1", 1),
]


@pytest.mark.parametrize(("name", "cells", "count"), COUNTS)
def test_conditions_select(name: str, cells: str, count: int) -> None:
    if count:
        assert len(selected(name, cells)) == count
    else:
        with pytest.raises(UsageError, match="selects none of 60 cells"):
            selected(name, cells)


def test_a_number_that_tables_round_selects_its_cell_and_no_neighbour() -> None:
    for name in ("fig2", "fig5"):
        for cell in plan_of(name).cells:
            rounded = f"{cell.compression:.3g}"
            assert compressions(selected(name, f"compression={rounded}")) == {round(cell.compression, 2)}
            exact = selected(name, f"sparsity={cell.sparsity:g}")
            assert {other.sparsity for other in exact} == {cell.sparsity}


def test_a_condition_and_its_opposite_share_the_cells() -> None:
    everything = plan_of("fig5").cells
    for one, other in (("=", "!="), ("<", ">="), (">", "<=")):
        first, second = (selected("fig5", f"compression{sign}5") for sign in (one, other))
        if one == "=":
            continue
        assert len(first) + len(second) == len(everything)
        assert not {cell.stages for cell in first} & {cell.stages for cell in second}


def test_ancestors_are_kept() -> None:
    plan = plan_of("fig1", "schedule=iterative,method=lr_rewind,compression=9.35")
    assert len(plan.cells) == 1
    assert len(plan.stages) == 1 + 2 * 10
    assert set(plan.lineage(plan.cells[0].stages[0])) == set(plan.stages)


REFUSED = [
    ("method=finetun", "selects none of 60 cells", "loosen"),
    ("compression>nan", "selects none", "loosen"),
    ("method>a", "'a' is not a number", "text takes = and !="),
    ("sparsity==0.5", "'sparsity==0.5' is not a condition", "the signs are"),
    ("", "'' is not a condition", "write method=lr_rewind"),
    (",", "'' is not a condition", "write"),
    ("method", "'method' is not a condition", "write"),
    ("method=", "is not a condition", "write"),
    ("=finetune", "is not a condition", "write"),
    ("method=finetune,", "'' is not a condition", "write"),
    ("methods=finetune", "unknown column 'methods'", "known: channel_norm, compression, criterion, dataset"),
    ("group=abc", "unknown column 'group'", "known"),
    ("stages=abc", "unknown column 'stages'", "known"),
    ("__class__=Cell", "unknown column '__class__'", "known"),
]


@pytest.mark.parametrize(("cells", "words", "hint"), REFUSED)
def test_a_selection_that_makes_no_sense_is_refused(cells: str, words: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan_of("fig1", cells)
    assert words in caught.value.message
    assert hint in caught.value.hint


def test_no_cells_can_be_selected_where_there_are_none() -> None:
    assert plan_of("table3").stages == {}
    with pytest.raises(UsageError, match="none of 0 cells"):
        plan_of("table3", "method=lr_rewind")


def test_columns_of_every_cell_can_be_selected_by_what_they_hold() -> None:
    study = study_of(panel(), panel(schedule="dense"), panel(schedule="iterative", sparsities=[0.2, 0.36]))
    for cell in planned([study], facts, (0,), None, 1.0).cells:
        for column in (
            "study",
            "panel",
            "model",
            "schedule",
            "step",
            "sparsity",
            "method",
            "label",
            "k",
            "compression",
        ):
            value = getattr(cell, column)
            text = f"{column}={'none' if value is None else value}"
            assert cell in planned([study], facts, (0,), text, 1.0).cells
