"""From what is asked for to a full spec: defaults, the methods' numbers, refusals before anything is run."""

import sqlite3
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from conftest import Chain

from rewindctl.datasets import Dataset, load_dataset
from rewindctl.errors import UnknownNameError, UsageError
from rewindctl.pipeline.requests import (
    PruneOptions,
    dense_spec,
    plan_against,
    prune_spec,
    require_kind,
    retrain_spec,
)
from rewindctl.registry import RunRecord
from rewindctl.rewinding.methods import RetrainOptions
from rewindctl.specs import PruneSpec, RetrainSpec
from rewindctl.training.recipes import recipes_with_larger_batches


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def runs(chain: Chain) -> dict[str, RunRecord]:
    registry = chain.registry()
    return {name: registry.get(getattr(chain, name)) for name in ("dense", "prune", "finetune", "lr_rewind")}


# Dense


def test_a_spec_is_the_recipe_where_nothing_else_is_asked_for(digits: Dataset) -> None:
    spec = dense_spec("resnet8", digits, 3)
    assert (spec.recipe, spec.iterations, spec.batch_size, spec.seed) == ("digits", 300, 64, 3)
    assert spec.lr_boundaries == (150, 225)
    assert spec.rewind_points == (0, 15, 30, 60, 120, 240, 300)
    assert spec.data_digest == digits.digest


def test_another_length_scales_the_schedule_and_keeps_its_shape(digits: Dataset) -> None:
    spec = dense_spec("resnet8", digits, 0, iterations=24)
    assert (spec.iterations, spec.lr_boundaries, spec.lr_factor) == (24, (12, 18), 0.1)


def test_the_recipe_follows_the_family_and_may_be_chosen(digits: Dataset) -> None:
    assert dense_spec("wrn10_1", digits, 0).recipe == "digits"
    assert dense_spec("resnet8", digits, 0, recipe="wrn", batch_size=64).lr_boundaries == (32_000, 48_000, 64_000)


def test_rewind_points_are_sorted_and_hold_both_ends(digits: Dataset) -> None:
    spec = dense_spec("resnet8", digits, 0, iterations=24, points=(12, 6, 12))
    assert spec.rewind_points == (0, 6, 12, 24)


def test_the_seed_alone_is_left_out_of_the_group(digits: Dataset) -> None:
    first, second = dense_spec("resnet8", digits, 0), dense_spec("resnet8", digits, 1)
    assert first.fingerprint() != second.fingerprint()
    assert first.group(None) == second.group(None)
    assert dense_spec("resnet8", digits, 0, learning_rate=0.2).group(None) != first.group(None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": "resnet9"}, "resnet9 has no depth 6n"),
        ({"recipe": "digit"}, "unknown recipe 'digit': did you mean 'digits'"),
        ({"iterations": 0}, "--iterations 0 is not positive"),
        ({"batch_size": 0}, "--batch-size 0 is not positive"),
        ({"batch_size": 1_001}, "--batch-size 1001 is larger than the 1,000 training images of digits"),
        ({"evaluate_every": 0}, "--evaluate-every 0 is not positive"),
        ({"learning_rate": 0.0}, "--lr 0.0 is not a positive number"),
        ({"learning_rate": float("nan")}, "--lr nan is not a positive number"),
        ({"points": (25,)}, "rewind point 25 is outside the run's 24 iterations"),
        ({"points": (-1,)}, "rewind point -1 is outside"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**32}, "seed = 4294967296"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named(digits: Dataset, wrong: dict[str, Any], words: str) -> None:
    asked: dict[str, Any] = {"model": "resnet8", "data": digits, "seed": 0, "iterations": 24} | wrong
    with pytest.raises(UsageError) as caught:
        dense_spec(**asked)
    assert words in caught.value.message


def test_a_recipe_whose_batch_is_too_large_says_which_option_helps() -> None:
    labels = np.arange(100) % 10
    images = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1), dtype=np.uint8)
    few = Dataset.from_arrays("few", {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}, "here")
    with pytest.raises(UsageError, match="the batch of 128 images of recipe resnet is larger than the 100") as caught:
        dense_spec("resnet8", few, 0)
    assert caught.value.hint == "give --batch-size 100 or less"
    assert dense_spec("resnet8", few, 0, batch_size=100).batch_size == 100
    assert recipes_with_larger_batches(100) == ["resnet", "wrn"]


