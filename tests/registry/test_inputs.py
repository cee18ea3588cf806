"""What a run was made from and what it made, as MLflow links them."""

import json
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import Chain

from rewindctl.datasets import load_dataset
from rewindctl.pipeline.requests import dense_spec
from rewindctl.pipeline.stage import data_used
from rewindctl.registry import Registry
from rewindctl.registry.delivery.sender import deliver
from rewindctl.registry.runs.inputs import DataInput, log_inputs, log_network, made_model
from rewindctl.registry.store.connect import connect
from rewindctl.registry.store.failures import StoreError

TRAINED = ("dense", "finetune", "weight_rewind", "lr_rewind")
DATA = DataInput("d-training", "0" * 64, "rewindctl data: d", "training", {"image": "uint8 (8, 8, 1)"}, {"num_rows": 1})


def run_of(chain: Chain, stage: str) -> Any:
    return connect(chain.uri).get_run(getattr(chain, stage))


def networks_into(chain: Chain, stage: str) -> list[str]:
    return [model.model_id for model in run_of(chain, stage).inputs.model_inputs]


def networks_from(chain: Chain, stage: str) -> list[str]:
    return [model.model_id for model in run_of(chain, stage).outputs.model_outputs]


@pytest.mark.parametrize("stage", [*TRAINED, "prune"])
def test_a_run_has_the_data_that_it_used(chain: Chain, stage: str) -> None:
    data = load_dataset("digits")
    sizes = {"training": len(data.train_labels), "testing": len(data.test_labels)}
    found = {part.tags[0].value: part.dataset for part in run_of(chain, stage).inputs.dataset_inputs}
    assert set(found) == ({"testing"} if stage == "prune" else set(sizes))
    for context, dataset in found.items():
        profile = json.loads(dataset.profile)
        assert (dataset.name, profile["data_digest"]) == (f"digits-{context}", data.digest)
        assert data.digest.startswith(dataset.digest)
        assert profile["num_rows"] == sizes[context] == sum(profile["images_per_class"].values())


def test_the_source_of_data_names_no_place_of_this_machine(chain: Chain) -> None:
    for part in run_of(chain, "dense").inputs.dataset_inputs:
        assert json.loads(part.dataset.source) == {"uri": "rewindctl data: digits"}


@pytest.mark.parametrize("stage", TRAINED)
def test_a_training_makes_one_finished_network(chain: Chain, stage: str) -> None:
    (made,) = networks_from(chain, stage)
    model = connect(chain.uri).get_logged_model(made)
    assert (model.source_run_id, str(model.status)) == (getattr(chain, stage), "READY")


def test_networks_are_linked_from_run_to_run(chain: Chain) -> None:
    assert networks_from(chain, "prune") == networks_into(chain, "dense") == []
    for stage in ("prune", "finetune", "weight_rewind", "lr_rewind"):
        assert networks_into(chain, stage) == networks_from(chain, "dense")


def test_the_version_of_a_baseline_leads_to_its_run(chain: Chain) -> None:
    version = connect(chain.uri).get_model_version_by_alias("resnet8-digits-dense", "seed-0")
    assert f"[dense s0 resnet8-digits](#/runs/{chain.dense})" in version.description


def test_a_run_that_is_gone_on_with_has_each_once(store: Any) -> None:
    registry, client = Registry(f"sqlite:///{store}"), connect(f"sqlite:///{store}")
    writer = registry.start(dense_spec("resnet8", load_dataset("digits"), 0, iterations=24), "9.35x: a/b", None, {})
    made = {log_network(client, writer.run_id, 24) for _ in range(2)}
    assert made == {made_model(client, writer.run_id)}
    for _ in range(2):
        log_inputs(client, writer.run_id, [DATA], writer.run_id)
    inputs = client.get_run(writer.run_id).inputs
    assert [part.dataset.name for part in inputs.dataset_inputs] == ["d-training"]
    assert len(inputs.model_inputs) == 1
    writer.fail(KeyboardInterrupt())


def test_a_source_without_a_network_is_left_out(store: Any) -> None:
    registry = Registry(f"sqlite:///{store}")
    writer = registry.start(dense_spec("resnet8", load_dataset("digits"), 0, iterations=24), "a run", None, {})
    writer.log_inputs([DATA], registry.get(writer.run_id))
    assert connect(f"sqlite:///{store}").get_run(writer.run_id).inputs.model_inputs == []
    writer.fail(KeyboardInterrupt())


def test_many_classes_are_counted_but_not_all_told() -> None:
    import numpy as np

    from rewindctl.datasets import Dataset

    labels = np.arange(100)
    images = labels.astype(np.uint8)[:, None, None, None]
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    (part,) = data_used(Dataset.from_arrays("many", arrays, "here"), "testing")
    assert (part.profile["classes"], part.profile["num_rows"]) == (100, 100)
    assert len(part.profile["images_per_class"]) == 20


def test_a_network_made_by_a_process_that_was_killed_before_the_link_is_linked(store: Path) -> None:
    registry = Registry(f"sqlite:///{store}")
    writer = registry.start(dense_spec("resnet8", load_dataset("digits"), 0, iterations=24), "a run", None, {})
    client = connect(registry.uri)
    model = client.create_logged_model(registry.experiment_id, "a network", writer.run_id, {}, None, "dense")
    assert log_network(client, writer.run_id, 24) == model.model_id
    assert made_model(client, writer.run_id) == model.model_id
    writer.fail(ValueError())


def test_runs_that_begin_at_one_moment_share_one_row_for_their_data(store: Path) -> None:
    uri = f"sqlite:///{store}"
    client, registry = connect(uri), Registry(uri)
    runs = [client.create_run(registry.experiment_id).info.run_id for _ in range(8)]
    gate, failed = threading.Barrier(len(runs)), []

    def begin(run_id: str) -> None:
        gate.wait()
        try:
            deliver(client, run_id, {"do": "inputs", "data": [asdict(DATA)], "source": None}, None)
        except StoreError as error:
            failed.append(error.message)

    threads = [threading.Thread(target=begin, args=(run_id,)) for run_id in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    found = [client.get_run(run_id).inputs.dataset_inputs for run_id in runs]
    assert [[part.dataset.name for part in parts] for parts in found] == [["d-training"]] * len(runs)
