"""rewindctl list"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Chain, Cli


def test_runs_are_listed_oldest_first_with_status_accuracy_and_name(chain: Chain, cli: Cli) -> None:
    answer = cli("list", "--tracking-uri", chain.uri)
    lines = answer.out.splitlines()
    made = [chain.dense, chain.prune, chain.finetune, chain.weight_rewind, chain.lr_rewind]
    assert [line.split()[0] for line in lines] == made
    accuracy = chain.registry().get(chain.dense).metrics["test_accuracy"]
    assert lines[0].split(maxsplit=3)[1:] == ["FINISHED", f"{accuracy:.2%}", "dense s0 resnet8-digits"]
    assert answer.err == ""


@pytest.mark.parametrize(("kind", "count"), [("dense", 1), ("prune", 1), ("retrain", 3)])
def test_a_kind_can_be_chosen(chain: Chain, cli: Cli, kind: str, count: int) -> None:
    runs = json.loads(cli("list", "--kind", kind, "--json", "--tracking-uri", chain.uri).out)
    assert [run["kind"] for run in runs] == [kind] * count


def test_an_empty_experiment_lists_nothing(store: Path, cli: Cli) -> None:
    assert (cli("list").code, cli("list").out) == (0, "")
    assert cli("list", "--json").out == "[]\n"


def test_global_options_hold_before_and_after_the_command(chain: Chain, cli: Cli) -> None:
    after = cli("list", "--json", "--tracking-uri", chain.uri)
    assert cli("--json", "--tracking-uri", chain.uri, "list") == after
    assert cli("--tracking-uri", "sqlite:///no/such.db", "list", "--json", "--tracking-uri", chain.uri) == after


def test_unfinished_runs_are_listed_with_their_status(copied_chain: Chain, cli: Cli) -> None:
    with closing(sqlite3.connect(copied_chain.store)) as connection, connection:
        connection.execute("UPDATE runs SET status = 'FAILED' WHERE run_uuid = ?", (copied_chain.prune,))
        connection.execute("DELETE FROM latest_metrics WHERE run_uuid = ?", (copied_chain.prune,))
    line = cli("list", "--kind", "prune", "--tracking-uri", copied_chain.uri).out
    assert line.split(maxsplit=3)[:3] == [copied_chain.prune, "FAILED", "-"]


def test_deleted_runs_are_not_listed(copied_chain: Chain, cli: Cli) -> None:
    with closing(sqlite3.connect(copied_chain.store)) as connection, connection:
        change = "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?"
        connection.execute(change, (copied_chain.prune,))
    assert copied_chain.prune not in cli("list", "--tracking-uri", copied_chain.uri).out
