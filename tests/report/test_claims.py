"""Verdicts from frames whose truth is known: what is paired, what is averaged, what is said, and how often wrongly."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rewindctl.errors import RewindError, UsageError
from rewindctl.paper.claims import state_of_the_art
from rewindctl.report.claims import verdicts
from rewindctl.report.contrast import complete_block
from rewindctl.report.evidence import standard_effect
from rewindctl.report.formats import formats
from rewindctl.report.frame import COLUMNS
from rewindctl.report.verdict_tables import claims_table

FINETUNE, WEIGHT, LR = "finetune", "weight_rewind k=8000", "lr_rewind"
ONE_SHOT = (0.8, 0.893)
Effect = Callable[[str, float], float]


def trials(
    n: int,
    effects: dict[str, float],
    noise: float = 0.1,
    sparsities: tuple[float, ...] = ONE_SHOT,
    baseline_noise: float = 5.0,
    seed: int = 0,
    **changes: Any,
) -> pd.DataFrame:
    """Rows of one scenario: `effects` by label, noise and baselines' noise in percentage points."""
    random = np.random.default_rng(seed)
    rows = []
    for trial in range(n):
        dense = 80 + baseline_noise * random.standard_normal()
        for label, effect in effects.items():
            for sparsity in sparsities:
                accuracy = (dense + effect + noise * random.standard_normal()) / 100
                rows.append(row(trial, label, sparsity, accuracy, dense / 100) | changes)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def row(trial: int, label: str, sparsity: float, accuracy: float, dense: float) -> dict[str, Any]:
    return {
        "run_id": f"{label}-{sparsity}-{trial}",
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
        "method": label.partition(" ")[0],
        "label": label,
        "group": f"{label}-{sparsity}",
        "seed": trial,
        "sparsity_asked": sparsity,
        "sparsity": sparsity,
        "compression": 1 / (1 - sparsity),
        "test_accuracy": accuracy,
        "test_accuracy_best": accuracy + 0.01 * (label == LR),
        "dense_run_id": f"dense{trial}",
        "dense_group": "recipe",
        "dense_accuracy": dense,
        "dense_accuracy_best": dense,
        "device": "cpu",
    }


def of_claim(frame: pd.DataFrame, claim: int, role: str = "scenario", **options: Any) -> pd.DataFrame:
    made = verdicts(frame, **options)
    return made[(made["claim"] == claim) & (made["role"] == role)].reset_index(drop=True)


def only(frame: pd.DataFrame, claim: int, role: str = "scenario", **options: Any) -> "pd.Series[Any]":
    rows = of_claim(frame, claim, role, **options)
    assert len(rows) == 1
    return rows.iloc[0]


def said(found: "pd.Series[Any]") -> tuple[str, str]:
    return found["verdict"], found["remark"]


# Claim 1


def test_finetuning_that_is_worse_than_both_is_supported_whatever_the_baselines_do() -> None:
    found = only(trials(6, {FINETUNE: -1, WEIGHT: 0, LR: 0.2}), 1)
    assert said(found) == ("supported", "")
    assert (found["n"], found["levels"], found["report"], found["report_source"]) == (6, 2, "supported", "figure 1")
    assert found["comparison"] == "fine-tuning - weight rewinding k=8000 and LR rewinding"
    assert found["effect"] == pytest.approx(-1, abs=0.15)
    assert found["low"] <= found["effect"] <= found["high"] < 0


def test_without_pairing_the_same_effect_would_drown_in_the_baselines() -> None:
    frame = trials(6, {FINETUNE: -1, WEIGHT: 0, LR: 0})
    mixed = frame.assign(
        dense_run_id=np.where(frame["method"] == "finetune", "x" + frame["dense_run_id"], frame.dense_run_id)
    )
    found = only(mixed, 1)
    assert said(found) == ("not decided", "no dense run has both")
    assert found["n"] == 0
    assert pd.isna(found["effect"])
    accuracies = 100 * frame.pivot_table(index="dense_run_id", columns="label", values="test_accuracy")
    assert accuracies[FINETUNE].std() > 3 > 10 * (accuracies[FINETUNE] - accuracies[LR]).std()


