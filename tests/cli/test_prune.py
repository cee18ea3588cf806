"""rewindctl prune"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from conftest import TINY, Chain, Cli

from rewindctl.pruning import Mask
from rewindctl.registry import Registry
from rewindctl.registry import records as tag
from rewindctl.report.cells import summarise
from rewindctl.report.frame import tidy_frame

KERNELS = 77_072
FINAL = "checkpoints/final.safetensors"


def at(chain: Chain) -> tuple[str, str]:
    return "--tracking-uri", chain.uri


def file_of(chain: Chain, run_id: str, name: str) -> Path:
    return Path(unquote(urlsplit(chain.registry().get(run_id).artifact_uri).path)) / name


def mask_of(registry: Registry, run_id: str) -> Mask:
    return Mask.load(registry.artifact(registry.get(run_id), "mask/mask.safetensors"))


@pytest.mark.parametrize("target", [("--sparsity", "0.8"), ("--compression", "5")])
def test_sparsity_and_compression_are_two_names_of_one_target(chain: Chain, cli: Cli, target: tuple[str, str]) -> None:
    answer = cli("prune", "--parent", chain.dense, *target, *at(chain))
    assert (answer.code, answer.out) == (0, f"{chain.prune}\n")


def test_a_parent_may_be_given_by_prefix_or_alias(chain: Chain, cli: Cli) -> None:
    for parent in (chain.dense[:6], "models:/resnet8-digits-dense@seed-0"):
        assert cli("prune", "--parent", parent, "--compression", "5", *at(chain)).run_id == chain.prune


@pytest.mark.parametrize("sparsity", ["0.1", "0.333", "0.893"])
def test_exactly_the_weights_asked_for_are_removed(copied_chain: Chain, cli: Cli, sparsity: str) -> None:
    answer = cli("prune", "--parent", copied_chain.dense, "--sparsity", sparsity, "--json", *at(copied_chain))
    found = json.loads(answer.out)
    removed = round(float(sparsity) * KERNELS)
    assert mask_of(copied_chain.registry(), found["run_id"]).removed == removed
    assert found["metrics"]["nonzero_kernel_parameters"] == KERNELS - removed
    assert found["metrics"]["sparsity_asked"] == float(sparsity)
    assert (found["kind"], found["parent_run_id"], found["reused"]) == ("prune", copied_chain.dense, False)


def test_a_retrained_network_is_pruned_further_under_its_own_mask(copied_chain: Chain, cli: Cli) -> None:
    registry = copied_chain.registry()
    run = cli("prune", "--parent", copied_chain.lr_rewind, "--sparsity", "0.9", *at(copied_chain)).run_id
    assert mask_of(registry, run).covers(mask_of(registry, copied_chain.prune))
    assert mask_of(registry, run).removed == round(0.9 * KERNELS)
    assert registry.get(run).parent_id == copied_chain.lr_rewind


def test_a_network_is_not_pruned_to_less_than_it_lost_already(copied_chain: Chain, cli: Cli) -> None:
    answer = cli("prune", "--parent", copied_chain.lr_rewind, "--sparsity", "0.8", *at(copied_chain))
    assert (answer.code, answer.out) == (2, "")
    assert "61658 already are" in answer.err
    assert "give a sparsity above 0.8" in answer.err


def test_structured_pruning_takes_whole_channels_and_their_norms_on_request(copied_chain: Chain, cli: Cli) -> None:
    line = ("prune", "--parent", copied_chain.dense, "--sparsity", "0.5", "--structure", "structured")
    registry = copied_chain.registry()
    kept, removed = (cli(*line, "--channel-norm", norm, *at(copied_chain)).run_id for norm in ("keep", "remove"))
    masks = mask_of(registry, kept), mask_of(registry, removed)
    stem = masks[0].kernels["stem.weight"].flatten(1)
    assert bool((stem.all(dim=1) == stem.any(dim=1)).all())
    assert masks[0].norms == {}
    assert bool((masks[1].norms["norm.weight"] == stem.any(dim=1)).all())
    assert 0 < registry.get(kept).metrics["sparsity"] <= 0.5
    assert registry.get(kept).tags[tag.STRUCTURE] == "structured"
    assert registry.get(kept).fingerprint != registry.get(removed).fingerprint


@pytest.mark.parametrize(("structure", "unit"), [("structured", "channel"), ("unstructured", "weight")])
def test_layers_that_would_have_become_empty_are_named(
    copied_chain: Chain, cli: Cli, structure: str, unit: str
) -> None:
    line = ("--sparsity", "0.9997", "--structure", structure)
    answer = cli("prune", "--parent", copied_chain.dense, *line, *at(copied_chain))
    assert answer.code == 0, answer.err
    spared = copied_chain.registry().get(answer.run_id).tags[tag.SPARED].split(",")
    assert len(spared) > 1
    said = f"one {unit} was left in each of the layers that would have become empty: {', '.join(spared)}"
    assert f"note: {said}\n" in answer.err
    assert f"In this mask {said}." in copied_chain.registry().get(answer.run_id).tags[tag.NOTE]


def test_layerwise_pruning_takes_its_share_of_every_layer(copied_chain: Chain, cli: Cli) -> None:
    line = ("--sparsity", "0.5", "--scope", "layerwise", *at(copied_chain))
    run = cli("prune", "--parent", copied_chain.dense, *line).run_id
    rows = mask_of(copied_chain.registry(), run).layers()
    assert all(abs(row["removed"] - row["weights"] / 2) <= 1 for row in rows)


def test_excluded_layers_keep_every_weight_and_names_and_rows_say_so(copied_chain: Chain, cli: Cli) -> None:
    registry, line = copied_chain.registry(), ("--sparsity", "0.5", "--criterion", "gradient_magnitude")
    runs = [
        cli("prune", "--parent", copied_chain.dense, *line, *excluded, *at(copied_chain)).run_id
        for excluded in (("--exclude", "dense, stem"), ("--exclude", "stem", "--exclude", "dense"), ())
    ]
    assert runs[0] == runs[1] != runs[2]
    mask, run = mask_of(registry, runs[0]), registry.get(runs[0])
    assert mask.removed == round(0.5 * KERNELS)
    assert {name for name, kept in mask.kernels.items() if bool(kept.all())} == {"stem.weight", "dense.weight"}
    assert run.name == "prune 2x gradient_magnitude without dense stem s0 resnet8-digits"
    assert registry.get(runs[2]).name == "prune 2x gradient_magnitude s0 resnet8-digits"
    assert "(2x, unstructured, global, gradient_magnitude without dense stem)" in run.tags[tag.NOTE]
    assert run.params["exclude"] == "dense,stem"
    line = ("retrain", "--parent", runs[0], "--parent", runs[2], "--method", "finetune", "--iterations", "2")
    retrained = cli(*line, *at(copied_chain))
    assert [registry.get(run).name for run in retrained.out.split()] == [
        "finetune T=2 2x gradient_magnitude without dense stem s0 resnet8-digits",
        "finetune T=2 2x gradient_magnitude s0 resnet8-digits",
    ]
    frame = tidy_frame(registry).query("criterion == 'gradient_magnitude'")
    assert sorted(frame["exclude"]) == ["", "dense stem"]
    assert len(summarise(frame)) == 2


def test_a_pattern_that_matches_no_layer_is_refused_before_a_run_is_made(copied_chain: Chain, cli: Cli) -> None:
    before = copied_chain.registry().search()
    for command in (("prune",), ("retrain", "--method", "finetune")):
        line = ("--parent", copied_chain.dense, "--sparsity", "0.5", "--exclude", "stem,head")
        answer = cli(*command, *line, *at(copied_chain))
        assert (answer.code, answer.out) == (2, "")
        assert "error: no layer matches the excluded pattern 'head'\n" in answer.err
        assert "layers: stem, blocks.0.conv1" in answer.err
    assert copied_chain.registry().search() == before


# Damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def alter(path: Path) -> None:
    path.write_text(path.read_text().replace('"size": ', '"size": 1'))


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "damaged": (FINAL, flip, f"{FINAL} of run {{}} is damaged"),
    "missing": (FINAL, Path.unlink, f"{FINAL} of run {{}} is missing"),
    "altered manifest": ("manifest.json", alter, "the manifest of run {} was altered"),
    "missing manifest": ("manifest.json", Path.unlink, "manifest.json of run {} is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_parent_whose_files_are_not_those_of_its_manifest_is_refused(
    copied_chain: Chain, cli: Cli, damage: str
) -> None:
    name, break_, words = DAMAGES[damage]
    break_(file_of(copied_chain, copied_chain.dense, name))
    before = copied_chain.registry().search()
    answer = cli("prune", "--parent", copied_chain.dense, "--sparsity", "0.5", *at(copied_chain))
    assert (answer.code, answer.out) == (1, "")
    assert f"error: {words.format(copied_chain.dense)}" in answer.err
    after = copied_chain.registry().search()
    assert after[: len(before)] == before
    assert not any(run.finished for run in after[len(before) :])


@pytest.mark.parametrize("key", ["fingerprint", "spec"])
def test_a_parent_whose_tags_were_edited_is_taken_as_it_was_finished(copied_chain: Chain, cli: Cli, key: str) -> None:
    with closing(sqlite3.connect(copied_chain.store)) as connection, connection:
        change = "UPDATE tags SET value = replace(value, '0', '1') WHERE key = ? AND run_uuid = ?"
        connection.execute(change, (f"rewindctl.{key}", copied_chain.dense))
    answer = cli("prune", "--parent", copied_chain.dense, "--sparsity", "0.8", *at(copied_chain))
    assert (answer.code, answer.run_id) == (0, copied_chain.prune)
    assert f"note: run {copied_chain.dense} was edited (tag rewindctl.{key} was edited" in answer.err
    assert len(copied_chain.registry().search()) == 5


def test_other_data_under_the_same_name_are_refused(store: Path, tmp_path: Path, cli: Cli) -> None:
    for seed in (0, 1):
        draw = np.random.default_rng(seed)
        parts = {f"x_{part}": draw.integers(0, 256, (64, 8, 8, 1), dtype=np.uint8) for part in ("train", "test")}
        np.savez(tmp_path / f"{seed}.npz", **parts, y_train=np.arange(64) % 10, y_test=np.arange(64) % 10)
    data = ("--data-dir", str(tmp_path / "data"))
    assert cli("data", "import", "noise", str(tmp_path / "0.npz"), *data).code == 0
    dense = cli("train-dense", *TINY, "--dataset", "noise", "--recipe", "digits", *data).run_id
    assert cli("prune", "--parent", dense, "--sparsity", "0.5", *data).code == 0
    assert cli("data", "import", "noise", str(tmp_path / "1.npz"), *data).code == 0
    answer = cli("prune", "--parent", dense, "--sparsity", "0.6", *data)
    assert (answer.code, answer.out) == (2, "")
    assert "data set 'noise' is" in answer.err
