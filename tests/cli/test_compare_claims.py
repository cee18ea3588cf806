"""rewindctl compare --claims: the claims with a verdict each, from the runs of a real registry."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Chain, Cli

from rewindctl.report.formats import formats

SUFFIX = {"text": "txt", "markdown": "md", "latex": "tex", "csv": "csv", "json": "json"}


def claims(chain: Chain, cli: Cli, *options: str) -> list[dict[str, Any]]:
    answer = cli("compare", "--claims", "--json", *options, "--tracking-uri", chain.uri)
    assert answer.code == 0, answer.err
    rows: list[dict[str, Any]] = json.loads(answer.out)
    return rows


def test_effects_are_those_of_the_runs_in_points(chain: Chain, cli: Cli) -> None:
    accuracy = {
        name: chain.registry().get(getattr(chain, name)).metrics["test_accuracy"]
        for name in ("finetune", "weight_rewind", "lr_rewind")
    }
    rows = {row["comparison"]: row for row in claims(chain, cli) if row["role"] != "overall"}
    pairs = {
        "fine-tuning - weight rewinding k=6": ("finetune", "weight_rewind"),
        "fine-tuning - LR rewinding": ("finetune", "lr_rewind"),
        "LR rewinding - weight rewinding k=6": ("lr_rewind", "weight_rewind"),
    }
    assert set(rows) == {*pairs, "fine-tuning - weight rewinding k=6 and LR rewinding"}
    for comparison, (one, other) in pairs.items():
        row = rows[comparison]
        assert row["effect"] == pytest.approx(100 * (accuracy[one] - accuracy[other]))
        assert (row["n"], row["low"], row["smallest_effect"]) == (1, None, None)
        assert (row["verdict"], row["remark"]) == ("not decided", "needs at least 6 trials")
        assert (row["iterations"], row["scale"], row["report"]) == (24, 24 / 300, "-")


def test_claims_are_printed_in_every_format_and_written_as_printed(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    for form in formats:
        answer = cli("compare", "--claims", "--format", form, "--output", "out", "--tracking-uri", chain.uri)
        assert answer.code == 0
        assert (tmp_path / "out" / f"claims.{SUFFIX[form]}").read_text() == answer.out
        assert "fine-tuning is worse than weight rewinding and than LR rewinding" in answer.out
        assert "needs at least 6 trials" in answer.out
    assert (tmp_path / "out" / "runs.csv").is_file()
    assert not list((tmp_path / "out").glob("table5*"))


def test_a_legend_says_what_the_words_of_the_table_mean(chain: Chain, cli: Cli) -> None:
    where = ("--tracking-uri", chain.uri)
    for form in ("text", "markdown"):
        out = cli("compare", "--claims", "--format", form, *where).out
        legend = [line for line in out.splitlines() if line.startswith(("effect: ", "smallest effect: "))]
        assert len(legend) == 2
        said = " ".join(legend)
        assert all(f"{word}: " in said for word in ("supported", "contradicted", "not decided", "smallest effect"))
    assert all(isinstance(row, dict) for row in claims(chain, cli)), "programs get rows alone"
    assert "not decided: " not in cli("compare", "--claims", "--format", "csv", *where).out


def test_text_says_test_level_and_scale(chain: Chain, cli: Cli) -> None:
    out = cli("compare", "--claims", "--tracking-uri", chain.uri).out
    assert "not decided (needs at least 6 trials)" in out
    assert "sign flips, 2.5 % each way" in out
    assert "24 (scale 0.08)" in out


def test_a_figure_comes_with_the_claims(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    assert cli("compare", "--claims", "--figure", "curves", "--tracking-uri", chain.uri).code == 0
    assert {"claims.txt", "curves.svg", "runs.csv"} <= {path.name for path in (tmp_path / "plots").iterdir()}


def test_the_margin_bounds_claim_2_alone(chain: Chain, cli: Cli) -> None:
    rows = [row for row in claims(chain, cli, "--margin", "0.5") if row["role"] != "overall"]
    assert {(row["claim"], row["bound"]) for row in rows} == {(1, 0), (2, -0.5)}
    assert {row["bound"] for row in claims(chain, cli) if row["claim"] == 2} == {None, -0.1}


@pytest.mark.parametrize("margin", ["-1", "nan", "inf", "much"])
def test_a_wrong_margin_is_wrong_usage(chain: Chain, cli: Cli, margin: str) -> None:
    answer = cli("compare", "--claims", "--margin", margin, "--tracking-uri", chain.uri)
    assert (answer.code, answer.out) == (2, "")
    assert margin in answer.err


def test_filters_hold(chain: Chain, cli: Cli) -> None:
    assert claims(chain, cli, "--model", "resnet8", "--dataset", "digits") == claims(chain, cli)
    answer = cli("compare", "--claims", "--model", "resnet20", "--tracking-uri", chain.uri)
    assert (answer.code, answer.out) == (1, "")
    assert "nothing to compare of resnet20" in answer.err


def test_best_accuracies_are_named_as_such(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    where = ("--tracking-uri", chain.uri)
    answer = cli("compare", "--claims", "--accuracy", "best", "--format", "csv", "--output", "out", *where)
    (header, *_) = csv.reader(io.StringIO(answer.out))
    assert "effect_on_best" in header
    assert "effect" not in header
    assert (tmp_path / "out" / "claims-best.csv").is_file()


@pytest.mark.usefixtures("store")
@pytest.mark.slow
def test_one_method_alone_is_an_error_that_says_what_to_run(cli: Cli) -> None:
    dense = cli("train-dense", *TINY).run_id
    assert cli("retrain", "--parent", dense, "--sparsity", "0.5", "--method", "lr_rewind").code == 0
    answer = cli("compare", "--claims")
    assert (answer.code, answer.out) == (1, "")
    assert "no claim can be judged" in answer.err
    assert "hint: retrain the same prune runs with" in answer.err


def test_iterative_lr_rewinding_without_published_numbers_is_compared_with_nothing(
    copied_chain: Chain, cli: Cli
) -> None:
    levels = ("--method", "lr_rewind", "--step", "0.2", "--until", "0.36")
    assert cli("iterate", "--parent", copied_chain.dense, *levels, "--tracking-uri", copied_chain.uri).code == 0
    (row,) = [row for row in claims(copied_chain, cli) if (row["claim"], row["role"]) == (3, "scenario")]
    assert (row["verdict"], row["remark"]) == ("cannot be judged", "no published numbers")
    assert (row["effect"], row["basis"]) == (None, "no published numbers")