def test_both_comparisons_must_hold_and_either_contradicts() -> None:
    half = only(trials(8, {FINETUNE: -1, WEIGHT: -1, LR: 0}, seed=3), 1)
    assert half["verdict"] == "not decided"
    assert half["effect"] == pytest.approx(0, abs=0.2)
    against = only(trials(8, {FINETUNE: -1, WEIGHT: -2, LR: 0}), 1)
    assert against["verdict"] == "contradicted"
    parts = of_claim(trials(8, {FINETUNE: -1, WEIGHT: -2, LR: 0}), 1, "part").set_index("comparison")
    assert parts["verdict"].to_dict() == {
        "fine-tuning - weight rewinding k=8000": "contradicted",
        "fine-tuning - LR rewinding": "supported",
    }


def test_a_contradiction_by_one_of_two_comparisons_counts_for_half() -> None:
    frame = trials(6, {FINETUNE: 0, WEIGHT: -2, LR: 2})
    found = only(frame, 1)
    assert said(found) == ("not decided", "needs about 7 trials")
    assert found["p_contradicted"] == 2 / 64
    assert set(of_claim(frame, 1, "part")["verdict"]) == {"contradicted", "supported"}
    assert only(trials(7, {FINETUNE: 0, WEIGHT: -2, LR: 2}), 1)["verdict"] == "contradicted"


def test_claim_of_two_methods_is_not_supported_by_one() -> None:
    found = only(trials(6, {FINETUNE: -1, LR: 0}), 1)
    assert said(found) == ("not decided", "no weight rewinding here")
    assert said(only(trials(6, {FINETUNE: -1, LR: 0}), 1, "part")) == ("supported", "")
    assert only(trials(7, {FINETUNE: 1, LR: 0}), 1)["verdict"] == "contradicted"


# Claim 2


@pytest.mark.parametrize(
    ("effect", "margin", "verdict"),
    [
        (0.0, 0.1, "supported"),
        (-0.05, 0.1, "supported"),
        (-0.05, 0.0, "contradicted"),
        (-0.2, 0.1, "contradicted"),
        (-0.2, 0.3, "supported"),
        (0.3, 0.0, "supported"),
    ],
)
def test_as_good_as_is_judged_on_both_sides_of_the_same_margin(effect: float, margin: float, verdict: str) -> None:
    found = only(trials(8, {WEIGHT: 0, LR: effect}, noise=0.01), 2, margin=margin)
    assert found["verdict"] == verdict
    assert found["bound"] == -margin


def test_a_difference_too_small_for_the_trials_names_how_many_would_decide() -> None:
    frame = trials(6, {WEIGHT: 0, LR: 0}, noise=0.4, seed=1)
    found = only(frame, 2)
    wide = 100 * frame.pivot_table(index="dense_run_id", columns="label", values="test_accuracy")
    deviation = (wide[LR] - wide[WEIGHT]).std()
    assert found["smallest_effect"] == pytest.approx(standard_effect(6) * deviation)
    needed = int(found["remark"].removeprefix("needs about ").removesuffix(" trials"))
    distance = abs(found["effect"] - found["bound"])
    assert standard_effect(needed) * deviation <= distance
    assert needed == 7 or standard_effect(needed - 1) * deviation > distance


def test_needed_trials_are_bounded() -> None:
    frame = pd.concat([trials(3, {WEIGHT: 0, LR: 1}, noise=0), trials(3, {WEIGHT: 0, LR: -1}, noise=0, seed=1)])
    frame["dense_run_id"] += np.where(np.arange(len(frame)) < len(frame) / 2, "a", "b")
    assert said(only(frame, 2, margin=0.0)) == ("not decided", "needs over 1,000 trials")


@pytest.mark.parametrize("n", [2, 3, 5])
def test_too_few_trials_never_decide_and_say_how_many_would(n: int) -> None:
    found = only(trials(n, {WEIGHT: 0, LR: 5}), 2)
    assert said(found) == ("not decided", "needs about 6 trials")
    assert pd.isna(found["smallest_effect"])
    assert found["confidence"] == 1 - 2 / 2**n


def test_one_trial_has_an_effect_but_no_interval() -> None:
    found = only(trials(1, {WEIGHT: 0, LR: 5}), 2)
    assert said(found) == ("not decided", "needs at least 6 trials")
    assert found["effect"] == pytest.approx(5, abs=0.5)
    assert found[["low", "high", "confidence", "smallest_effect"]].isna().all()


