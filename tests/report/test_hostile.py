"""One hostile name through every output: nothing of it runs, and nothing of it steers."""

import csv
import io
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Chain, Cli
from test_safe_text import HOSTILE

from rewindctl.pipeline import labels
from rewindctl.report.formats import formats, safe_cells, starts_formula
from rewindctl.report.page import html_page
from rewindctl.report.rows import read_rows
from rewindctl.report.section import write_rows
from rewindctl.specs import RetrainSpec

STEERING = set("\x1b\x07\x9b\u202e\r\x00")
LINES = [
    "list",
    "list --sort name",
    "list --json",
    "show {retrain}",
    "show {retrain} --json",
    "show {dense}",
    "lineage {prune}",
    "lineage {prune} --format mermaid",
    "lineage {prune} --format dot",
    "lineage {prune} --json",
    "verify {prune}",
    "compare --format text",
    "compare --format json",
]


@pytest.fixture(scope="module")
def hostile_store(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The chain with what others may write into its store: names, tags, params, a metric that is no number."""
    from conftest import copy_chain

    copied = copy_chain(chain, tmp_path_factory.mktemp("hostile") / "copied")
    with closing(sqlite3.connect(copied.store)) as connection, connection:
        connection.execute("UPDATE runs SET name = ?", (HOSTILE,))
        connection.execute("UPDATE tags SET value = ? WHERE key IN ('mlflow.runName', 'rewindctl.device')", (HOSTILE,))
        connection.execute("UPDATE latest_metrics SET is_nan = 1 WHERE key = 'iterations_per_second'")
        for key in ("rewindctl.trial_state", "rewindctl.error", f"rewindctl.{'9' * 200}"):
            connection.execute("INSERT INTO tags VALUES (?, ?, ?)", (key, HOSTILE, copied.lr_rewind))
    return copied


@pytest.mark.parametrize("line", LINES)
def test_nothing_of_a_name_steers_a_terminal_or_breaks_json(cli: Cli, hostile_store: Chain, line: str) -> None:
    store = hostile_store
    words = line.format(dense=store.dense, prune=store.prune, retrain=store.lr_rewind).split()
    answer = cli(*words, "--tracking-uri", store.uri)
    assert "defect" not in answer.err, answer.err
    assert not STEERING & set(answer.out + answer.err)
    if "json" in line and answer.out:
        json.loads(answer.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    if "mermaid" in line:
        labels_of_runs = re.findall(r'^    r\w+\["(.*)"\]$', answer.out.replace("<br/>", " "), re.MULTILINE)
        assert labels_of_runs
        assert not set('"<>()[]`|') & set("".join(labels_of_runs))
    if "dot" in line:
        assert all(len(re.findall(r'(?<!\\)"', row)) % 2 == 0 for row in answer.out.splitlines())


def test_a_note_links_to_the_parent_and_nowhere_else(chain: Chain) -> None:
    registry = chain.registry()
    run, parent = registry.get(chain.lr_rewind), replace(registry.get(chain.prune), name=HOSTILE)
    assert isinstance(run.spec, RetrainSpec)
    note = labels.retrain_note(run.spec, parent, parent, 5.0, 0.5, 0.0).partition("```")[0]
    assert not STEERING & set(note)
    assert "<script" not in note
    links = re.findall(r"(?<!\\)\]\(([^)]*)\)", note)
    assert set(links) == {f"#/runs/{chain.prune}"}


def frame() -> pd.DataFrame:
    starts = ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(1)", "\t=1", "plain", "-1.5", HOSTILE, "'=1"]
    return pd.DataFrame({"name": starts, "number": np.arange(len(starts)) - 1.5})


def test_no_cell_of_a_csv_file_is_a_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(formats["csv"](frame()))))
    assert len(rows) == len(frame())
    assert not [row["name"] for row in rows if starts_formula(row["name"])]
    assert [float(row["number"]) for row in rows] == list(frame()["number"])
    assert [row["name"] for row in rows][5:7] == ["plain", "-1.5"], "what runs nowhere stays as it is"


def test_html_markdown_and_latex_show_a_name_and_run_nothing_of_it() -> None:
    assert "<script" not in html_page([], frame())
    assert "<script" not in formats["markdown"](frame())
    assert not re.search(r"(?<!\\)\]\(", formats["markdown"](frame()))
    for form in formats:
        if form != "csv":
            assert not STEERING & set(formats[form](frame()))


def test_rows_come_back_from_their_file_as_they_were(chain: Chain, cli: Cli, tmp_path: Path) -> None:
    answer = cli("compare", "--output", str(tmp_path / "out"), "--tracking-uri", chain.uri)
    assert answer.code == 0, answer.err
    rows = read_rows(tmp_path / "out" / "runs.csv")
    rows["device"] = "=HYPERLINK(1)"
    path = write_rows(tmp_path / "again", rows)
    assert "'=HYPERLINK(1)" in path.read_text()
    pd.testing.assert_frame_equal(read_rows(path), rows)
    assert safe_cells(rows)["sparsity"].equals(rows["sparsity"])
