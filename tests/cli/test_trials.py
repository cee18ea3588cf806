"""Several trials of one command: in turn or at once the same runs, each on its own."""

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import TINY, Chain, Cli

from rewindctl.registry import Registry, RunRecord

MASK = "mask/mask.safetensors"
SHORT = (*TINY, "--iterations", "6", "--rewind-points", "0", "--evaluate-every", "6")


def at(chain: Chain) -> tuple[str, str]:
    return "--tracking-uri", chain.uri


def parents(*runs: str) -> list[str]:
    return [word for run in runs for word in ("--parent", run)]


def retrain(chain: Chain, *runs: str) -> tuple[str, ...]:
    return ("retrain", *parents(*runs), "--method", "finetune", "--iterations", "6", *at(chain))


def damaged_mask(chain: Chain, cli: Cli) -> RunRecord:
    """A prune run of `chain` whose mask is gone."""
    registry = chain.registry()
    run = registry.get(cli("prune", "--parent", chain.dense, "--compression", "3", *at(chain)).run_id)
    (Path(unquote(urlsplit(run.artifact_uri).path)) / MASK).unlink()
    return run


def test_several_parents_are_retrained_in_their_order(copied_chain: Chain, cli: Cli) -> None:
    other = cli("prune", "--parent", copied_chain.dense, "--compression", "2", *at(copied_chain)).run_id
    both = cli(*retrain(copied_chain, other, copied_chain.prune))
    assert both.code == 0, both.err
    registry = copied_chain.registry()
    made = [registry.get(run) for run in both.out.split()]
    assert [run.parent_id for run in made] == [other, copied_chain.prune]
    again = cli(*retrain(copied_chain, copied_chain.prune, other, copied_chain.prune), "--json", "--jobs", "3")
    found = [json.loads(line) for line in again.out.splitlines()]
    assert [run["run_id"] for run in found] == [made[1].run_id, made[0].run_id, made[1].run_id]
    assert all(run["reused"] for run in found)


@pytest.mark.slow
def test_a_dense_parent_is_pruned_first_and_others_are_too(copied_chain: Chain, cli: Cli) -> None:
    line = ("retrain", *parents(copied_chain.dense, copied_chain.finetune), "--sparsity", "0.9")
    answer = cli(*line, "--method", "finetune", "--iterations", "6", *at(copied_chain))
    assert answer.code == 0, answer.err
    registry = copied_chain.registry()
    masks = [registry.parent(registry.get(run)) for run in answer.out.split()]
    assert [mask.parent_id for mask in masks] == [copied_chain.dense, copied_chain.finetune]


def test_a_failing_trial_does_not_stop_the_others(copied_chain: Chain, cli: Cli) -> None:
    broken = damaged_mask(copied_chain, cli)
    answer = cli(*retrain(copied_chain, broken.run_id, copied_chain.prune))
    assert answer.code == 1
    (made,) = answer.out.split()
    assert copied_chain.registry().get(made).parent_id == copied_chain.prune
    assert f"error: finetune T=6 of {broken.short}: {MASK} of run {broken.run_id} is missing" in answer.err
    assert "error: 1 of 2 trials failed" in answer.err


def test_a_wrong_parent_keeps_the_others_from_running(chain: Chain, cli: Cli) -> None:
    before = len(chain.registry().search())
    for line in ((chain.prune, chain.dense), (chain.prune, "0123456789")):
        answer = cli(*retrain(chain, *line), "--jobs", "2")
        assert (answer.code, answer.out) == (2, "")
    assert len(chain.registry().search()) == before


def test_what_does_not_fit_is_refused_before_anything_runs(
    store: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewindctl.engines.capacity.PROCESS_BYTES", 10**18)
    answer = cli("train-dense", *SHORT, "--seeds", "0-3", "--jobs", "2", "--device", "cpu")
    assert (answer.code, answer.out) == (2, "")
    assert "error: --jobs 2: 2 trials at once do not fit: each takes about 1000000000.0 GB" in answer.err
    assert "hint: give --jobs 1" in answer.err
    assert Registry(f"sqlite:///{store}").search() == []


@pytest.mark.slow
def test_processes_make_the_runs_of_the_order_asked_for_and_one_fails_alone(copied_chain: Chain, cli: Cli) -> None:
    broken = damaged_mask(copied_chain, cli)
    other = cli("prune", "--parent", copied_chain.dense, "--compression", "2", *at(copied_chain)).run_id
    line = retrain(copied_chain, other, broken.run_id, copied_chain.prune)
    answer = cli(*line, "--jobs", "2", "--device", "cpu")
    assert answer.code == 1, answer.err
    registry = copied_chain.registry()
    made = [registry.get(run) for run in answer.out.split()]
    assert [run.parent_id for run in made] == [other, copied_chain.prune]
    assert f"error: finetune T=6 of {broken.short}: {MASK} of run {broken.run_id} is missing" in answer.err


@pytest.mark.slow
def test_forced_baselines_in_processes_are_made_anew(copied_chain: Chain, cli: Cli) -> None:
    line = ("train-dense", *TINY, "--seeds", "0-1", "--jobs", "2", "--device", "cpu", *at(copied_chain), "--json")
    answer = cli(*line, "--force")
    assert answer.code == 0, answer.err
    found = [json.loads(text) for text in answer.out.splitlines()]
    assert [(run["params"]["seed"], run["reused"]) for run in found] == [("0", False), ("1", False)]
    assert found[0]["run_id"] != copied_chain.dense
    again = [json.loads(text) for text in cli(*line).out.splitlines()]
    assert [(run["run_id"], run["reused"]) for run in again] == [(run["run_id"], True) for run in found]