def test_settings_of_a_method_are_comparisons_of_their_own() -> None:
    frame = trials(6, {WEIGHT: 0, "weight_rewind k=8000 restarted clock": 1, LR: 0.5, FINETUNE: -1})
    verdict_of = of_claim(frame, 2).set_index("comparison")["verdict"].to_dict()
    assert verdict_of == {
        "LR rewinding - weight rewinding k=8000": "supported",
        "LR rewinding - weight rewinding k=8000 restarted clock": "contradicted",
    }
    assert len(of_claim(frame, 1)) == 2
    assert len(of_claim(frame, 1, "part")) == 3


def test_best_accuracy_is_judged_when_asked_for() -> None:
    frame = trials(6, {WEIGHT: 0, LR: 0})
    gained = only(frame, 2, accuracy="best")["effect"] - only(frame, 2)["effect"]
    assert gained == pytest.approx(1)


# Claim 3


def like_the_published(n: int, shift: float, noise: float = 0.2, seed: int = 0, **changes: Any) -> pd.DataFrame:
    """Iterative LR rewinding of ResNet-20 whose true difference from Renda et al.'s mean is `shift` at every level."""
    one = trials(n, {LR: 0}, sparsities=(0.2, 0.488, 0.893), schedule="iterative", step=0.2)
    levels = state_of_the_art(one.assign(scale=1.0).iloc[0])
    noises = np.random.default_rng(seed).standard_normal(len(one))
    for index, sparsity in enumerate(one["sparsity_asked"]):
        near = levels.iloc[(levels["compression"] - 1 / (1 - sparsity)).abs().argmin()]
        delta = near[["low", "middle", "high"]].mean() + shift + noise * noises[index]
        one.loc[index, "test_accuracy"] = one.loc[index, "dense_accuracy"] + delta / 100
    return one.assign(**changes)


def test_claim_3_is_judged_against_the_published_trials_and_says_so() -> None:
    found = only(like_the_published(8, 0.0), 3)
    assert found["effect"] == pytest.approx(0, abs=0.15)
    assert (found["n"], found["levels"], found["report"], found["report_source"]) == (8, 3, "supported", "figure 1")
    assert "Renda et al. 2020" in found["basis"]
    assert "renda_summary.csv" in found["basis"]
    assert "3 published trials" in found["test"]
    assert only(like_the_published(8, 2.0), 3)["verdict"] == "supported"
    assert only(like_the_published(8, -2.0), 3)["verdict"] == "contradicted"


def test_the_published_trials_own_spread_is_in_the_interval() -> None:
    found = only(like_the_published(10, 0.0, noise=0.001), 3)
    assert found["high"] - found["low"] > 0.2
    assert said(found) == ("not decided", "too close for 3 published trials")


@pytest.mark.parametrize(
    "changes", [{"iterations": 1_000}, {"model": "wrn16_8", "iterations": 80_000}, {"dataset": "digits"}, {"step": 0.3}]
)
def test_without_published_numbers_nothing_is_made_up(changes: dict[str, Any]) -> None:
    found = only(like_the_published(8, 0.0, **changes), 3)
    assert said(found) == ("cannot be judged", "no published numbers")
    assert found[["effect", "low", "high", "p_supported"]].isna().all()
    assert found["basis"] == "no published numbers"


def test_few_trials_do_not_decide_claim_3() -> None:
    assert said(only(like_the_published(1, 5.0), 3)) == ("not decided", "needs at least 5 trials")
    assert said(only(like_the_published(4, 5.0), 3)) == ("not decided", "needs about 5 trials")
    assert only(like_the_published(5, 5.0), 3)["verdict"] == "supported"


# Scenarios


def test_a_scaled_down_run_never_passes_for_the_papers() -> None:
    effects = {FINETUNE: -1, WEIGHT: 0, LR: 0}
    frame = pd.concat([trials(6, effects), trials(6, effects, iterations=1_000, dense_group="short")])
    found = of_claim(frame, 1).set_index("iterations")
    assert found["report"].to_dict() == {72_000: "supported", 1_000: "-"}
    assert found["scale"].to_dict() == {72_000: 1.0, 1_000: 1 / 72}
    assert of_claim(frame, 1, "overall")["model"].tolist() == ["all of the report's", "all others"]
    assert "1000 (scale 0.0139)" in set(readable(verdicts(frame))["iterations"])


