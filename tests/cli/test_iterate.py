"""rewindctl iterate (its laws are in tests/pipeline/test_iterate.py)"""

import json

from conftest import Chain, Cli


def test_it_prints_the_retrain_run_of_each_level(copied_chain: Chain, cli: Cli) -> None:
    line = ("--method", "weight_rewind", "--k", "6", "--step", "0.5", "--until", "0.75")
    answer = cli("iterate", "--parent", copied_chain.dense[:8], *line, "--tracking-uri", copied_chain.uri)
    registry = copied_chain.registry()
    levels = [registry.get(run_id) for run_id in answer.out.splitlines()]
    assert [(level.kind, level.params["method"]) for level in levels] == [("retrain", "weight_rewind")] * 2
    assert [level.metrics["sparsity"] for level in levels] == [0.5, 0.75]
    assert "level 1 of 2: sparsity 0.5" in answer.err
    assert "level 2 of 2: sparsity 0.75" in answer.err


def test_json_is_an_object_a_line(copied_chain: Chain, cli: Cli) -> None:
    line = ("--method", "lr_rewind", "--step", "0.8", "--until", "0.8", "--structure", "unstructured")
    options = ("--json", "--quiet", "--tracking-uri", copied_chain.uri)
    answer = cli("iterate", "--parent", copied_chain.dense, *line, *options)
    (level,) = (json.loads(text) for text in answer.out.splitlines())
    assert (level["run_id"], level["reused"]) == (copied_chain.lr_rewind, True)
    assert answer.err == ""


def test_options_reach_every_level(copied_chain: Chain, cli: Cli) -> None:
    line = ("--method", "finetune", "--lr", "0.01", "--iterations", "3", "--scope", "layerwise")
    grid = ("--step", "0.5", "--until", "0.75", "--tracking-uri", copied_chain.uri)
    answer = cli("iterate", "--parent", copied_chain.dense, *line, *grid)
    registry = copied_chain.registry()
    for run_id in answer.out.splitlines():
        run = registry.get(run_id)
        assert (run.params["constant_lr"], run.params["iterations"]) == ("0.01", "3")
        assert registry.parent(run).params["scope"] == "layerwise"


def test_a_refused_walk_leaves_nothing(chain: Chain, cli: Cli) -> None:
    line = ("--method", "weight_rewind", "--k", "7", "--step", "0.5", "--until", "0.75", "--no-replay")
    answer = cli("iterate", "--parent", chain.dense, *line, "--tracking-uri", chain.uri)
    assert (answer.code, answer.out) == (2, "")
    assert len(chain.registry().search()) == 5
