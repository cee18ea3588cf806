"""rewindctl lineage"""

import json
import re
import sqlite3
from contextlib import closing

import pytest
from conftest import Chain, Cli

from rewindctl.registry import RunRecord
from rewindctl.registry import registry as front
from rewindctl.registry.runs.reading import search
from rewindctl.registry.store.client import Client
from rewindctl.report.lineage import forms

EDGE = re.compile(r'^    "?r?([0-9a-f]{32})"? (-->|->|-\.) ?(?:"([^"]*)" \.-> )?"?r?([0-9a-f]{32})"?')
HOSTILE = 'a "quoted" \\ name; --> `x` #35; <b>|end'


def edit(chain: Chain, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(chain.store)) as connection, connection:
        assert connection.execute(sql, values).rowcount > 0


def delete(chain: Chain, run: str) -> None:
    edit(chain, "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", run)


def ids(text: str) -> list[str]:
    return [re.findall(r"[0-9a-f]{32}", line)[0] for line in text.splitlines()]


def test_the_tree_is_the_ancestors_the_run_and_what_came_from_it(chain: Chain, cli: Cli) -> None:
    answer = cli("lineage", chain.prune, "--tracking-uri", chain.uri)
    lines = answer.out.splitlines()
    retrained = [chain.finetune, chain.lr_rewind, chain.weight_rewind]  # by spec, not by time
    assert ids(answer.out) == [chain.dense, chain.prune, *retrained]
    assert [line.find(run) for line, run in zip(lines, ids(answer.out), strict=True)] == [0, 2, 4, 4, 4]
    assert [line.endswith("  *") for line in lines] == [False, True, False, False, False]


def test_siblings_of_the_ancestors_are_not_in_the_tree(chain: Chain, cli: Cli) -> None:
    answer = cli("lineage", chain.lr_rewind, "--tracking-uri", chain.uri)
    assert ids(answer.out) == [chain.dense, chain.prune, chain.lr_rewind]


def test_lines_give_the_numbers_that_matter(chain: Chain, cli: Cli) -> None:
    metrics = chain.registry().get(chain.lr_rewind).metrics
    line = cli("lineage", chain.lr_rewind, "--tracking-uri", chain.uri).out.splitlines()[2]
    assert " ".join(line.split()[2:]) == (
        f"lr_rewind 5x {metrics['test_accuracy']:.2%} {100 * metrics['delta_accuracy']:+.2f} *"
    )


def test_an_alias_is_a_run_too(chain: Chain, cli: Cli) -> None:
    answer = cli("lineage", "models:/resnet8-digits-dense@seed-0", "--tracking-uri", chain.uri)
    assert ids(answer.out)[0] == chain.dense
    assert len(ids(answer.out)) == 5


def test_json_is_the_runs_in_the_order_of_the_tree(chain: Chain, cli: Cli) -> None:
    rows = json.loads(cli("lineage", chain.prune, "--json", "--tracking-uri", chain.uri).out)
    assert rows == json.loads(cli("lineage", chain.prune, "--format", "json", "--tracking-uri", chain.uri).out)
    assert [row["relation"] for row in rows] == ["ancestor", "self", *["descendant"] * 3]
    assert [row["depth"] for row in rows] == [0, 1, 2, 2, 2]
    seen: set[str | None] = {None}
    for row in rows:
        assert row["parent_run_id"] in seen
        seen.add(row["run_id"])


@pytest.mark.parametrize("form", ["mermaid", "dot"])
def test_graphs_have_every_run_once_and_an_edge_to_each_from_its_parent(chain: Chain, cli: Cli, form: str) -> None:
    out = cli("lineage", chain.prune, "--format", form, "--tracking-uri", chain.uri).out
    nodes = re.findall(r'^    (?:r|")([0-9a-f]{32})"? ?\[', out, re.MULTILINE)
    edges = [match for line in out.splitlines() if (match := EDGE.match(line))]
    solid = {(match[1], match[4]) for match in edges if match[2] != "-." and "dashed" not in match.string}
    retrained = [chain.finetune, chain.lr_rewind, chain.weight_rewind]
    assert nodes == [chain.dense, chain.prune, *retrained]
    assert solid == {(chain.dense, chain.prune), *((chain.prune, run) for run in retrained)}