def test_a_scale_in_the_frame_is_believed() -> None:
    frame = trials(6, {WEIGHT: 0, LR: 0}).assign(scale=0.5)
    assert said(only(frame, 2)) == said(only(trials(6, {WEIGHT: 0, LR: 0}), 2))
    assert (only(frame, 2)["scale"], only(frame, 2)["report"]) == (0.5, "-")


def test_recipes_steps_and_pruning_are_scenarios_of_their_own() -> None:
    effects = {WEIGHT: 0, LR: 0}
    others = ({"dense_group": "other"}, {"schedule": "iterative", "step": 0.2}, {"scope": "layerwise"})
    frame = pd.concat([trials(6, effects), *(trials(6, effects, **other) for other in others)])
    assert len(of_claim(frame, 2)) == 4
    assert (of_claim(frame, 2)["n"] == 6).all()


@pytest.mark.parametrize("column", ["precision", "dense_precision"])
def test_an_fp32_retraining_is_never_paired_with_a_bf16_one(column: str) -> None:
    frame = trials(6, {WEIGHT: 0, LR: 0}, precision="fp32", dense_precision="fp32")
    other = frame.assign(**{column: "bf16"}).replace({"run_id": r"$"}, {"run_id": " bf16"}, regex=True)
    assert of_claim(pd.concat([frame, other]), 2)[column].tolist() == ["bf16", "fp32"]
    mixed = pd.concat([frame[frame["label"] == LR], other[other["label"] == WEIGHT]])
    with pytest.raises(RewindError, match="no claim can be judged"):
        verdicts(mixed)


def readable(made: pd.DataFrame) -> pd.DataFrame:
    """The table of the claims as people see it."""
    headings, *lines = claims_table(made).lines()
    return pd.DataFrame(lines, columns=headings)


def test_a_table_of_claims_names_precisions_where_there_are_several() -> None:
    frame = trials(6, {WEIGHT: 0, LR: 0}, precision="fp32", dense_precision="fp32")
    both = readable(verdicts(pd.concat([frame, frame.assign(precision="bf16")])))
    assert both["precision"].tolist() == ["", "bf16 (dense fp32)", "fp32"]
    assert "precision" not in readable(verdicts(frame))


def test_the_order_of_rows_changes_nothing() -> None:
    effects = {FINETUNE: -1, WEIGHT: 0, LR: 0}
    frame = pd.concat([trials(4, effects, model="resnet56"), trials(6, effects), like_the_published(5, 0.0)])
    frame = frame.reset_index(drop=True)
    shuffled = frame.sample(frac=1, random_state=2)
    pd.testing.assert_frame_equal(verdicts(frame), verdicts(shuffled), check_exact=False, rtol=1e-12)


def test_only_the_levels_that_both_methods_have_are_averaged() -> None:
    frame = trials(6, {WEIGHT: 0, LR: 0}, sparsities=(0.5, 0.8), noise=0)
    frame.loc[(frame["label"] == LR) & (frame["sparsity_asked"] == 0.5), "test_accuracy"] += 0.03
    assert only(frame, 2)["effect"] == pytest.approx(1.5)
    short = frame[~((frame["label"] == WEIGHT) & (frame["sparsity_asked"] == 0.5))]
    found = only(short, 2)
    assert (found["effect"], found["levels"], found["lowest"]) == (pytest.approx(0), 1, pytest.approx(5))


def test_an_unfinished_trial_neither_stops_nor_bends_the_comparison() -> None:
    frame = trials(7, {WEIGHT: 0, LR: 0}, sparsities=(0.2, 0.5, 0.8))
    unfinished = frame[(frame["seed"] < 6) | (frame["sparsity_asked"] == 0.2)]
    found, complete = only(unfinished, 2), only(frame[frame["seed"] < 6], 2)
    assert (found["n"], found["left_out"], found["levels"]) == (6, 1, 3)
    assert found["effect"] == complete["effect"]


def test_the_largest_complete_block_is_taken() -> None:
    nan = math.nan
    grid = pd.DataFrame([[1, 2, nan], [3, 4, nan], [nan, nan, 5], [6, nan, nan]], columns=[0.2, 0.5, 0.8])
    pd.testing.assert_frame_equal(complete_block(grid), grid.iloc[:2, :2])
    assert complete_block(grid.iloc[:0]).empty
    assert complete_block(grid * nan).empty


