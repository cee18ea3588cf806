"""The compare command: a table on stdout, files where asked for, and the next step where there is nothing yet."""

import json
import shlex
from pathlib import Path

import pandas as pd
import pytest
from conftest import TINY, Chain, Cli

from rewindctl.report.formats import formats
from rewindctl.report.tables import tables

FILES = {
    "text": "results.txt",
    "markdown": "results.md",
    "latex": "results.tex",
    "csv": "results.csv",
    "json": "results.json",
}


def next_command(err: str) -> list[str]:
    """The command that the hint gives, without the program's name."""
    (hint,) = [line for line in err.splitlines() if line.startswith("hint:")]
    return shlex.split(hint.split("rewindctl ", 1)[1])


def test_json_carries_the_numbers_of_the_runs(chain: Chain, cli: Cli) -> None:
    answer = cli("compare", "--table", "cells", "--json", "--tracking-uri", chain.uri)
    assert answer.out == cli("compare", "--table", "cells", "--format", "json", "--tracking-uri", chain.uri).out
    cells = {cell["run_ids"]: cell for cell in json.loads(answer.out)}
    assert set(cells) == {chain.dense, chain.finetune, chain.weight_rewind, chain.lr_rewind}
    for run_id, cell in cells.items():
        metrics = chain.registry().get(run_id).metrics
        assert (cell["median"], cell["n"], cell["sparsity"]) == (metrics["test_accuracy"], 1, metrics["sparsity"])
        assert cell["delta_points"] == pytest.approx(100 * metrics["delta_accuracy"])


@pytest.mark.parametrize("form", list(formats))
def test_table_that_is_written_is_the_table_that_is_printed(chain: Chain, cli: Cli, tmp_path: Path, form: str) -> None:
    answer = cli("compare", "--format", form, "--output", "out", "--tracking-uri", chain.uri)
    assert answer.code == 0
    assert (tmp_path / "out" / FILES[form]).read_text() == answer.out
    rows = pd.read_csv(tmp_path / "out" / "runs.csv")
    assert set(rows["run_id"]) == {chain.dense, chain.finetune, chain.weight_rewind, chain.lr_rewind}
    assert all(str(path) in answer.err for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("delta", ["relative", "points"])
def test_figure_is_written_with_the_table_and_the_runs(chain: Chain, cli: Cli, tmp_path: Path, delta: str) -> None:
    plain = cli("compare", "--tracking-uri", chain.uri)
    answer = cli("compare", "--figure", "curves", "--delta", delta, "--output", "out", "--tracking-uri", chain.uri)
    assert (answer.code, answer.out) == (0, plain.out)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"curves.png", "curves.svg", "curves.csv", "results.txt", "runs.csv"}


@pytest.mark.parametrize("extra", [(), ("--figure", "curves")])
def test_output_that_cannot_be_written_is_wrong_usage(
    chain: Chain, cli: Cli, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("")
    answer = cli("compare", "--output", "file", *extra, "--tracking-uri", chain.uri)
    assert answer.code == 2
    assert "file cannot be written" in answer.err


@pytest.mark.parametrize("option", ["table", "figure", "format", "accuracy", "delta"])
def test_unknown_name_is_wrong_usage_and_writes_nothing(chain: Chain, cli: Cli, tmp_path: Path, option: str) -> None:
    answer = cli("compare", f"--{option}", "nothing", "--output", "out", "--tracking-uri", chain.uri)
    assert (answer.code, answer.out) == (2, "")
    assert "'nothing'" in answer.err
    assert not (tmp_path / "out").exists()


def test_every_table_can_be_asked_for(chain: Chain, cli: Cli) -> None:
    for table in tables:
        assert cli("compare", "--table", table, "--tracking-uri", chain.uri).code == 0


@pytest.mark.usefixtures("store")
def test_where_nothing_is_to_compare_the_next_run_is_named_at_every_stage(cli: Cli) -> None:
    empty = cli("compare")
    assert "0 dense, 0 prune and 0 retrain runs are finished" in empty.err
    assert next_command(empty.err)[0] == "train-dense"
    dense = cli("train-dense", *TINY, "--seed", "0", "--quiet").run_id
    trained = cli("compare")
    assert "1 dense, 0 prune and 0 retrain runs are finished" in trained.err
    assert next_command(trained.err)[:3] == ["prune", "--parent", dense]
    mask = cli(*next_command(trained.err), "--quiet").run_id
    pruned = cli("compare")
    assert "1 dense, 1 prune and 0 retrain runs are finished" in pruned.err
    assert next_command(pruned.err)[:3] == ["retrain", "--parent", mask]
    assert cli(*next_command(pruned.err), "--quiet").code == 0
    assert cli("compare").code == 0
    assert {(answer.code, answer.out) for answer in (empty, trained, pruned)} == {(1, "")}


@pytest.mark.usefixtures("store")
def test_hint_for_an_empty_registry_asks_for_what_was_asked_for(cli: Cli) -> None:
    answer = cli("compare", "--model", "resnet20", "--dataset", "cifar10")
    assert "nothing to compare of resnet20 on cifar10 in experiment 'rewindctl'" in answer.err
    assert next_command(answer.err)[:5] == ["train-dense", "--model", "resnet20", "--dataset", "cifar10"]


def test_other_experiment_has_nothing_to_compare(copied_chain: Chain, cli: Cli) -> None:
    at = ("--experiment", "other", "--tracking-uri", copied_chain.uri)
    assert cli("init", *at).code == 0
    answer = cli("compare", *at)
    assert answer.code == 1
    assert "experiment 'other'" in answer.err


@pytest.mark.slow
def test_iterative_levels_are_rows_and_a_panel_of_their_own(copied_chain: Chain, cli: Cli, tmp_path: Path) -> None:
    where = ("--tracking-uri", copied_chain.uri, "--quiet")
    levels = ("--method", "lr_rewind", "--step", "0.5", "--until", "0.75")
    assert cli("iterate", "--parent", copied_chain.dense, *levels, *where).code == 0
    answer = cli("compare", "--format", "json", "--figure", "curves", *where)
    rows = [
        (row["schedule"], row["step"], round(row["compression"]))
        for row in json.loads(answer.out)
        if row["method"] == "lr_rewind"
    ]
    assert rows == [("iterative", 0.5, 2), ("iterative", 0.5, 4), ("one_shot", None, 2), ("one_shot", None, 5)]
    assert (tmp_path / "plots" / "curves.svg").is_file()
