"""rewindctl compare"""

import csv
import io
import json
from pathlib import Path

import pytest
from conftest import TINY, Chain, Cli

from rewindctl.report.tables import method_name

METHODS = {"fine-tuning": "finetune", "weight rewinding k=6": "weight_rewind", "LR rewinding": "lr_rewind"}


def at(chain: Chain) -> tuple[str, str]:
    return "--tracking-uri", chain.uri


def table(chain: Chain, cli: Cli, *options: str) -> list[dict[str, str]]:
    answer = cli("compare", "--format", "csv", *options, *at(chain))
    assert answer.code == 0, answer.err
    return list(csv.DictReader(io.StringIO(answer.out)))


def test_the_table_has_a_row_per_retraining_with_its_numbers(chain: Chain, cli: Cli) -> None:
    rows = {method_name(row["method"], row["label"]): row for row in table(chain, cli)}
    assert set(rows) == {"none (dense)", *METHODS}
    registry = chain.registry()
    dense = registry.get(chain.dense).metrics["test_accuracy"]
    for name, method in METHODS.items():
        accuracy = registry.get(getattr(chain, method)).metrics["test_accuracy"]
        assert float(rows[name]["median"]) == accuracy
        assert float(rows[name]["delta_points"]) == pytest.approx(100 * (accuracy - dense))
        assert (rows[name]["n"], float(rows[name]["compression"])) == ("1", pytest.approx(5, rel=1e-3))
    assert float(rows["none (dense)"]["median"]) == dense


def test_text_is_what_is_printed_unless_asked_otherwise(chain: Chain, cli: Cli) -> None:
    plain = cli("compare", *at(chain))
    assert plain.out == cli("compare", "--format", "text", *at(chain)).out
    assert plain.out.count("one-shot") == 3
    assert plain.err == ""


@pytest.mark.parametrize("flag", [("--json",), ("--format", "json"), ("--json", "--format", "json")])
def test_json_is_a_list_with_the_runs_behind_each_number(chain: Chain, cli: Cli, flag: tuple[str, ...]) -> None:
    cells = json.loads(cli("compare", "--table", "cells", *flag, *at(chain)).out)
    assert {cell["run_ids"] for cell in cells} == {chain.dense, chain.finetune, chain.weight_rewind, chain.lr_rewind}
    assert {cell["n"] for cell in cells} == {1}


@pytest.mark.parametrize(
    ("form", "start", "end"),
    [("markdown", "| network |", "|\n"), ("latex", r"\begin{tabular}", "\\end{tabular}\n")],
)
def test_other_formats_are_what_they_say(chain: Chain, cli: Cli, form: str, start: str, end: str) -> None:
    out = cli("compare", "--format", form, *at(chain)).out
    assert out.startswith(start)
    assert out.endswith(end)


def test_a_figure_comes_with_the_data_and_the_runs_behind_it(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    answer = cli("compare", "--figure", "curves", "--output", "out", "--format", "markdown", *at(chain))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"curves.png", "curves.svg", "curves.csv", "results.md", "runs.csv"}
    assert all(str(tmp_path / "out" / name) in answer.err for name in names)
    assert (tmp_path / "out/results.md").read_text() == answer.out
    assert (tmp_path / "out/curves.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "out/runs.csv").open() as file:
        listed = {row["run_id"] for row in csv.DictReader(file)}
    assert listed == {chain.dense, chain.finetune, chain.weight_rewind, chain.lr_rewind}


def test_without_a_figure_or_a_folder_nothing_is_written(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    cli("compare", *at(chain))
    assert set(tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_named(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for figure in ((), ("--figure", "curves")):
        answer = cli("compare", "--output", "file/out", *figure, *at(chain))
        assert answer.code != 0
        assert answer.out == ""
        assert "file/out cannot be written" in answer.err


def test_the_best_accuracy_is_shown_when_asked_for(chain: Chain, cli: Cli) -> None:
    best = {row["method"]: row for row in table(chain, cli, "--accuracy", "best")}
    registry = chain.registry()
    for method in METHODS.values():
        accuracy = registry.get(getattr(chain, method)).metrics["test_accuracy_best"]
        assert (float(best[method]["median"]), best[method]["accuracy"]) == (accuracy, "best")


def test_runs_can_be_chosen_by_network_and_data(chain: Chain, cli: Cli) -> None:
    assert table(chain, cli, "--model", "resnet8", "--dataset", "digits") == table(chain, cli)
    for option, value in (("--model", "resnet20"), ("--dataset", "cifar10")):
        answer = cli("compare", option, value, *at(chain))
        assert (answer.code, answer.out) == (1, "")
        assert "nothing to compare" in answer.err
        assert value in answer.err.splitlines()[0]


def test_an_empty_experiment_says_what_to_run_first_step_by_step(store: Path, cli: Cli) -> None:
    empty = cli("compare")
    assert (empty.code, empty.out) == (1, "")
    assert "0 dense, 0 prune and 0 retrain runs" in empty.err
    assert "hint: first: rewindctl train-dense" in empty.err
    dense = cli("train-dense", *TINY).run_id
    assert f"hint: next: rewindctl prune --parent {dense}" in cli("compare").err
    prune = cli("prune", "--parent", dense, "--sparsity", "0.5").run_id
    assert f"hint: next: rewindctl retrain --parent {prune}" in cli("compare").err


def test_a_forced_rerun_takes_the_place_of_the_first(copied_chain: Chain, cli: Cli) -> None:
    line = ("retrain", "--parent", copied_chain.prune, "--method", "lr_rewind", *at(copied_chain))
    forced = cli(*line, "--force").run_id
    cells = json.loads(cli("compare", "--table", "cells", "--json", *at(copied_chain)).out)
    assert [cell["run_ids"] for cell in cells if cell["method"] == "lr_rewind"] == [forced]
