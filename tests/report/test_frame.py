"""One row per result, joined to its mask and its baseline by lineage, whatever the runs are called."""

import sqlite3

import mlflow
import pandas as pd
import pytest
from conftest import TINY, Chain, Cli
from sealing import reseal

from rewindctl.registry import Registry
from rewindctl.report.cells import summarise
from rewindctl.report.frame import COLUMNS, tidy_frame

RETRAINED = ("finetune", "weight_rewind", "lr_rewind")


def frame_of(chain: Chain) -> pd.DataFrame:
    return tidy_frame(Registry(chain.uri)).set_index("run_id", drop=False)


def run_in(chain: Chain, cli: Cli, *arguments: str) -> list[str]:
    """The run IDs that a command prints."""
    answer = cli(*arguments, "--tracking-uri", chain.uri, "--quiet")
    assert answer.code == 0, answer.err
    return answer.out.split()


def test_chain_is_a_dense_row_and_a_row_per_retraining(chain: Chain) -> None:
    frame = frame_of(chain)
    assert tuple(frame.columns) == COLUMNS
    assert dict(zip(frame["run_id"], frame["method"], strict=True)) == {
        chain.dense: "none",
        **{getattr(chain, method): method for method in RETRAINED},
    }
    assert set(frame["dense_run_id"]) == {chain.dense}
    assert set(frame.loc[frame["method"] != "none", "schedule"]) == {"one_shot"}
    assert frame.loc[chain.dense, "schedule"] == "dense"


def test_numbers_are_those_of_the_runs(chain: Chain) -> None:
    frame, registry = frame_of(chain), chain.registry()
    dense = registry.get(chain.dense).metrics
    for run_id, row in frame.iterrows():
        metrics = registry.get(str(run_id)).metrics
        for name in ("test_accuracy", "test_accuracy_best", "sparsity", "compression"):
            assert row[name] == metrics[name]
        assert row["test_accuracy"] - row["dense_accuracy"] == pytest.approx(metrics["delta_accuracy"])
        assert row["dense_accuracy_best"] == dense["test_accuracy_best"]


def test_settings_are_those_of_the_mask_and_the_method(chain: Chain) -> None:
    row = frame_of(chain).loc[chain.weight_rewind]
    assert (row["model"], row["dataset"], row["iterations"], row["seed"]) == ("resnet8", "digits", 24, 0)
    assert (row["structure"], row["scope"], row["criterion"], row["channel_norm"]) == (
        "unstructured",
        "global",
        "magnitude",
        "keep",
    )
    assert row["sparsity_asked"] == pytest.approx(0.8)
    assert row["label"] == "weight_rewind k=6"


@pytest.mark.slow
def test_setting_that_is_not_the_usual_one_is_in_the_label(copied_chain: Chain, cli: Cli) -> None:
    retrain = ("retrain", "--parent", copied_chain.prune, "--method")
    runs = {
        "lr_rewind restored momentum": (*retrain, "lr_rewind", "--optimizer-state", "restored"),
        "weight_rewind k=6 restarted clock": (*retrain, "weight_rewind", "--k", "6", "--lr-clock", "restarted"),
        "rewind w=12 c=6": (*retrain, "rewind", "--weights-k", "12", "--lr-k", "6"),
        "finetune lr=0.01": (*retrain, "finetune", "--lr", "0.01"),
    }
    made = {run_in(copied_chain, cli, *command)[0]: label for label, command in runs.items()}
    frame = frame_of(copied_chain)
    assert {run_id: frame.loc[run_id, "label"] for run_id in made} == made


@pytest.mark.usefixtures("store")
def test_empty_registry_is_an_empty_frame() -> None:
    frame = tidy_frame(Registry())
    assert (tuple(frame.columns), len(frame)) == (COLUMNS, 0)


def test_rows_do_not_depend_on_when_the_runs_were_made(copied_chain: Chain) -> None:
    before = frame_of(copied_chain)["run_id"].tolist()
    with sqlite3.connect(copied_chain.store) as connection:
        connection.execute("UPDATE runs SET start_time = 2000000000000 - start_time")
    connection.close()
    assert frame_of(copied_chain)["run_id"].tolist() == before


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_run_that_is_not_finished_is_no_result(copied_chain: Chain, status: str) -> None:
    mlflow.MlflowClient(copied_chain.uri).set_terminated(copied_chain.lr_rewind, status)
    assert set(frame_of(copied_chain)["method"]) == {"none", "finetune", "weight_rewind"}


