"""A cell is the median over its trials, with the 10th and 90th percentile, against the baselines of those trials."""

import math
import random
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, Chain, Cli
from hypothesis import given, settings
from hypothesis import strategies as st

from rewindctl.registry import Registry
from rewindctl.report.cells import summarise
from rewindctl.report.frame import COLUMNS, tidy_frame

ACCURACIES = st.lists(st.floats(0, 1), min_size=1, max_size=9)


def trials(accuracies: list[float], baselines: list[float] | None = None, **changes: Any) -> pd.DataFrame:
    """The rows of one cell: a trial per accuracy, each with its own dense run."""
    baselines = baselines or [0.9] * len(accuracies)
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
        "method": "lr_rewind",
        "label": "lr_rewind",
        "group": "g",
        "sparsity_asked": 0.8,
        "sparsity": 0.8,
        "compression": 5.0,
    }
    rows = [
        usual
        | {
            "run_id": f"run{seed}",
            "seed": seed,
            "test_accuracy": accuracy,
            "test_accuracy_best": (accuracy + 1) / 2,
            "dense_run_id": f"dense{seed}",
            "dense_accuracy": baseline,
            "dense_accuracy_best": (baseline + 1) / 2,
        }
        | changes
        for seed, (accuracy, baseline) in enumerate(zip(accuracies, baselines, strict=True))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def only(frame: pd.DataFrame, accuracy: str = "final") -> "pd.Series[Any]":
    cells = summarise(frame, accuracy)
    assert len(cells) == 1
    return cells.iloc[0]


@settings(deadline=None)
@given(accuracies=ACCURACIES)
def test_median_and_percentiles_are_those_of_numpy(accuracies: list[float]) -> None:
    cell = only(trials(accuracies))
    assert cell["median"] == pytest.approx(np.median(accuracies), abs=1e-12)
    assert cell["p10"] == pytest.approx(np.percentile(accuracies, 10, method="linear"), abs=1e-12)
    assert cell["p90"] == pytest.approx(np.percentile(accuracies, 90, method="linear"), abs=1e-12)
    assert cell["p10"] <= cell["median"] <= cell["p90"]
    assert cell["n"] == len(accuracies)


def test_hand_example_of_three_trials() -> None:
    cell = only(trials([0.80, 0.90, 0.85], [0.88, 0.92, 0.95]))
    assert (cell["median"], cell["baseline"], cell["n"]) == (0.85, 0.92, 3)
    assert cell["p10"] == pytest.approx(0.81)
    assert cell["p90"] == pytest.approx(0.89)
    assert cell["delta_points"] == pytest.approx(-7.0)
    assert cell["delta_relative"] == pytest.approx(100 * (0.85 / 0.92 - 1))


@settings(deadline=None)
@given(accuracies=ACCURACIES, data=st.data())
def test_differences_are_taken_from_the_median_baseline(accuracies: list[float], data: st.DataObject) -> None:
    baselines = [data.draw(st.floats(0.01, 1)) for _ in accuracies]
    cell, baseline = only(trials(accuracies, baselines)), float(np.median(baselines))
    assert cell["baseline"] == pytest.approx(baseline)
    for name, suffix in (("median", ""), ("p10", "_p10"), ("p90", "_p90")):
        assert cell[f"delta_points{suffix}"] == pytest.approx(100 * (cell[name] - baseline), abs=1e-9)
        assert cell[f"delta_relative{suffix}"] == pytest.approx(100 * (cell[name] / baseline - 1), abs=1e-6)


def test_baseline_of_several_retrainings_counts_once() -> None:
    frame = trials([0.5, 0.6, 0.7], [0.8, 0.8, 0.9])
    frame["dense_run_id"] = ["a", "a", "b"]
    assert only(frame)["baseline"] == pytest.approx(0.85)


def test_best_accuracy_is_taken_only_when_asked_for_and_from_both_sides() -> None:
    frame = trials([0.5, 0.6, 0.7])
    final, best = only(frame), only(frame, "best")
    assert (final["median"], final["baseline"]) == (0.6, 0.9)
    assert (best["median"], best["baseline"]) == pytest.approx((0.8, 0.95))


def test_one_trial_is_its_own_median_and_percentiles() -> None:
    cell = only(trials([0.7]))
    assert (cell["p10"], cell["median"], cell["p90"], cell["n"]) == (0.7, 0.7, 0.7, 1)


def test_order_of_the_trials_does_not_matter() -> None:
    frame = pd.concat([trials([0.5, 0.6, 0.7]), trials([0.4, 0.3], compression=9.0, group="h")])
    shuffled = frame.iloc[random.Random(0).sample(range(5), 5)]
    columns = [column for column in summarise(frame).columns if column != "run_ids"]
    pd.testing.assert_frame_equal(summarise(frame)[columns], summarise(shuffled)[columns])


def test_run_ids_behind_a_cell_are_listed() -> None:
    assert only(trials([0.5, 0.6]))["run_ids"] == "run0 run1"


SETTINGS: list[dict[str, Any]] = [
    {"model": "resnet56"},
    {"dataset": "cifar100"},
    {"iterations": 1_000},
    {"structure": "structured"},
    {"scope": "layerwise"},
    {"criterion": "random"},
    {"exclude": "stem"},
    {"channel_norm": "remove"},
    {"schedule": "iterative", "step": 0.2},
    {"label": "lr_rewind restored momentum"},
    {"group": "another parent or sparsity"},
    {"precision": "bf16"},
    {"dense_precision": "bf16"},
]


@pytest.mark.parametrize("change", SETTINGS, ids=lambda change: next(iter(change)))
def test_trials_of_different_settings_are_different_cells(change: dict[str, Any]) -> None:
    cells = summarise(pd.concat([trials([0.5, 0.6]), trials([0.1, 0.2, 0.3], **change)]))
    assert sorted(cells["n"]) == [2, 3]
    assert sorted(cells["median"]) == pytest.approx([0.2, 0.55])
    for column, value in change.items():
        assert value in set(cells[column]), "the cell says what it is"


def test_iterative_steps_are_different_cells() -> None:
    frames = [trials([accuracy], schedule="iterative", step=step) for step, accuracy in ((0.2, 0.5), (0.3, 0.6))]
    assert summarise(pd.concat(frames))["step"].tolist() == [0.2, 0.3]


def test_dense_rows_differ_from_themselves_by_nothing() -> None:
    dense = {
        "method": "none",
        "label": "none",
        "schedule": "dense",
        "sparsity": 0.0,
        "compression": 1.0,
        "structure": "",
    }
    cell = only(trials([0.8, 0.9], [0.8, 0.9], **dense))
    assert (cell["method"], cell["n"], cell["delta_points"], cell["delta_relative"]) == ("none", 2, 0, 0)


def test_baseline_of_zero_has_no_relative_difference() -> None:
    cell = only(trials([0.1], [0.0]))
    assert cell["delta_points"] == pytest.approx(10)
    assert math.isnan(cell["delta_relative"])


def test_no_rows_are_no_cells() -> None:
    assert len(summarise(trials([]))) == 0


def test_two_seeds_of_a_spec_are_two_trials_of_one_cell(copied_chain: Chain, cli: Cli) -> None:
    where = ("--tracking-uri", copied_chain.uri, "--quiet")
    dense = cli("train-dense", *TINY, "--seed", "1", *where).run_id
    assert cli("retrain", "--parent", dense, "--method", "lr_rewind", "--compression", "5", *where).code == 0
    registry = Registry(copied_chain.uri)
    cells = summarise(tidy_frame(registry)).set_index("label")
    assert cells["n"].to_dict() == {"none": 2, "finetune": 1, "weight_rewind k=6": 1, "lr_rewind": 2}
    first, second = (registry.get(run_id).metrics["test_accuracy"] for run_id in (copied_chain.dense, dense))
    assert cells.loc["lr_rewind", "baseline"] == pytest.approx((first + second) / 2)
    assert cells.loc["finetune", "baseline"] == first
