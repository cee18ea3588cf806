"""Any two ways to retrain, compared in pairs: what is paired, in which direction, and what is refused."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from report.test_claims import FINETUNE, LR, WEIGHT, of_claim, only, trials

from rewindctl.errors import RewindError, UsageError
from rewindctl.report.claims import verdicts
from rewindctl.report.formats import formats
from rewindctl.report.paired import FIRST, SECOND, pair_table, paired

REWIND = "rewind w=2000 c=0"
PRECISION = {"precision": "fp32", "dense_precision": "fp32"}


def row_of(frame: pd.DataFrame, first: str = LR, second: str = WEIGHT, **options: Any) -> "pd.Series[Any]":
    rows = paired(frame, first, second, **options)
    assert len(rows) == 1
    return rows.iloc[0]


def masks(frame: pd.DataFrame, own: bool = False) -> pd.DataFrame:
    """The rows with a mask per dense run and sparsity, or with one of each label's own."""
    names = "m" + frame["seed"].astype(str) + frame["sparsity_asked"].astype(str)
    return frame.assign(prune_run_id=names + frame["method"] if own else names)


def test_the_effect_is_the_mean_over_dense_runs_of_the_difference_at_common_levels() -> None:
    frame = trials(6, {WEIGHT: 0, LR: 0.5})
    found = row_of(frame)
    wide = 100 * frame.pivot_table(index="dense_run_id", columns="label", values="test_accuracy")
    effects = wide[LR] - wide[WEIGHT]
    assert found["effect"] == pytest.approx(effects.mean())
    assert found["deviation"] == pytest.approx(effects.std())
    assert (found["n"], found["levels"], found["p"], found["verdict"]) == (6, 2, 2 / 64, FIRST)
    assert found["low"] <= found["effect"] <= found["high"]


@pytest.mark.parametrize("effect", [-0.5, 0.0, 0.5])
def test_the_other_way_round_everything_is_the_other_way_round(effect: float) -> None:
    frame = trials(7, {WEIGHT: 0, LR: effect}, seed=3)
    one, other = row_of(frame), row_of(frame, WEIGHT, LR)
    assert other["effect"] == pytest.approx(-one["effect"])
    assert (other["low"], other["high"]) == pytest.approx((-one["high"], -one["low"]))
    assert (other["p"], other["p_above"], other["smallest_effect"]) == pytest.approx(
        (one["p"], one["p_below"], one["smallest_effect"])
    )
    assert {FIRST: SECOND, SECOND: FIRST}.get(one["verdict"], one["verdict"]) == other["verdict"]


def test_the_claims_are_the_same_comparison() -> None:
    frame = trials(7, {FINETUNE: -0.1, WEIGHT: 0, LR: 0.05})
    numbers = ["n", "levels", "lowest", "highest", "effect", "low", "high", "smallest_effect", "basis", "test"]
    parts = of_claim(frame, 1, "part").set_index("comparison")
    for label, name in ((WEIGHT, "weight rewinding k=8000"), (LR, "LR rewinding")):
        pair, part = row_of(frame, FINETUNE, label), parts.loc[f"fine-tuning - {name}"]
        assert pair[numbers].tolist() == part[numbers].tolist()
        assert (pair["p_below"], pair["p_above"]) == (part["p_supported"], part["p_contradicted"])
    pair, claim = row_of(frame), only(frame, 2, margin=0.0)
    assert pair[numbers].tolist() == claim[numbers].tolist()
    assert (pair["p_above"], pair["p_below"]) == (claim["p_supported"], claim["p_contradicted"])


def test_too_few_trials_decide_nothing_and_say_how_many_would() -> None:
    found = row_of(trials(3, {WEIGHT: 0, LR: 5}))
    assert (found["verdict"], found["remark"], found["needed"]) == ("not decided", "needs about 6 trials", 6)
    assert found["confidence"] == 0.75
    single = row_of(trials(1, {WEIGHT: 0, LR: 5}))
    assert (single["remark"], single["needed"], single["low"]) == ("needs at least 6 trials", None, None)


def test_pairs_say_whether_their_masks_are_the_same() -> None:
    frame = trials(6, {WEIGHT: 0, LR: 0})
    assert row_of(masks(frame))["basis"] == "the same dense runs and masks"
    assert row_of(masks(frame, own=True))["basis"].startswith("the same dense runs and levels, each chain with masks")
    assert row_of(frame)["basis"] == "the same dense runs and levels", "older rows do not name their masks"
    one = masks(frame)
    one.loc[(one["label"] == LR) & (one["seed"] == 0), "prune_run_id"] = "another"
    assert row_of(one)["basis"] != "the same dense runs and masks"


def test_iterative_chains_are_compared_level_by_level() -> None:
    frame = trials(6, {WEIGHT: 0, LR: 0}, sparsities=(0.2, 0.36, 0.488), noise=0, schedule="iterative", step=0.2)
    frame.loc[(frame["label"] == LR) & (frame["sparsity_asked"] == 0.488), "test_accuracy"] += 0.03
    found = row_of(frame)
    assert (found["effect"], found["levels"], found["verdict"]) == (pytest.approx(1.0), 3, FIRST)
    deep = row_of(frame, "method=lr_rewind,compression>1.9", "weight rewinding k=8000")
    assert (deep["effect"], deep["levels"]) == (pytest.approx(3.0), 1)