@pytest.mark.parametrize("form", ["mermaid", "dot"])
def test_graphs_show_where_rewound_weights_come_from(chain: Chain, cli: Cli, form: str) -> None:
    out = cli("lineage", chain.prune, "--format", form, "--tracking-uri", chain.uri).out
    (line,) = (line for line in out.splitlines() if "weights of" in line)  # fine-tuning and LR rewinding: no rewinding
    assert "weights of 6" in line
    assert re.findall(r"[0-9a-f]{32}", line) == [chain.dense, chain.weight_rewind]


def test_no_name_breaks_out_of_its_label(copied_chain: Chain, cli: Cli) -> None:
    edit(copied_chain, "UPDATE runs SET name = ? WHERE run_uuid = ?", HOSTILE, copied_chain.dense)
    at = ("--tracking-uri", copied_chain.uri)
    mermaid = cli("lineage", copied_chain.dense, "--format", "mermaid", *at).out.splitlines()
    (label,) = re.fullmatch(r'    r[0-9a-f]{32}\["([^"]*)"\]', mermaid[1]).groups()  # type: ignore[union-attr]
    name = label.split("<br/>")[0]
    assert not set(name) & set('"`<>|\\')
    assert re.sub(r"#(\d+);", lambda code: chr(int(code[1])), name) == HOSTILE
    dot = cli("lineage", copied_chain.dense, "--format", "dot", *at).out.splitlines()
    (label,) = re.fullmatch(r'    "[0-9a-f]{32}" \[label="((?:[^"\\]|\\.)*)", penwidth=3\];', dot[2]).groups()  # type: ignore[union-attr]
    assert re.sub(r"\\(.)", r"\1", label.split("\\n")[0]) == HOSTILE


def test_every_form_is_an_option(chain: Chain, cli: Cli) -> None:
    for form in forms:
        assert cli("lineage", chain.dense, "--format", form, "--tracking-uri", chain.uri).code == 0
    answer = cli("lineage", chain.dense, "--format", "svg", "--tracking-uri", chain.uri)
    assert answer.code == 2
    assert "'svg'" in answer.err


def test_children_are_found_in_other_experiments_and_without_reading_every_run(
    copied_chain: Chain, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def noted(client: Client, experiment_ids: list[str] | None, tags: dict[str, str]) -> list[RunRecord]:
        asked.append(str(tags))
        return search(client, experiment_ids, tags)

    line = ("--parent", copied_chain.prune, "--method", "finetune", "--iterations", "2", "--experiment", "other")
    elsewhere = cli("retrain", *line, "--tracking-uri", copied_chain.uri).run_id
    monkeypatch.setattr(front, "search", noted)
    registry = copied_chain.registry()
    found = registry.descendants(registry.get(copied_chain.prune))
    assert elsewhere in {run.run_id for run in found[copied_chain.prune]}
    assert len(asked) == 2
    assert all(copied_chain.prune in one or copied_chain.dense in one for one in asked)


def test_an_unfinished_child_says_so(copied_chain: Chain, cli: Cli) -> None:
    edit(copied_chain, "UPDATE runs SET status = 'KILLED' WHERE run_uuid = ?", copied_chain.finetune)
    out = cli("lineage", copied_chain.prune, "--tracking-uri", copied_chain.uri).out
    assert ["KILLED" in line for line in out.splitlines()] == [False, False, True, False, False]


@pytest.mark.parametrize("gone", ["dense", "prune"])
def test_a_gap_is_an_error_that_names_both_ends(copied_chain: Chain, cli: Cli, gone: str) -> None:
    delete(copied_chain, getattr(copied_chain, gone))
    child = {"dense": copied_chain.prune, "prune": copied_chain.finetune}[gone]
    answer = cli("lineage", copied_chain.finetune, "--tracking-uri", copied_chain.uri)
    assert (answer.code, answer.out) == (1, "")
    assert f"the parent of run {child} is gone: run {getattr(copied_chain, gone)} was deleted" in answer.err


def test_a_circle_of_parents_is_an_error_and_no_endless_walk(copied_chain: Chain, cli: Cli) -> None:
    change = "UPDATE tags SET value = ? WHERE key = 'mlflow.parentRunId' AND run_uuid = ?"
    edit(copied_chain, change, copied_chain.finetune, copied_chain.prune)
    answer = cli("lineage", copied_chain.finetune, "--tracking-uri", copied_chain.uri)
    assert (answer.code, answer.out) == (1, "")
    assert copied_chain.finetune in answer.err
    registry = copied_chain.registry()
    found = registry.descendants(registry.get(copied_chain.prune))
    assert sum(map(len, found.values())) <= 4
