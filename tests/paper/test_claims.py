"""The claims' data agree with the published numbers that the package ships."""

import pandas as pd
import pytest

from rewindctl.paper.claims import CLAIMS, SOURCES, at_compression, paper_source, state_of_the_art
from rewindctl.paper.reference import paper_points, renda_points


def scenario(**changes: object) -> "pd.Series[object]":
    usual = {
        "model": "resnet20",
        "dataset": "cifar10",
        "structure": "unstructured",
        "scope": "global",
        "criterion": "magnitude",
        "channel_norm": "keep",
        "exclude": "",
        "schedule": "iterative",
        "step": 0.2,
        "scale": 1.0,
    }
    return pd.Series(usual | changes)


def test_the_scenarios_are_those_of_the_published_points() -> None:
    keys = ["model", "dataset", "structure", "schedule", "step_fraction"]
    shown = paper_points()[paper_points()["figure"] <= 5].drop_duplicates(keys)
    drawn = {
        (*(row[key] for key in keys[:-1]), None if pd.isna(row["step_fraction"]) else row["step_fraction"]): row[
            "figure"
        ]
        for _, row in shown.iterrows()
    }
    assert {key: f"figure {figure}" for key, figure in drawn.items()} == {
        key: source for key, source in SOURCES.items() if source.startswith("figure")
    }


def test_where_the_paper_supports_claim_1_its_points_do_too() -> None:
    points = paper_points()[paper_points()["compression"] > 1]
    for figure in (1, 2, 3, 4):
        shown = points[points["figure"] == figure]
        wide = shown.pivot_table(index=["panel", "compression"], columns="method", values="accuracy_pct")
        assert CLAIMS[0].papers_verdict_in(f"figure {figure}") == "supported"
        assert (wide["finetune"] < wide[["weight_rewind", "lr_rewind"]].min(axis=1)).all()
    assert CLAIMS[0].papers_verdict_in("figure 5") == ""


def test_figure_5_contradicts_claims_2_and_3() -> None:
    assert [claim.papers_verdict_in("figure 5") for claim in CLAIMS] == ["", "contradicted", "contradicted"]
    assert {claim.papers_verdict_in("figure 2") for claim in CLAIMS} == {"supported"}
    assert {claim.papers_verdict_in("") for claim in CLAIMS} == {""}


@pytest.mark.parametrize(
    "label", ["lr_rewind", "finetune", "weight_rewind k=8000", "weight_rewind k=8000 restarted clock"]
)
def test_the_paper_speaks_of_its_own_settings(label: str) -> None:
    assert paper_source(scenario(), (label,)) == "figure 1"
    assert paper_source(scenario(schedule="one_shot", step=float("nan")), (label,)) == "figure 1"


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": 1 / 72},
        {"pruned_at": 72_000},
        {"recipe": "resnet batch_size=64"},
        {"scope": "layerwise"},
        {"criterion": "random"},
        {"exclude": "stem"},
        {"channel_norm": "remove"},
        {"step": 0.3},
        {"model": "resnet8"},
        {"dataset": "cifar100"},
        {"structure": "structured"},
    ],
)
def test_of_any_other_scenario_the_paper_says_nothing(changes: dict[str, object]) -> None:
    assert paper_source(scenario(**changes), ("lr_rewind",)) == ""
    if changes != {"structure": "structured"}:
        assert len(state_of_the_art(scenario(**changes))) == 0


@pytest.mark.parametrize(
    "label", ["lr_rewind restored momentum", "lr_rewind T=100", "finetune lr=0.01", "weight_rewind k=2000"]
)
def test_of_other_settings_of_a_method_the_paper_says_nothing(label: str) -> None:
    assert paper_source(scenario(), ("finetune", label)) == ""


@pytest.mark.parametrize("model", ["resnet20", "resnet56", "resnet110"])
def test_the_state_of_the_art_is_a_level_per_compression_with_its_three_trials(model: str) -> None:
    levels = state_of_the_art(scenario(model=model))
    assert levels["compression"].is_unique
    assert (levels["low"] <= levels["middle"]).all()
    assert (levels["middle"] <= levels["high"]).all()
    points = renda_points().query("network == @model and schedule == 'iterative' and method == 'lr_rewind'")
    assert set(levels["compression"]) == set(points["compression"])
    assert set(levels["middle"].round(6)) <= set(points["delta_median_vs_base_mean_pp"])


def test_of_two_equal_lengths_the_longer_is_taken() -> None:
    level = at_compression(state_of_the_art(scenario(model="resnet56")), 44.4)
    assert level is not None
    assert level["middle"] == pytest.approx(-2.200711)  # 182 epochs; with 170, -2.31


def test_a_level_is_found_at_the_papers_rounded_sparsity_and_nowhere_between() -> None:
    levels = state_of_the_art(scenario())
    level = at_compression(levels, 1 / (1 - 0.893))
    assert level is not None
    assert level["compression"] == pytest.approx(0.8**-10, rel=1e-6)
    for sparsity in (0.2, 0.36, 0.488, 0.59, 0.672, 0.738, 0.79, 0.832, 0.866, 0.893):
        assert at_compression(levels, 1 / (1 - sparsity)) is not None
    assert at_compression(levels, 8.5) is None
    assert at_compression(levels, 22.73) is None
