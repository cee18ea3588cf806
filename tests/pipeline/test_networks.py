"""A run's network from its files: channels and classes are found by what fits."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import Chain
from torch import Tensor, nn

from rewindctl.errors import IntegrityError
from rewindctl.models import NetworkConfig, build_network, models
from rewindctl.pipeline.networks import fitting_config, network_of
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import DenseSpec


class Peculiar(nn.Module):
    """Hidden layers as wide as it likes, and a constructor that looks at values."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        assert torch.ones(1).item() == 1
        self.z_first = nn.Linear(config.in_channels, 9)
        self.middle = nn.Linear(9, 2)
        self.a_last = nn.Linear(2, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.a_last(self.middle(self.z_first(x.mean(dim=(2, 3)))))
        return logits


@pytest.fixture
def peculiar() -> Any:
    models.register("peculiar")(Peculiar)
    yield
    models._entries.pop("peculiar")


def dense_of(chain: Chain, model: str) -> DenseSpec:
    spec = chain.registry().get(chain.dense).spec
    assert isinstance(spec, DenseSpec)
    return spec.model_copy(update={"model": model})


@pytest.mark.usefixtures("peculiar")
@pytest.mark.parametrize("model", ["resnet8", "wrn10_1", "peculiar"])
@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 2), (3, 9), (1, 100)])
def test_the_network_of_a_state_is_found_whatever_its_data(
    chain: Chain, model: str, channels: int, classes: int
) -> None:
    dense = dense_of(chain, model)
    config = NetworkConfig(channels, classes, dense.norm_momentum, dense.norm_epsilon)
    state = TrainState.initial(build_network(model, config, 3))
    assert fitting_config(dense, state) == config
    network = network_of(dense, state)
    assert not network.training
    assert all(torch.equal(p, state.parameters[name]) for name, p in network.named_parameters())


def test_a_state_of_another_network_is_refused_with_the_first_misfit(chain: Chain) -> None:
    dense = dense_of(chain, "resnet8")
    config = NetworkConfig(3, 10, dense.norm_momentum, dense.norm_epsilon)
    state = TrainState.initial(build_network("resnet14", config, 0))
    with pytest.raises(IntegrityError, match=r"parameter blocks.1.conv1.weight is \(16, 16, 3, 3\) in the checkpoint"):
        fitting_config(dense, state)
    with pytest.raises(IntegrityError, match=r"the checkpoint has no parameters of 'resnet8'"):
        fitting_config(dense, replace(state, parameters={}))
