"""rewindctl list"""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Chain, Cli

ORDERS = ("spec", "accuracy", "compression", "started", "name")


def listed(cli: Cli, chain: Chain, *options: str) -> list[str]:
    """The run IDs that `list` prints, in its order."""
    answer = cli("list", *options, "--tracking-uri", chain.uri)
    assert answer.code == 0, answer.err
    return [line.split()[0] for line in answer.out.splitlines()]


def edit(chain: Chain, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(chain.store)) as connection, connection:
        assert connection.execute(sql, values).rowcount > 0


def test_runs_are_listed_by_spec_with_status_accuracy_and_name(chain: Chain, cli: Cli) -> None:
    answer = cli("list", "--tracking-uri", chain.uri)
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines] == [
        chain.dense,
        chain.prune,
        chain.finetune,
        chain.lr_rewind,
        chain.weight_rewind,
    ]
    accuracy = chain.registry().get(chain.dense).metrics["test_accuracy"]
    assert lines[0].split(maxsplit=3)[1:] == ["FINISHED", f"{accuracy:.2%}", "dense s0 resnet8-digits"]
    assert answer.err == "5 runs\n"


@pytest.mark.parametrize(("kind", "count"), [("dense", 1), ("prune", 1), ("retrain", 3)])
def test_a_kind_can_be_chosen(chain: Chain, cli: Cli, kind: str, count: int) -> None:
    answer = cli("list", "--kind", kind, "--json", "--tracking-uri", chain.uri)
    assert [run["kind"] for run in json.loads(answer.out)] == [kind] * count
    assert answer.err == f"{count} {'run' if count == 1 else 'runs'}\n"


def test_a_method_can_be_chosen(chain: Chain, cli: Cli) -> None:
    assert listed(cli, chain, "--method", "lr_rewind") == [chain.lr_rewind]
    answer = cli("list", "--method", "lr_rewnd", "--tracking-uri", chain.uri)
    assert (answer.code, answer.out) == (2, "")
    assert "unknown method 'lr_rewnd': did you mean 'lr_rewind'?" in answer.err


def test_conditions_are_on_metrics_params_tags_and_what_a_run_is(chain: Chain, cli: Cli) -> None:
    retrained = [chain.finetune, chain.lr_rewind, chain.weight_rewind]
    assert listed(cli, chain, "--where", "compression=5") == [chain.prune, *retrained]
    assert listed(cli, chain, "--where", "compression<2") == [chain.dense]
    assert listed(cli, chain, "--where", "k=6") == [chain.weight_rewind]
    assert listed(cli, chain, "--where", "method!=finetune,kind=retrain") == retrained[1:]
    assert listed(cli, chain, "--where", "dataset=digits,status=FINISHED,seed=0,sparsity=0.8") == [
        chain.prune,
        *retrained,
    ]
    assert listed(cli, chain, "--where", "test_accuracy>1") == []
    assert listed(cli, chain, "--where", "method=none") == [chain.dense, chain.prune]
    assert listed(cli, chain, "--where", "kind=prune,structure=unstructured,model=resnet8") == [chain.prune]
    assert listed(cli, chain, "--kind", "dense", "--where", "kind=prune") == []
    assert listed(cli, chain, "--where", "model=resnet8' or kind='dense") == []


def test_each_condition_holds_in_every_run_listed_and_in_no_other(chain: Chain, cli: Cli) -> None:
    runs = {run.run_id: run.metrics["test_accuracy"] for run in chain.registry().search()}
    middle = sorted(runs.values())[2]
    above = set(listed(cli, chain, "--where", f"test_accuracy>={middle!r}"))
    below = set(listed(cli, chain, "--where", f"test_accuracy<{middle!r}"))
    assert above == {run for run, accuracy in runs.items() if accuracy >= middle}
    assert above | below == set(runs)
    assert not above & below


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("compresion>5", "--where: no run has 'compresion': did you mean 'compression'?"),
        ("zzzz>5", "--where: no run has 'zzzz'\n"),
        ("compression", "--where 'compression' is not a condition"),
    ],
)
def test_a_wrong_condition_says_what_is_known(chain: Chain, cli: Cli, where: str, words: str) -> None:
    answer = cli("list", "--where", where, "--tracking-uri", chain.uri)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert "compression" in answer.err.splitlines()[1]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("seed==0", "--where 'seed==0' is not a condition"),
        ("test_accuracy>abc", "--where 'test_accuracy>abc': 'abc' is not a number"),
        ("test_accuracy=abc", "--where 'test_accuracy=abc': 'abc' is not a number"),
        ("method=lr_rewnd", "--where: unknown method 'lr_rewnd': did you mean 'lr_rewind'?"),
        ("model>5", "--where 'model>5': model is text, which has no order"),
        ("status=KILED", "--where: unknown status 'KILED': did you mean 'KILLED'?"),
        ("method=lr", "--where: unknown method 'lr'"),
        ("kind!=prun", "--where: unknown kind 'prun': did you mean 'prune'?"),
    ],
)
def test_a_value_that_no_run_can_have_is_refused(chain: Chain, cli: Cli, where: str, words: str) -> None:
    answer = cli("list", "--where", where, "--tracking-uri", chain.uri)
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err


