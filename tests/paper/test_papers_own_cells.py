"""What is the paper's own cell is the same for its claims and for the numbers put beside ours."""

from typing import Any

import pandas as pd
import pytest
from study_rows import NO_ROWS, facts

from rewindctl.paper.claims import paper_source
from rewindctl.paper.plan import Cell, make_plan
from rewindctl.paper.reference import is_in_paper, usual
from rewindctl.paper.study import shipped
from rewindctl.report.published import published_of
from rewindctl.report.study import study_report

STUDIES = ("fig1", "fig2", "fig3", "fig4", "fig5", "table5", "lr_clock", "wrn_checkpoint")


def pruned(name: str) -> list[tuple[Cell, dict[str, Any]]]:
    """The pruned cells of a study with their tidy columns."""
    cells = make_plan([shipped()[name]], facts, (0,)).cells
    rows = study_report(NO_ROWS, shipped()[name]).cells
    return [(c, dict(r)) for c, (_, r) in zip(cells, rows.iterrows(), strict=True) if c.schedule != "dense"]


@pytest.mark.parametrize("name", STUDIES)
def test_a_cell_with_a_published_number_is_one_of_the_claims_and_the_other_way_round(name: str) -> None:
    for cell, row in pruned(name):
        assert is_in_paper(row, cell.label)
        assert published_of(cell, row, "report") is not None
        assert paper_source(pd.Series(row), (cell.label,)) != ""


EXPLORATORY: list[dict[str, Any]] = [
    {"pruned_at": 36_000.0},
    {"scope": "layerwise"},
    {"criterion": "random"},
    {"exclude": "stem"},
    {"channel_norm": "remove"},
    {"recipe": "resnet momentum=0.5"},
]


@pytest.mark.parametrize("changes", EXPLORATORY, ids=str)
@pytest.mark.parametrize("name", ["fig1", "fig5"])
def test_an_exploratory_cell_is_neither(name: str, changes: dict[str, Any]) -> None:
    for cell, row in pruned(name):
        assert published_of(cell, row | changes, "report") is None
        assert paper_source(pd.Series(row | changes), (cell.label,)) == ""


LABELS = {
    "none": True,
    "finetune": True,
    "lr_rewind": True,
    "weight_rewind k=8000": True,
    "weight_rewind k=8000 restarted clock": True,
    "weight_rewind k=2000": False,
    "weight_rewind k=8001": False,
    "lr_rewind restored momentum": False,
    "lr_rewind momentum=0.5": False,
    "lr_rewind T=36000": False,
    "finetune lr=0.01": False,
    "rewind w=8000 c=8000": False,
}


@pytest.mark.parametrize("label", LABELS)
def test_only_the_papers_settings_of_a_method_are_its_own(label: str) -> None:
    ((_, row), *_) = pruned("fig1")
    assert is_in_paper(row, label) == LABELS[label]
    assert usual(row, label) == (LABELS[label] or label.startswith("weight_rewind k="))


def test_the_authors_checkpoint_is_that_of_their_network_alone() -> None:
    (_, wrn), (_, resnet) = pruned("fig5")[0], pruned("fig1")[0]
    assert is_in_paper(wrn | {"pruned_at": 72_000.0}, "lr_rewind")
    assert not is_in_paper(wrn | {"pruned_at": 64_000.0}, "lr_rewind")
    assert not is_in_paper(resnet | {"pruned_at": 72_000.0}, "lr_rewind")


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0137, 0.01])
def test_of_a_scaled_run_the_scaled_k_is_the_papers_and_never_counts_for_a_claim(scale: float) -> None:
    report = study_report(NO_ROWS, shipped()["fig1"], scale=scale)
    for _, row in report.cells.iterrows():
        assert is_in_paper(row, row["label"])
        assert (paper_source(row, (row["label"],)) != "") == (scale == 1)