def test_no_pair_is_of_two_dense_runs_or_two_precisions() -> None:
    frame = trials(6, {WEIGHT: 0, LR: 0.5}, **PRECISION)
    apart = frame.assign(dense_run_id=frame["dense_run_id"] + frame["method"])
    assert row_of(apart)[["n", "verdict", "remark"]].tolist() == [0, "not decided", "no dense run has both"]
    both = pd.concat([frame, frame.assign(precision="bf16", test_accuracy=frame["test_accuracy"] - 0.01)])
    made = paired(both, LR, WEIGHT)
    assert made["precision"].tolist() == ["bf16", "fp32"]
    assert made["n"].tolist() == [6, 6]
    mixed = both[(both["label"] == LR) == (both["precision"] == "bf16")]
    with pytest.raises(RewindError, match="no scenario has both"):
        paired(mixed, LR, WEIGHT)
    assert "precision" in pair_table(made).lines()[0]
    assert "precision" not in pair_table(paired(frame, LR, WEIGHT)).lines()[0]


def test_what_both_sides_ask_differently_is_compared() -> None:
    frame = trials(6, {LR: 0.5}, **PRECISION)
    both = pd.concat([frame, frame.assign(precision="bf16", test_accuracy=frame["test_accuracy"] - 0.01)])
    found = row_of(both, "method=lr_rewind,precision=fp32", "method=lr_rewind,precision=bf16")
    assert (found["effect"], found["verdict"], found["precision"]) == (pytest.approx(1.0), FIRST, None)
    assert found[["first", "second"]].tolist() == ["LR rewinding, precision=fp32", "LR rewinding, precision=bf16"]
    iterative = frame.assign(schedule="iterative", step=0.2, test_accuracy=frame["test_accuracy"] + 0.02)
    found = row_of(
        pd.concat([frame, iterative]), "method=lr_rewind,schedule=iterative", "method=lr_rewind,schedule=one_shot"
    )
    assert (found["effect"], found["pruning"]) == (pytest.approx(2.0), "iterative (0.2) / one-shot")


def test_conditions_that_hold_for_several_labels_have_a_row_for_each_pair() -> None:
    frame = trials(6, {FINETUNE: -1, WEIGHT: 0, LR: 0.5, REWIND: 0.2})
    made = paired(frame, LR, "method!=finetune")
    assert made["second_label"].tolist() == [REWIND, WEIGHT]
    assert set(made["first_label"]) == {LR}


def test_scenarios_have_a_row_each_and_the_order_of_rows_changes_nothing() -> None:
    frame = pd.concat(
        [trials(6, {WEIGHT: 0, LR: 1}), trials(6, {WEIGHT: 0, LR: -1}, model="resnet56", dense_group="b")]
    ).reset_index(drop=True)
    made = paired(frame, LR, WEIGHT)
    assert dict(zip(made["model"], made["verdict"], strict=True)) == {"resnet20": FIRST, "resnet56": SECOND}
    shuffled = paired(frame.sample(frac=1, random_state=1), LR, WEIGHT)
    pd.testing.assert_frame_equal(made, shuffled, check_exact=False, rtol=1e-12)


def test_best_accuracy_is_compared_when_asked_for() -> None:
    frame = trials(6, {WEIGHT: 0, LR: 0})
    assert row_of(frame, accuracy="best")["effect"] - row_of(frame)["effect"] == pytest.approx(1)


def test_equal_methods_are_found_different_at_most_at_the_level() -> None:
    experiments, level = 120, 0.05
    frames = [trials(6, {WEIGHT: 0, LR: 0}, seed=seed, dense_group=str(seed)) for seed in range(experiments)]
    made = paired(pd.concat(frames), LR, WEIGHT)
    wrong = (made["verdict"] != "not decided").mean()
    assert len(made) == experiments
    assert wrong <= level + 4 * np.sqrt(level * (1 - level) / experiments)


REFUSED = [
    ("weight_rewind k=9000", LR, "no retraining has the label 'weight_rewind k=9000': did you mean", "known: finetune"),
    (LR, "LR rewindin", "no retraining has the label", "lr_rewind"),
    (LR, "k=8000", "unknown column 'k'", "label"),
    (LR, "method=lr_rwind", "no retraining has method=lr_rwind", "method is finetune, lr_rewind, weight_rewind"),
    (LR, "compression>many", "'many' is not a number", "compression"),
    (LR, "method=lr_rewind", "are the same retrainings", "two that differ"),
    ("model=resnet20", "model!=resnet56", "dense runs that differ in model", "give both the same conditions"),
]


@pytest.mark.parametrize(("first", "second", "words", "hint"), REFUSED)
def test_what_is_no_pair_is_refused_with_what_there_is(first: str, second: str, words: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        paired(trials(3, {FINETUNE: 0, WEIGHT: 0, LR: 0}), first, second)
    assert words in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("form", list(formats))
def test_every_format_has_both_sides_and_the_verdict(form: str) -> None:
    text = formats[form](pair_table(paired(trials(6, {WEIGHT: 0, LR: 2}), LR, WEIGHT)))
    for word in ("first better", "LR rewinding", "weight rewinding k=8000"):
        assert word in text


def test_a_verdict_is_no_claim_of_the_paper() -> None:
    frame = trials(6, {REWIND: 0, LR: 1})
    assert row_of(frame, LR, REWIND)["verdict"] == FIRST
    with pytest.raises(RewindError, match="no claim can be judged"):
        verdicts(frame)