@pytest.mark.parametrize("where", ["status=KILLED", "kind=trial", "method=rewind", "k=none,seed!=0", "k>100"])
def test_a_value_that_a_run_may_have_is_not(chain: Chain, cli: Cli, where: str) -> None:
    assert listed(cli, chain, "--where", where) == []


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_lists_every_run_and_is_reversed_on_request(chain: Chain, cli: Cli, order: str) -> None:
    ordered = listed(cli, chain, "--sort", order)
    assert sorted(ordered) == sorted(run.run_id for run in chain.registry().search())
    if order in ("spec", "started", "name"):  # no two are equal
        assert listed(cli, chain, "--sort", order, "--reverse") == ordered[::-1]


def test_numbers_are_sorted_as_numbers(chain: Chain, cli: Cli) -> None:
    registry = chain.registry()
    for order, metric in (("accuracy", "test_accuracy"), ("compression", "compression")):
        values = [registry.get(run).metrics[metric] for run in listed(cli, chain, "--sort", order)]
        assert values == sorted(values)
    started = [registry.get(run).started for run in listed(cli, chain, "--sort", "started", "--reverse")]
    assert started == sorted(started, reverse=True)


def test_an_unknown_order_is_refused(chain: Chain, cli: Cli) -> None:
    answer = cli("list", "--sort", "speed", "--tracking-uri", chain.uri)
    assert answer.code == 2
    assert "unknown order 'speed'" in answer.err
    assert "known: accuracy, compression, name, spec, started" in answer.err


@pytest.mark.parametrize("flags", [(), ("--reverse",)])
def test_runs_without_a_value_come_last(copied_chain: Chain, cli: Cli, flags: tuple[str, ...]) -> None:
    edit(copied_chain, "DELETE FROM latest_metrics WHERE run_uuid = ?", copied_chain.prune)
    edit(copied_chain, "UPDATE runs SET status = 'KILLED' WHERE run_uuid = ?", copied_chain.prune)
    assert listed(cli, copied_chain, "--sort", "accuracy", *flags)[-1] == copied_chain.prune


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 50])
def test_the_pages_are_the_list(chain: Chain, cli: Cli, limit: int) -> None:
    whole, pages = listed(cli, chain), -(-5 // limit)
    parts = [listed(cli, chain, "--limit", str(limit), "--page", str(page + 1)) for page in range(pages)]
    assert [run for part in parts for run in part] == whole
    assert all(len(part) == limit for part in parts[:-1])


def test_a_page_says_where_it_is_and_one_too_far_is_refused(chain: Chain, cli: Cli) -> None:
    at = ("--tracking-uri", chain.uri)
    assert cli("list", "--limit", "2", "--page", "2", *at).err == "runs 3-4 of 5 (page 2 of 3)\n"
    assert len(json.loads(cli("list", "--limit", "2", "--page", "3", "--json", *at).out)) == 1
    answer = cli("list", "--limit", "2", "--page", "4", *at)
    assert (answer.code, answer.out) == (2, "")
    assert "--page 4 is past the last page, 3" in answer.err
    assert cli("list", "--quiet", *at).err == ""


def test_an_empty_experiment_lists_nothing(store: Path, cli: Cli) -> None:
    assert (cli("list").code, cli("list").out) == (0, "")
    assert cli("list", "--json").out == "[]\n"
    assert cli("list", "--where", "compression>5").err == "no runs\n"


def test_global_options_hold_before_and_after_the_command(chain: Chain, cli: Cli) -> None:
    after = cli("list", "--json", "--tracking-uri", chain.uri)
    assert cli("--json", "--tracking-uri", chain.uri, "list") == after
    assert cli("--tracking-uri", "sqlite:///no/such.db", "list", "--json", "--tracking-uri", chain.uri) == after


def test_unfinished_runs_are_listed_with_their_status(copied_chain: Chain, cli: Cli) -> None:
    edit(copied_chain, "UPDATE runs SET status = 'FAILED' WHERE run_uuid = ?", copied_chain.prune)
    edit(copied_chain, "DELETE FROM latest_metrics WHERE run_uuid = ?", copied_chain.prune)
    line = cli("list", "--kind", "prune", "--tracking-uri", copied_chain.uri).out
    assert line.split(maxsplit=3)[:3] == [copied_chain.prune, "FAILED", "-"]


def test_a_line_is_a_line_whatever_a_run_is_called(copied_chain: Chain, cli: Cli) -> None:
    edit(copied_chain, "UPDATE runs SET name = ? WHERE run_uuid = ?", "two\nlines\x1b[31m", copied_chain.dense)
    out = cli("list", "--tracking-uri", copied_chain.uri).out
    assert len(out.splitlines()) == 5
    assert "\x1b" not in out


def test_deleted_runs_are_not_listed(copied_chain: Chain, cli: Cli) -> None:
    edit(copied_chain, "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", copied_chain.prune)
    assert copied_chain.prune not in cli("list", "--tracking-uri", copied_chain.uri).out
