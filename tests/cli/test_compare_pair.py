"""rewindctl compare --pair: two labels of a real registry against each other, in every format, and from Python."""

import json
from pathlib import Path

import pytest
from cli.test_compare_claims import SUFFIX
from conftest import Chain, Cli

from rewindctl import compare
from rewindctl.report.formats import formats, records

PAIR = ("--pair", "weight_rewind k=6", "LR rewinding")


def test_the_effect_is_that_of_the_two_runs_of_one_mask(chain: Chain, cli: Cli) -> None:
    answer = cli("compare", *PAIR, "--json", "--tracking-uri", chain.uri)
    assert (answer.code, answer.err) == (0, "")
    (row,) = json.loads(answer.out)
    first, second = (
        chain.registry().get(run).metrics["test_accuracy"] for run in (chain.weight_rewind, chain.lr_rewind)
    )
    assert row["effect"] == pytest.approx(100 * (first - second))
    assert (row["first"], row["second"]) == ("weight rewinding k=6", "LR rewinding")
    assert (row["n"], row["basis"], row["precision"]) == (1, "the same dense runs and masks", "fp32")
    assert (row["verdict"], row["remark"], row["low"]) == ("not decided", "needs at least 6 trials", None)
    made = compare(tracking_uri=chain.uri).pair("weight_rewind k=6", "lr_rewind")
    assert records(made) == [row]


def test_a_pair_is_printed_in_every_format_and_written_as_printed(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    for form in formats:
        answer = cli("compare", *PAIR, "--format", form, "--output", "out", "--tracking-uri", chain.uri)
        assert answer.code == 0, answer.err
        assert (tmp_path / "out" / f"pair.{SUFFIX[form]}").read_text() == answer.out
        assert "weight rewinding k=6" in answer.out
        assert "not decided" in answer.out
    assert (tmp_path / "out" / "runs.csv").is_file()
    best = cli("compare", *PAIR, "--accuracy", "best", "--output", "out", "--tracking-uri", chain.uri)
    assert "effect on best (points)" in best.out
    assert (tmp_path / "out" / "pair-best.txt").read_text() == best.out


def test_the_report_page_has_the_pair_beside_everything_else(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    answer = cli("compare", *PAIR, "--report", "--output", "out", "--tracking-uri", chain.uri)
    assert answer.code == 0, answer.err
    assert answer.out == cli("compare", *PAIR, "--tracking-uri", chain.uri).out
    for name in ("report.md", "report.html"):
        page = (tmp_path / "out" / name).read_text()
        assert "against LR rewinding" in page
        assert "needs at least 6 trials" in page
        assert "fine-tuning" in page
        assert "--pair" in page, "the page says how it was made"


def test_rows_of_a_file_are_compared_as_those_of_the_registry(chain: Chain, cli: Cli) -> None:
    where = ("--tracking-uri", chain.uri)
    assert cli("compare", "--output", "out", *where).code == 0
    assert cli("compare", *PAIR, "--from", "out/runs.csv").out == cli("compare", *PAIR, *where).out
    here = compare(tracking_uri=chain.uri).runs
    twice = compare(files=["out/runs.csv", "out/runs.csv"]).runs
    assert records(twice.drop(columns="origin")) == records(here.drop(columns="origin"))