def test_images_too_small_for_the_crop_of_a_recipe_are_refused() -> None:
    labels = np.arange(64) % 10
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 1), dtype=np.uint8)
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    tiny = Dataset.from_arrays("tiny", arrays, "here")
    with pytest.raises(UsageError, match="recipe resnet pads by 4, too much for images of 4x4"):
        dense_spec("resnet8", tiny, 0, batch_size=32)
    assert dense_spec("resnet8", tiny, 0, batch_size=32, recipe="digits").crop_padding == 1


# Prune


@pytest.mark.parametrize("parent", ["dense", "finetune"])
def test_trained_networks_can_be_pruned(runs: dict[str, RunRecord], parent: str) -> None:
    spec = prune_spec(runs[parent], 0.9, PruneOptions())
    assert spec.parent_fingerprint == runs[parent].fingerprint
    assert (spec.sparsity, spec.criterion, spec.structure, spec.scope) == (0.9, "magnitude", "unstructured", "global")


def test_a_mask_cannot_be_pruned(runs: dict[str, RunRecord]) -> None:
    with pytest.raises(UsageError, match="is a prune run, a dense or retrain run is needed"):
        prune_spec(runs["prune"], 0.9, PruneOptions())


def test_an_unknown_criterion_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown criterion 'magnitud': did you mean 'magnitude'") as caught:
        PruneOptions(criterion="magnitud")
    assert caught.value.hint == "known: gradient_magnitude, magnitude, random"


@pytest.mark.parametrize("given", ["stem, dense", ["dense", "stem,dense"], ("stem", "", "dense,")])
def test_patterns_are_given_in_one_text_or_several(given: Any) -> None:
    assert PruneOptions(exclude=given).exclude == ("dense", "stem")
    with pytest.raises(UsageError, match="--exclude dense,stem has no meaning for a parent that is pruned already"):
        PruneOptions(exclude=given).refuse()