def test_chains_of_other_methods_under_the_same_label_do_not_mix_in() -> None:
    frame = trials(6, {WEIGHT: 0, LR: 0})
    stray = frame[(frame["label"] == LR) & (frame["seed"] < 2)].assign(group="mixed", test_accuracy=0.1)
    pd.testing.assert_series_equal(only(pd.concat([frame, stray]), 2), only(frame, 2))


# All scenarios together


def models(effects: dict[str, float], **options: Any) -> list[pd.DataFrame]:
    return [trials(8, {WEIGHT: 0, LR: effect}, model=model, **options) for model, effect in effects.items()]


def test_a_claim_holds_overall_only_where_every_scenario_supports_it() -> None:
    every = only(pd.concat(models({"resnet20": 0.5, "resnet56": 0.5})), 2, "overall")
    assert said(every) == ("supported", "in all 2")
    assert every["report"] == "supported (figures 1-4, table 5), contradicted (figure 5)"
    one_not = only(pd.concat(models({"resnet20": 0.5, "resnet56": -0.1})), 2, "overall")
    assert said(one_not) == ("not decided", "supported in 1 of 2 after Holm")


def test_one_scenario_contradicts_a_claim_about_all_after_holms_correction() -> None:
    found = only(pd.concat(models({"resnet20": 0.5, "resnet56": -2.0, "resnet110": 0.5})), 2, "overall")
    assert said(found) == ("contradicted", "in 1 of 3 after Holm")
    six = [frame[frame["seed"] < 6] for frame in models({"resnet20": 0.5, "resnet56": -2.0})]
    assert of_claim(pd.concat(six), 2)["verdict"].tolist() == ["supported", "contradicted"]
    assert said(only(pd.concat(six), 2, "overall")) == (
        "not decided",
        "supported in 0 of 2 after Holm",
    )  # 2 / 64 > 2.5 %


WRN = {"model": "wrn16_8", "iterations": 80_000, "schedule": "iterative", "step": 0.3, "dense_group": "wrn"}


@pytest.mark.parametrize(("shift", "said_of_all"), [(2.0, "in 1 of 2"), (-2.0, "in 1 of 1 after Holm")])
def test_a_scenario_that_cannot_be_judged_is_named_and_decides_nothing(shift: float, said_of_all: str) -> None:
    frame = pd.concat([like_the_published(8, shift), trials(8, {LR: 0}, **WRN)], ignore_index=True)
    judged = of_claim(frame, 3).set_index("model")
    assert said(judged.loc["wrn16_8"]) == ("cannot be judged", "no published numbers")
    found = only(frame, 3, "overall")
    assert found["verdict"] == ("supported" if shift > 0 else "contradicted")
    assert found["remark"] == f"{said_of_all}; figure 5 cannot be judged: no published numbers"
    assert found["basis"] == "its 1 scenario"
    shown = readable(verdicts(frame))
    assert f"({found['remark']})" in shown["verdict"].iloc[0]


def test_a_claim_of_which_nothing_can_be_judged_says_so_of_all() -> None:
    found = only(trials(8, {LR: 0}, **WRN), 3, "overall")
    assert said(found) == ("cannot be judged", "figure 5 cannot be judged: no published numbers")
    digits = {"dataset": "digits", "iterations": 300, "schedule": "iterative", "step": 0.2}
    found = only(trials(8, {LR: 0}, **digits), 3, "overall")
    assert found["remark"] == "resnet20 on digits iterative (0.2) cannot be judged: no published numbers"


EXPLORATORY: list[dict[str, Any]] = [
    {"label": "weight_rewind k=2000"},
    {"label": "weight_rewind k=8000 momentum=0.5"},
    {"label": "weight_rewind k=8000 restored momentum"},
    {"pruned_at": 36_000},
    {"pruned_at": 72_000},
    {"recipe": "resnet learning_rate=0.05"},
    {"recipe": "wrn"},
    {"scope": "layerwise"},
]


