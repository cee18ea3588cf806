"""rewindctl retrain"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from conftest import Chain, Cli

from rewindctl.registry import records as tag

RUNS = 5
MASK, CHECKPOINT, FINAL = "mask/mask.safetensors", "checkpoints/00000006.safetensors", "checkpoints/final.safetensors"


def at(chain: Chain) -> tuple[str, str]:
    return "--tracking-uri", chain.uri


def counts(chain: Chain) -> dict[str, int]:
    runs = chain.registry().search()
    return {kind: sum(run.kind == kind for run in runs) for kind in ("dense", "prune", "retrain")}


def test_stdout_is_the_run_id_alone(chain: Chain, cli: Cli) -> None:
    answer = cli("retrain", "--parent", chain.prune[:6], "--method", "weight_rewind", "--k", "6", *at(chain))
    assert (answer.code, answer.out) == (0, f"{chain.weight_rewind}\n")


def test_json_is_one_object(chain: Chain, cli: Cli) -> None:
    found = json.loads(cli("retrain", "--parent", chain.prune, "--method", "finetune", "--json", *at(chain)).out)
    assert (found["run_id"], found["kind"], found["reused"]) == (chain.finetune, "retrain", True)
    assert (found["parent_run_id"], found["dense_run_id"]) == (chain.prune, chain.dense)


def test_a_dense_parent_with_a_sparsity_finds_the_mask_and_its_retraining(chain: Chain, cli: Cli) -> None:
    for target in (("--sparsity", "0.8"), ("--compression", "5")):
        line = ("--parent", chain.dense, "--method", "lr_rewind", *target, *at(chain))
        assert cli("retrain", *line).run_id == chain.lr_rewind
    assert len(chain.registry().search()) == RUNS


def test_a_dense_parent_with_a_new_sparsity_makes_the_mask(copied_chain: Chain, cli: Cli) -> None:
    registry = copied_chain.registry()
    line = ("--parent", copied_chain.dense, "--method", "lr_rewind", "--sparsity", "0.5", *at(copied_chain))
    run = registry.get(cli("retrain", *line).run_id)
    mask = registry.parent(run)
    assert (mask.kind, mask.parent_id, mask.params["sparsity"]) == ("prune", copied_chain.dense, "0.5")
    assert counts(copied_chain) == {"dense": 1, "prune": 2, "retrain": 4}
    assert cli("prune", "--parent", copied_chain.dense, "--sparsity", "0.5", *at(copied_chain)).run_id == mask.run_id


REFUSED = {
    "k missing": ("--method", "weight_rewind"),
    "k not recorded": ("--method", "weight_rewind", "--k", "7", "--no-replay"),
    "k has no meaning": ("--method", "lr_rewind", "--k", "6"),
    "unknown method": ("--method", "rewnd"),
    "length": ("--method", "finetune", "--iterations", "0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_retraining_leaves_no_mask_behind(chain: Chain, cli: Cli, case: str) -> None:
    answer = cli("retrain", "--parent", chain.dense, "--sparsity", "0.4", *REFUSED[case], *at(chain))
    assert (answer.code, answer.out) == (2, "")
    assert counts(chain) == {"dense": 1, "prune": 1, "retrain": 3}


def test_choices_that_change_the_result_are_other_runs(copied_chain: Chain, cli: Cli) -> None:
    line = ("retrain", "--parent", copied_chain.prune, "--method", "weight_rewind", "--k", "6", *at(copied_chain))
    restarted = cli(*line, "--lr-clock", "restarted").run_id
    restored = cli(*line, "--optimizer-state", "restored").run_id
    registry = copied_chain.registry()
    ends = [
        registry.manifest(registry.get(run))[FINAL]["sha256"]
        for run in (copied_chain.weight_rewind, restarted, restored)
    ]
    assert len(set(ends)) == 3
    assert registry.get(restarted).params["clock_start"] == "0"
    assert registry.get(restored).params["optimizer_state"] == "restored"


def test_a_finetuning_may_be_shorter_and_at_another_rate(copied_chain: Chain, cli: Cli) -> None:
    line = ("--method", "finetune", "--lr", "0.01", "--iterations", "6", *at(copied_chain))
    run = copied_chain.registry().get(cli("retrain", "--parent", copied_chain.prune, *line).run_id)
    assert (run.params["constant_lr"], run.params["iterations"]) == ("0.01", "6")
    assert run.metrics["lr"] == 0.01


def test_another_momentum_is_another_run_and_the_usual_one_is_not(copied_chain: Chain, cli: Cli) -> None:
    line = ("retrain", "--parent", copied_chain.prune, "--method", "finetune", *at(copied_chain), "--momentum")
    assert cli(*line, "0.9").run_id == copied_chain.finetune
    registry = copied_chain.registry()
    run = registry.get(cli(*line, "0.5").run_id)
    assert run.params["momentum"] == "0.5"
    assert "--momentum 0.5" in run.tags[tag.NOTE]
    usual = registry.get(copied_chain.finetune)
    assert registry.manifest(run)[FINAL]["sha256"] != registry.manifest(usual)[FINAL]["sha256"]
    assert cli(*line, "1").code == 2


def test_a_shorter_lr_rewinding_scales_the_schedule(copied_chain: Chain, cli: Cli) -> None:
    line = ("--method", "lr_rewind", "--iterations", "12", *at(copied_chain))
    run = copied_chain.registry().get(cli("retrain", "--parent", copied_chain.prune, *line).run_id)
    assert (run.params["iterations"], run.params["schedule_iterations"]) == ("12", "12")
    assert run.metrics["lr"] == 0.001  # both cuts of the schedule lie inside the 12


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[str, str, Callable[[Path], None], str]] = {
    "mask damaged": ("prune", MASK, flip, f"{MASK} of run {{}} is damaged"),
    "mask missing": ("prune", MASK, Path.unlink, f"{MASK} of run {{}} is missing"),
    "checkpoint damaged": ("dense", CHECKPOINT, flip, f"{CHECKPOINT} of run {{}} is damaged"),
    "checkpoint missing": ("dense", CHECKPOINT, Path.unlink, f"{CHECKPOINT} of run {{}} is missing"),
    "manifest altered": ("prune", "manifest.json", flip, "the manifest of run {} was altered"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_names_the_run_and_the_file(copied_chain: Chain, cli: Cli, damage: str) -> None:
    stage, name, break_, words = DAMAGES[damage]
    run_id = getattr(copied_chain, stage)
    folder = Path(unquote(urlsplit(copied_chain.registry().get(run_id).artifact_uri).path))
    break_(folder / name)
    line = ("--method", "weight_rewind", "--k", "6", "--lr-clock", "restarted", *at(copied_chain))
    answer = cli("retrain", "--parent", copied_chain.prune, *line)
    assert (answer.code, answer.out) == (1, "")
    assert f"error: {words.format(run_id)}" in answer.err
    made = copied_chain.registry().search()[RUNS:]
    assert not any(run.finished for run in made)
    assert all(words.format(run_id) in run.tags[tag.ERROR] for run in made)


@pytest.mark.parametrize("stage", ["prune", "dense"])
def test_an_edited_ancestor_is_taken_as_it_was_finished(copied_chain: Chain, cli: Cli, stage: str) -> None:
    run_id = getattr(copied_chain, stage)
    with closing(sqlite3.connect(copied_chain.store)) as connection, connection:
        change = "UPDATE tags SET value = ? WHERE key = 'rewindctl.fingerprint' AND run_uuid = ?"
        connection.execute(change, ("0" * 64, run_id))
    answer = cli("retrain", "--parent", copied_chain.prune, "--method", "lr_rewind", *at(copied_chain))
    assert (answer.code, answer.run_id) == (0, copied_chain.lr_rewind)
    assert f"note: run {run_id} was edited (tag rewindctl.fingerprint was edited" in answer.err
    assert len(copied_chain.registry().search()) == RUNS
