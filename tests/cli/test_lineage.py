"""rewindctl lineage"""

import json
import sqlite3
from contextlib import closing

import pytest
from conftest import Chain, Cli


def test_ancestors_come_first_each_deeper_than_the_one_before(chain: Chain, cli: Cli) -> None:
    answer = cli("lineage", chain.lr_rewind, "--tracking-uri", chain.uri)
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines] == [chain.dense, chain.prune, chain.lr_rewind]
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, 2, 4]
    accuracy = chain.registry().get(chain.lr_rewind).metrics["test_accuracy"]
    assert lines[2].endswith(f"lr_rewind 5x s0 resnet8-digits  {accuracy:.2%}")


def test_a_dense_run_is_its_own_lineage(chain: Chain, cli: Cli) -> None:
    answer = cli("lineage", "models:/resnet8-digits-dense@seed-0", "--tracking-uri", chain.uri)
    assert [line.split()[0] for line in answer.out.splitlines()] == [chain.dense]


def test_json_is_a_list_of_runs(chain: Chain, cli: Cli) -> None:
    line = json.loads(cli("lineage", chain.finetune, "--json", "--tracking-uri", chain.uri).out)
    assert [link["run_id"] for link in line] == [chain.dense, chain.prune, chain.finetune]
    assert [link["parent_run_id"] for link in line] == [None, chain.dense, chain.prune]


@pytest.mark.parametrize("gone", ["dense", "prune"])
def test_a_gap_is_an_error_that_names_both_ends(copied_chain: Chain, cli: Cli, gone: str) -> None:
    with closing(sqlite3.connect(copied_chain.store)) as connection, connection:
        change = "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?"
        connection.execute(change, (getattr(copied_chain, gone),))
    child = {"dense": copied_chain.prune, "prune": copied_chain.finetune}[gone]
    answer = cli("lineage", copied_chain.finetune, "--tracking-uri", copied_chain.uri)
    assert (answer.code, answer.out) == (1, "")
    assert f"the parent of run {child} is gone: run {getattr(copied_chain, gone)} was deleted" in answer.err


def test_a_circle_of_parents_is_an_error_and_no_endless_walk(copied_chain: Chain, cli: Cli) -> None:
    with closing(sqlite3.connect(copied_chain.store)) as connection, connection:
        change = "UPDATE tags SET value = ? WHERE key = 'mlflow.parentRunId' AND run_uuid = ?"
        connection.execute(change, (copied_chain.finetune, copied_chain.prune))
    answer = cli("lineage", copied_chain.finetune, "--tracking-uri", copied_chain.uri)
    assert (answer.code, answer.out) == (1, "")
    assert copied_chain.finetune in answer.err
