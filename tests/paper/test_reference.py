"""The shipped numbers are whole and say of themselves what we say of them."""

import pytest

from rewindctl.paper.reference import paper_points, paper_tables, renda_points


def test_every_published_point_is_there() -> None:
    points = paper_points()
    assert len(points) == 272
    assert points.groupby("figure").size().to_dict() == {1: 66, 2: 78, 3: 33, 4: 33, 5: 42, 6: 20}


def test_axis_of_the_figures_is_relative_to_the_baseline() -> None:
    points = paper_points()
    relative = 100 * (points["accuracy_pct"] / points["baseline_accuracy_pct"] - 1)
    assert (relative - points["delta_accuracy_pp"]).abs().max() < 1e-4
    plain = points["accuracy_pct"] - points["baseline_accuracy_pct"]
    assert (plain - points["delta_true_pp"]).abs().max() < 1e-6


def test_compressions_are_those_of_rounded_sparsities() -> None:
    points = paper_points()
    assert (points["compression"] - 1 / (1 - points["sparsity"])).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["table_1", "table_2", "table_3", "table_4", "table_5"])
def test_every_table_has_rows(name: str) -> None:
    assert paper_tables()[name]["rows"]


def test_summaries_of_renda_et_al_cover_their_networks_and_methods() -> None:
    points = renda_points()
    assert set(points["network"]) == {"resnet20", "resnet56", "resnet110"}
    assert set(points["method"]) == {"finetune", "weight_rewind", "lr_rewind"}
    assert (points["test_acc_min_pct"] <= points["test_acc_median_pct"]).all()
    assert (points["test_acc_median_pct"] <= points["test_acc_max_pct"]).all()
