"""What trials of one set of kernels take is known before any of it is taken."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import UsageError
from rewindctl.fused.lane_memory import lane_bytes
from rewindctl.fused.memory import MOST_ELEMENTS
from rewindctl.fused.trials import Constants, FusedTrials
from rewindctl.models import Network, build_network
from rewindctl.models.network import NetworkConfig

CPU = torch.device("cpu")
CONSTANTS = Constants(4, 1, 0.9, True, 1e-4, torch.float32)


@pytest.fixture(scope="module")
def data() -> DeviceData:
    return DeviceData.upload(load_dataset("digits", None), CPU)


def network(model: str) -> Network:
    return build_network(model, NetworkConfig(1, 10, 0.1, 1e-5), 0)


def taken(trials: FusedTrials) -> int:
    """Bytes of every tensor that is kept or given to a kernel, each once, but the data set's."""
    given = [argument for launch in trials.launches for argument in launch.arguments if isinstance(argument, Tensor)]
    found = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in given}
    found |= {one.untyped_storage().data_ptr(): one.nbytes for one in trials.memory.tensors.values()}
    data = trials.data
    of_data = (data.train_images, data.train_labels, data.scale, data.shift)
    return sum(size for place, size in found.items() if place not in {one.data_ptr() for one in of_data})


@pytest.mark.parametrize("model", ["resnet8", "wrn10_1"])
@pytest.mark.parametrize("constants", [CONSTANTS, replace(CONSTANTS, dtype=torch.bfloat16)])
def test_trials_take_what_is_said_to_the_byte(data: DeviceData, model: str, constants: Constants) -> None:
    samples, *image = data.train_images.shape
    said = lane_bytes(network(model), samples, (image[0], image[1], image[2]), constants, CPU)
    for count in (1, 2, 3):
        assert taken(FusedTrials(network(model), data, constants, count)) == said.of(count)
    assert said.each > said.shared > 0


def test_a_larger_batch_and_a_mask_take_more_and_a_gpu_need_not_be_there() -> None:
    def each(constants: Constants) -> int:
        return lane_bytes(network("resnet8"), 100, (8, 8, 1), constants, torch.device("cuda")).each

    assert each(CONSTANTS) < each(replace(CONSTANTS, batch_size=8))


def test_a_batch_beyond_one_tensor_is_refused_before_anything_is_taken() -> None:
    too_many = MOST_ELEMENTS // (8 * 8)
    with pytest.raises(UsageError, match=f"batch size {too_many} is too large"):
        lane_bytes(network("resnet8"), 2 * too_many, (8, 8, 1), replace(CONSTANTS, batch_size=too_many), CPU)