def test_result_whose_lineage_is_broken_is_left_out(copied_chain: Chain) -> None:
    mlflow.MlflowClient(copied_chain.uri).delete_run(copied_chain.prune)
    assert frame_of(copied_chain)["run_id"].tolist() == [copied_chain.dense]


def test_result_whose_dense_run_is_gone_is_left_out(copied_chain: Chain) -> None:
    mlflow.MlflowClient(copied_chain.uri).delete_run(copied_chain.dense)
    assert len(frame_of(copied_chain)) == 0


def test_forced_rerun_counts_once_and_the_newest_counts(copied_chain: Chain, cli: Cli) -> None:
    command = ("retrain", "--parent", copied_chain.prune, "--method", "lr_rewind", "--force")
    (again,) = run_in(copied_chain, cli, *command)
    frame = frame_of(copied_chain)
    assert again != copied_chain.lr_rewind
    assert set(frame["run_id"]) == {copied_chain.dense, copied_chain.finetune, copied_chain.weight_rewind, again}


def test_a_run_in_another_precision_is_another_result(copied_chain: Chain, cli: Cli) -> None:
    command = ("retrain", "--parent", copied_chain.prune, "--method", "lr_rewind", "--force")
    (again,) = run_in(copied_chain, cli, *command)
    reseal(copied_chain.registry(), again, {"rewindctl.precision": "bf16"})
    frame = frame_of(copied_chain)
    assert frame.loc[[copied_chain.lr_rewind, again], "precision"].tolist() == ["fp32", "bf16"]
    assert set(frame["dense_precision"]) == {"fp32"}
    assert frame.loc[again, ["prune_run_id", "deterministic", "recipe"]].tolist() == [
        copied_chain.prune,
        "True",
        "digits batch_size=32",
    ]
    cells = summarise(frame).set_index("label").loc["lr_rewind"]
    assert cells[["precision", "n", "run_ids"]].to_numpy().tolist() == [
        ["bf16", 1, again],
        ["fp32", 1, copied_chain.lr_rewind],
    ]


def test_baseline_is_joined_by_lineage_not_by_name(copied_chain: Chain, cli: Cli) -> None:
    (dense,) = run_in(copied_chain, cli, "train-dense", *TINY, "--batch-size", "16", "--seed", "0")
    shorter = ("--method", "finetune", "--iterations", "6", "--compression", "5")
    (retrained,) = run_in(copied_chain, cli, "retrain", "--parent", dense, *shorter)
    registry, frame = Registry(copied_chain.uri), frame_of(copied_chain)
    first, second = registry.get(copied_chain.dense), registry.get(dense)
    assert first.name == second.name
    assert first.metrics["test_accuracy"] != second.metrics["test_accuracy"]
    for run_id, baseline in ((copied_chain.finetune, first), (retrained, second)):
        assert frame.loc[run_id, "dense_run_id"] == baseline.run_id
        assert frame.loc[run_id, "dense_accuracy"] == baseline.metrics["test_accuracy"]
    assert frame.loc[retrained, "group"] != frame.loc[copied_chain.finetune, "group"]


@pytest.mark.parametrize(
    ("structure", "step", "until"), [("unstructured", "0.5", "0.75"), ("structured", "0.9", "0.99")]
)
@pytest.mark.slow
def test_chain_of_levels_is_iterative_and_its_first_level_one_shot_too(
    copied_chain: Chain, cli: Cli, structure: str, step: str, until: str
) -> None:
    command = ("iterate", "--parent", copied_chain.dense, "--method", "lr_rewind", "--step", step, "--until", until)
    first, second = run_in(copied_chain, cli, *command, "--structure", structure)
    frame = tidy_frame(Registry(copied_chain.uri))
    levels = frame[frame["schedule"] == "iterative"]
    assert list(zip(levels["run_id"], levels["level"], levels["step"], strict=True)) == [
        (first, 1, float(step)),
        (second, 2, float(step)),
    ]
    assert levels["sparsity_asked"].tolist() == [float(step), float(until)]
    assert set(levels["dense_run_id"]) == {copied_chain.dense}
    if structure == "unstructured":
        reseal(copied_chain.registry(), first, {"rewindctl.precision": "bf16"})
        mixed = tidy_frame(Registry(copied_chain.uri)).query("schedule == 'iterative'")
        assert mixed["precision"].tolist() == ["bf16", "bf16+fp32"], "a chain names the precision of each of its levels"
    assert frame.loc[frame["run_id"] == first, "schedule"].tolist() == ["iterative", "one_shot"]
    assert frame.loc[frame["run_id"] == second, "schedule"].tolist() == ["iterative"]