@pytest.mark.parametrize(("given", "words"), [("stem, a b", "'a b' is not a pattern"), ("a" * 201, "more than 200")])
def test_what_is_no_pattern_of_layers_is_refused(given: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        PruneOptions(exclude=given)


def test_norms_are_removed_with_channels_only() -> None:
    PruneOptions(structure="structured", channel_norm="remove")
    with pytest.raises(UsageError, match="--channel-norm remove has no meaning for unstructured pruning"):
        PruneOptions(channel_norm="remove")


# Retrain: paper section 4, with N = 24

PLANS: list[tuple[dict[str, Any], tuple[int, int, int, int, float | None]]] = [
    ({"method": "finetune"}, (24, 0, 24, 24, 0.001)),
    ({"method": "finetune", "lr": 0.01, "iterations": 5}, (24, 0, 5, 24, 0.01)),
    ({"method": "weight_rewind", "k": 6}, (6, 6, 18, 24, None)),
    ({"method": "weight_rewind", "k": 0}, (0, 0, 24, 24, None)),
    ({"method": "weight_rewind", "k": 6, "lr_clock": "restarted"}, (6, 0, 18, 24, None)),
    ({"method": "lr_rewind"}, (24, 0, 24, 24, None)),
    ({"method": "lr_rewind", "iterations": 12}, (24, 0, 12, 12, None)),
    ({"method": "rewind", "weights_k": 6, "lr_k": 12}, (6, 12, 12, 24, None)),
    ({"method": "rewind", "weights_k": 24, "lr_k": 0}, (24, 0, 24, 24, None)),
]


@pytest.mark.parametrize(("asked", "numbers"), PLANS, ids=str)
def test_every_method_is_four_numbers(
    runs: dict[str, RunRecord], asked: dict[str, Any], numbers: tuple[int, int, int, int, float | None]
) -> None:
    spec = retrain_spec(runs["prune"], runs["dense"], RetrainOptions(**asked))
    found = spec.weights_iteration, spec.clock_start, spec.iterations, spec.schedule_iterations, spec.constant_lr
    assert found == numbers
    assert spec.parent_fingerprint == runs["prune"].fingerprint
    assert spec.evaluate_every == 12


def test_what_was_asked_for_is_kept_beside_what_it_came_to(runs: dict[str, RunRecord]) -> None:
    options = RetrainOptions(method="weight_rewind", k=6, lr_clock="restarted", optimizer_state="restored")
    spec = retrain_spec(runs["prune"], runs["dense"], options)
    assert (spec.method, spec.k, spec.lr_clock, spec.optimizer_state) == ("weight_rewind", 6, "restarted", "restored")


@pytest.mark.parametrize("iteration", [1, 7, 23])
def test_weights_may_be_of_an_iteration_that_was_not_recorded(runs: dict[str, RunRecord], iteration: int) -> None:
    plan = plan_against(runs["dense"].spec, RetrainOptions(method="weight_rewind", k=iteration))
    assert (plan.weights_iteration, plan.clock_start, plan.iterations) == (iteration, iteration, 24 - iteration)


def test_what_is_missing_is_told_with_what_is_recorded(runs: dict[str, RunRecord]) -> None:
    with pytest.raises(UsageError) as caught:
        plan_against(runs["dense"].spec, RetrainOptions(method="weight_rewind"))
    assert caught.value.hint == "give an iteration from 0 to 23; recorded: 0, 6, 12"  # at 24 nothing is left to train


@pytest.mark.parametrize(
    "options",
    [
        RetrainOptions(method="lr_rewind", data_order="continued"),
        RetrainOptions(method="finetune", data_order="continued"),
        RetrainOptions(method="rewind", weights_k=24, lr_k=6, data_order="continued"),
    ],
)
def test_the_order_of_batches_has_no_meaning_for_trained_weights(
    runs: dict[str, RunRecord], options: RetrainOptions
) -> None:
    with pytest.raises(UsageError, match="--data-order continued has no meaning"):
        plan_against(runs["dense"].spec, options)


def test_the_clock_may_start_at_an_iteration_that_was_not_recorded(runs: dict[str, RunRecord]) -> None:
    assert plan_against(runs["dense"].spec, RetrainOptions(method="rewind", weights_k=6, lr_k=7)).clock_start == 7


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown method 'lr_rewnd': did you mean 'lr_rewind'") as caught:
        RetrainOptions(method="lr_rewnd")
    assert caught.value.hint == "known: finetune, lr_rewind, rewind, weight_rewind"


@pytest.mark.parametrize("parent", ["dense", "lr_rewind"])
def test_only_a_mask_can_be_retrained(runs: dict[str, RunRecord], parent: str) -> None:
    with pytest.raises(UsageError, match=f"is a {runs[parent].kind} run, a prune run is needed"):
        retrain_spec(runs[parent], runs["dense"], RetrainOptions(method="lr_rewind"))


# Parents


def test_a_kind_is_required_by_name(runs: dict[str, RunRecord]) -> None:
    require_kind(runs["dense"], "dense")
    require_kind(runs["dense"], "dense", "retrain")
    with pytest.raises(UsageError, match=f"run {runs['dense'].run_id} is a dense run, a prune run is needed"):
        require_kind(runs["dense"], "prune")


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_an_unfinished_parent_is_refused(copied_chain: Chain, status: str) -> None:
    edit(copied_chain, "UPDATE runs SET status = ? WHERE run_uuid = ?", status, copied_chain.dense)
    with pytest.raises(UsageError, match=f"run {copied_chain.dense} is {status}, not FINISHED"):
        prune_spec(copied_chain.registry().get(copied_chain.dense), 0.5, PruneOptions())


def test_children_name_an_edited_parent_as_it_was_finished(copied_chain: Chain) -> None:
    """They would be found under the name of another experiment."""

    def specs() -> tuple[PruneSpec, RetrainSpec]:
        registry = copied_chain.registry()
        dense, mask = registry.get(copied_chain.dense), registry.get(copied_chain.prune)
        return prune_spec(dense, 0.5, PruneOptions()), retrain_spec(mask, dense, RetrainOptions(method="lr_rewind"))

    before = specs()
    for run in (copied_chain.dense, copied_chain.prune):
        change = "UPDATE tags SET value = ? WHERE key = 'rewindctl.fingerprint' AND run_uuid = ?"
        edit(copied_chain, change, "0" * 64, run)
    assert specs() == before


def edit(chain: Chain, sql: str, *values: object) -> None:
    """Change a store behind the registry's back."""
    with closing(sqlite3.connect(chain.store)) as connection, connection:
        assert connection.execute(sql, values).rowcount > 0
