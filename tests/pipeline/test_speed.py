"""Speed is measured without the data, and is the speed of something."""

import pytest
import torch

from rewindctl.arithmetic import Arithmetic
from rewindctl.checks.speed import measured_speed
from rewindctl.datasets.files import load_dataset
from rewindctl.datasets.inventory import describe_facts, facts_of
from rewindctl.errors import DataError, UnknownNameError
from rewindctl.pipeline.requests import dense_spec


@pytest.mark.parametrize(("model", "dataset"), [("resnet8", "digits"), ("resnet8", "cifar100")])
def test_a_network_is_measured_without_its_data(model: str, dataset: str) -> None:
    facts = facts_of(dataset, None)
    spec = dense_spec(model, facts, 0, batch_size=4)
    assert 0 < measured_speed(spec, facts, torch.device("cpu"), 0.0, Arithmetic()).iterations_per_second < float("inf")


def test_noise_that_a_recipe_cannot_learn_is_measured_too() -> None:
    facts = facts_of("digits", None)
    spec = dense_spec("resnet8", facts, 0, batch_size=4, learning_rate=1e30)
    assert measured_speed(spec, facts, torch.device("cpu"), 0.05, Arithmetic()).iterations_per_second > 0


def test_facts_of_published_data_need_no_data() -> None:
    with pytest.raises(DataError):
        load_dataset("cifar10", None)
    ten, hundred = facts_of("cifar10", None), facts_of("cifar100", None)
    assert (ten.train_size, ten.image_size, ten.channels, ten.classes) == (50_000, (32, 32), 3, 10)
    assert hundred.classes == 100
    assert len({ten.digest, hundred.digest}) == 2
    assert all(len(bytes.fromhex(facts.digest)) == 32 for facts in (ten, hundred))


def test_facts_of_other_data_are_those_of_the_data() -> None:
    assert facts_of("digits", None) == describe_facts(load_dataset("digits"))
    with pytest.raises(UnknownNameError):
        facts_of("digit", None)