@pytest.mark.parametrize("changes", EXPLORATORY, ids=str)
def test_an_exploratory_run_is_never_counted_into_the_papers_verdict(changes: dict[str, Any]) -> None:
    frame = trials(8, {WEIGHT: 0, LR: 0.5}).assign(pruned_at=np.nan, recipe="resnet")
    explored = trials(8, {WEIGHT: 0, LR: -2}, seed=1).assign(pruned_at=np.nan, recipe="resnet", dense_group="other")
    changed = explored["method"] == "weight_rewind" if "label" in changes else explored["method"] != "none"
    for column, value in changes.items():
        explored.loc[changed, column] = value
    both = pd.concat([frame, explored], ignore_index=True)
    alone = of_claim(frame, 2, "overall").iloc[0]
    overall = of_claim(both, 2, "overall").set_index("model")
    assert overall.loc["all of the report's", ["verdict", "remark"]].tolist() == alone[["verdict", "remark"]].tolist()
    assert overall.loc["all others", "verdict"] == "contradicted"


def test_both_readings_of_what_figure_5_prunes_are_the_papers() -> None:
    wrn = {"model": "wrn16_8", "iterations": 80_000, "recipe": "wrn"}
    frame = trials(8, {WEIGHT: 0, LR: 0.5}, **wrn)
    authors = trials(8, {WEIGHT: 0, LR: 0.5}, **wrn, pruned_at=72_000)
    found = of_claim(pd.concat([frame, authors], ignore_index=True), 2)
    assert found["report_source"].tolist() == ["figure 5", "figure 5"]
    assert set(of_claim(pd.concat([frame, authors.assign(pruned_at=64_000)]), 2)["report_source"]) == {"figure 5", ""}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("effects", "claim"),
    [({WEIGHT: 0, LR: -0.1}, 2), ({FINETUNE: 0, WEIGHT: 0, LR: 0}, 1), ({FINETUNE: 0, WEIGHT: 0, LR: 3}, 1)],
)
def test_at_the_bound_whole_verdicts_are_wrong_at_most_at_their_level(effects: dict[str, float], claim: int) -> None:
    experiments, level = 120, 0.025
    frames = [trials(7, effects, seed=seed, dense_group=str(seed), noise=0.3) for seed in range(experiments)]
    found = of_claim(pd.concat(frames), claim)["verdict"].value_counts()
    limit = level + 4 * math.sqrt(level * (1 - level) / experiments)
    assert found.sum() == experiments
    assert found.get("supported", 0) / experiments <= limit
    assert found.get("contradicted", 0) / experiments <= limit


# What cannot be judged, and how it reads


def test_where_no_two_methods_meet_it_is_an_error_that_says_what_to_run() -> None:
    for frame in (trials(3, {LR: 0}), trials(3, {WEIGHT: 0}), trials(3, {FINETUNE: 0}), trials(0, {})):
        with pytest.raises(RewindError, match="no claim can be judged") as caught:
            verdicts(frame)
        assert "weight_rewind" in caught.value.hint


@pytest.mark.parametrize("margin", [-0.1, math.nan, math.inf])
def test_a_margin_is_a_number_of_points(margin: float) -> None:
    with pytest.raises(UsageError, match=str(margin)):
        verdicts(trials(3, {WEIGHT: 0, LR: 0}), margin=margin)


def test_the_table_reads_as_the_frame_says() -> None:
    frame = pd.concat([trials(3, {FINETUNE: -1, WEIGHT: 0, LR: 1}), like_the_published(6, 0.0)], ignore_index=True)
    made = verdicts(frame)
    table = readable(made)
    assert len(table) == len(made)
    assert set(table["claim"]) == {"1", "1 (part)", "2", "3"}
    pairs = table[(table["claim"] == "2") & (table["data"] != "")].iloc[0]
    assert pairs["verdict"] == "not decided (needs about 6 trials)"
    assert pairs["interval"].endswith("(75 %)")
    assert pairs["smallest effect"] == "none"
    assert pairs["paper's verdict"] == "supported (figure 1)"
    assert pairs["compression"] == "5.00x-9.35x (2)"
    assert "2.5 % each way" in pairs["test"]


@pytest.mark.parametrize("form", list(formats))
def test_every_format_takes_both_the_numbers_and_the_table(form: str) -> None:
    made = verdicts(pd.concat([trials(1, {FINETUNE: -1, WEIGHT: 0}), like_the_published(6, 0.0)], ignore_index=True))
    for table in (made, claims_table(made)):
        text = formats[form](table)
        assert "not decided" in text
        assert "nan" not in text.lower() or form in ("text", "markdown", "latex")
