"""Every table, figure and format of the catalogs keeps the same promises, with runs and without."""

import json
from typing import Any

import pytest
from study_rows import NO_ROWS, made_rows, tiny_study

from rewindctl.catalog import Catalog
from rewindctl.report.cells import summarise
from rewindctl.report.figures import figures
from rewindctl.report.formats import formats
from rewindctl.report.lineage import forms
from rewindctl.report.study import StudyReport, study_report
from rewindctl.report.study_figures import study_figures
from rewindctl.report.study_tables import study_tables
from rewindctl.report.tables import tables

CATALOGS: dict[str, Catalog[Any]] = {
    "tables": tables,
    "study_tables": study_tables,
    "figures": figures,
    "study_figures": study_figures,
    "formats": formats,
    "forms": forms,
}
DELTAS = ("relative", "points")


@pytest.fixture(scope="module", params=["runs", "no runs"])
def report(request: pytest.FixtureRequest) -> StudyReport:
    rows = made_rows(tiny_study) if request.param == "runs" else NO_ROWS
    return study_report(rows, tiny_study)


@pytest.mark.parametrize("catalog", CATALOGS)
def test_every_entry_says_what_it_is(catalog: str) -> None:
    for name in CATALOGS[catalog]:
        assert (CATALOGS[catalog][name].__doc__ or "").strip(), name


@pytest.mark.parametrize("name", list(study_tables))
def test_a_table_of_a_study_has_columns_and_every_form(report: StudyReport, name: str) -> None:
    table = study_tables[name](report)
    texts = {form: formats[form](table) for form in formats}
    assert all(texts.values())
    rows = json.loads(texts["json"])
    assert len(rows) == len(texts["csv"].splitlines()) - 1
    assert rows or name == "verdicts", "a table of cells has its cells, with runs or without"


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("name", list(study_figures))
def test_a_figure_of_a_study_is_drawn_and_its_axes_are_named(report: StudyReport, name: str, delta: str) -> None:
    check(study_figures[name](report.cells, delta))


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("name", list(figures))
def test_a_figure_of_any_runs_is_drawn_and_its_axes_are_named(name: str, delta: str) -> None:
    check(figures[name](summarise(made_rows(tiny_study)), delta))


def check(figure: Any) -> None:
    figure.canvas.draw()
    drawn = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert drawn
    assert all(axes.get_xlabel() and axes.get_title() for axes in drawn)
