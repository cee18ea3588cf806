"""A search never looks at the test set: with another one in its place, every number is the same."""

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Chain, copy_chain

from rewindctl.console import Console
from rewindctl.datasets import Dataset, load_dataset
from rewindctl.pipeline import Pipeline
from rewindctl.registry.records import OWNER
from rewindctl.registry.roots.binding import MARKER, MisplacedError
from rewindctl.rewinding.methods import RetrainOptions
from rewindctl.tuning.request import TuneRequest, asked
from rewindctl.tuning.study import Tuned, tune
from rewindctl.tuning.trial import SearchTrialListeners, SearchTrials

TIMES = ("duration_seconds", "iterations_per_second")
IDS = ("run_id", "storage")
REQUEST = TuneRequest(retraining=RetrainOptions(method="finetune", iterations=24), trials=5, compare_seeds=1)


def search(chain: Chain, target: Path, change: Callable[[Dataset], Dataset]) -> tuple[Tuned, list[object]]:
    """The conclusions of a search over a changed data set, and every metric and tag of its trials."""
    copied = copy_chain(chain, target)
    pipeline = Pipeline(copied.registry, Console(quiet=True), "cpu")
    pipeline._datasets["digits"] = change(load_dataset("digits"))
    found = tune(pipeline, REQUEST, copied.prune)
    curves: list[object] = []
    for run in copied.registry().search(kind="trial"):
        keys = sorted(key for key in run.metrics if not key.startswith(TIMES))
        states = {key: value for key, value in run.tags.items() if key.startswith("rewindctl.trial")}
        curves.append(({key: copied.registry().curve(run, key) for key in keys}, states, run.params))
    return found, curves


def without_ids(found: Tuned) -> object:
    assert found.best is not None
    best = {key: value for key, value in found.best.items() if key not in IDS}
    return best | {"best": {key: value for key, value in found.best["best"].items() if key not in IDS}}


CHANGES: dict[str, Callable[[Dataset], Dataset]] = {
    "labels": lambda data: replace(data, test_labels=np.roll(data.test_labels, 1)),
    "images": lambda data: replace(data, test_images=255 - data.test_images),
    "one image": lambda data: replace(data, test_images=data.test_images[:1], test_labels=data.test_labels[:1]),
}


@pytest.fixture(scope="module")
def usual(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, list[object]]:
    found, curves = search(chain, tmp_path_factory.mktemp("usual") / "copied", lambda data: data)
    return without_ids(found), curves


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_another_test_set_changes_no_number(
    change: str, usual: tuple[object, list[object]], chain: Chain, tmp_path: Path
) -> None:
    found, curves = search(chain, tmp_path / "copied", CHANGES[change])
    assert curves == usual[1]
    assert without_ids(found) == usual[0]


@pytest.mark.slow
def test_another_training_set_does(usual: tuple[object, list[object]], chain: Chain, tmp_path: Path) -> None:
    _, curves = search(
        chain, tmp_path / "copied", lambda data: replace(data, train_labels=np.roll(data.train_labels, 1))
    )
    assert curves != usual[1]


def test_a_trial_whose_store_was_moved_ends_though_another_was_at_it(
    copied_chain: Chain,
) -> None:
    pipeline = Pipeline(copied_chain.registry, Console(quiet=True), "cpu")
    parent = pipeline.registry.get(copied_chain.prune)
    spec = asked(REQUEST, parent, pipeline.dense_of(parent), pipeline.dataset("digits")).spec
    trials = SearchTrials(pipeline, spec, parent, parent)
    trial = trials.trial_spec(trials.options({}), spec.seeds)
    other = pipeline.registry.start(trial, "another worker's", parent, {})
    dead = f"{socket.gethostname()}:{2**22 + 1}"  # more than any pid
    pipeline.registry.client.set_tag(other.run_id, OWNER, dead)
    marker = copied_chain.store.parent / "mlruns" / "rewindctl" / MARKER
    marker.write_bytes(b"{")
    with pytest.raises(MisplacedError):
        trials.measure(trial, "mine", {}, SearchTrialListeners())
    other.fail(KeyboardInterrupt())
