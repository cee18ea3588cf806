"""The batch of a step of our own is that of `BatchStream`, its update that of torch.optim.SGD."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fused.fused_parts import DEVICE, LARGE

from rewindctl.datasets.batches import BatchStream, DeviceData
from rewindctl.fused.trials import Constants, FusedTrials
from rewindctl.models import Network, build_network, kernels
from rewindctl.models.network import NetworkConfig
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState

CONSTANTS = Constants(4, 2, 0.9, True, 3e-4, torch.float32)


def data(height: int, width: int, channels: int) -> DeviceData:
    draw = np.random.default_rng(0)
    images = torch.from_numpy(draw.integers(0, 256, (11, height, width, channels), np.uint8)).to(DEVICE)
    labels = torch.from_numpy(draw.integers(0, 10, 11)).to(DEVICE)
    scale, shift = (torch.from_numpy(draw.random(channels, np.float32)).to(DEVICE) for _ in range(2))
    return DeviceData(images, labels, images, labels, scale, shift)


def network(channels: int) -> Network:
    return build_network("resnet8", NetworkConfig(channels, 10, 0.1, 1e-5), 0)


@pytest.mark.parametrize(
    ("shape", "padding", "mirror"),
    [((8, 8, 3), 2, True), ((7, 5, 1), 4, True), ((6, 6, 4), 0, False), ((6, 6, 3), 0, True)],
)
def test_batches_are_those_of_the_stream(shape: tuple[int, int, int], padding: int, mirror: bool) -> None:
    """Of two trials of other seeds, through an epoch's end; the standardisation may round otherwise."""
    given = data(*shape)
    trials = FusedTrials(network(shape[2]), given, replace(CONSTANTS, crop_padding=padding), 2, LARGE)
    streams, wanted = [], []
    for trial in range(2):
        draws = trials.draws.of(trial)
        streams.append(BatchStream(given, 4, padding, mirror, trial, (draws, trials.position[trial : trial + 1])))
        wanted.append(BatchStream(given, 4, padding, mirror, trial))
    take = next(launch for launch in trials.launches if launch.name == "batch")
    batch, labels = take.arguments[8], take.arguments[9]
    assert isinstance(batch, torch.Tensor)
    assert isinstance(labels, torch.Tensor)
    for position in range(5):
        batch.fill_(torch.nan)
        for stream in streams:
            stream.seek(position)
        take()
        trials.position.add_(1)  # as the head does
        for trial, stream in enumerate(wanted):
            images, own = stream.batch(position)
            torch.testing.assert_close(batch[trial].permute(0, 3, 1, 2), images, rtol=1e-6, atol=1e-6)
            assert torch.equal(labels[trial], own)


@pytest.mark.parametrize(("nesterov", "masked"), [(True, True), (False, False)])
def test_update_is_that_of_sgd(nesterov: bool, masked: bool) -> None:
    """Three updates with gradients in shares; a trial that has stopped keeps every byte."""
    torch.manual_seed(0)
    constants = replace(CONSTANTS, nesterov=nesterov)
    trials = FusedTrials(network(3), data(8, 8, 3), constants, 3, LARGE)
    start = TrainState.initial(network(3))
    start.momentum.update({name: torch.randn(value.shape) for name, value in start.momentum.items()})
    share = 0.5 if masked else 1.0
    mask = Mask({name: torch.rand(kernel.shape) < share for name, kernel in kernels(network(3)).items()})
    for trial in range(3):
        trials.load(trial, start, mask if masked else None)
    trials.rate.copy_(torch.tensor([0.1, 0.02, 0.1]))
    trials.stopped[2] = 1
    frozen = [tensor[2].clone() for tensor in (trials.weights, trials.momenta)]
    one = trials.launches[-1]
    sums, table = one.arguments[4], one.arguments[5]
    assert isinstance(sums, torch.Tensor)
    assert isinstance(table, torch.Tensor)
    assert int(table[:, 1].max()) > 1
    parameters = [{name: value.clone().to(DEVICE) for name, value in start.parameters.items()} for _ in range(2)]
    begun = {name: value.clone().to(DEVICE) for name, value in start.momentum.items()}
    for values in (*parameters, begun):
        mask.apply_(values)
    optimizers = []
    for trial, values in enumerate(parameters):
        rate = float(trials.rate[trial])
        optimizer = torch.optim.SGD(values.values(), lr=rate, momentum=0.9, nesterov=nesterov, weight_decay=3e-4)
        for name, parameter in values.items():
            optimizer.state[parameter]["momentum_buffer"] = begun[name].clone()
        optimizers.append(optimizer)
    for _ in range(3):
        sums.copy_(torch.randn(sums.shape))
        one()
        for trial, optimizer in enumerate(optimizers):
            for name, parameter in parameters[trial].items():
                row, own = torch.zeros(trials.layout.size, device=DEVICE), trials.where.of[name]
                place = trials.layout.places[name]
                shares = sums[trial, own.start : own.start + own.count * place.size].view(own.count, -1)
                row[place.start : place.start + place.size] = shares.sum(0)
                parameter.grad = place.get(row)
            gradients = {
                name: parameter.grad for name, parameter in parameters[trial].items() if parameter.grad is not None
            }
            mask.apply_(gradients)
            optimizer.step()
    for trial, optimizer in enumerate(optimizers):
        found, momentum = trials.parameters_of(trial), trials.momentum_of(trial)
        for name, parameter in parameters[trial].items():
            torch.testing.assert_close(found[name], parameter, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(
                momentum[name], optimizer.state[parameter]["momentum_buffer"], rtol=1e-5, atol=1e-5
            )
    assert all(
        torch.equal(tensor[2], was) for tensor, was in zip((trials.weights, trials.momenta), frozen, strict=True)
    )


def test_a_trial_is_loaded_and_read_back_as_it_was() -> None:
    """Every parameter, momentum and statistic, whatever the others have."""
    torch.manual_seed(0)
    trials = FusedTrials(network(3), data(8, 8, 3), CONSTANTS, 2, LARGE)
    states = []
    for trial in range(2):
        state = TrainState.initial(network(3))
        for part in (state.parameters, state.buffers, state.momentum):
            part.update({name: torch.randn(value.shape) for name, value in part.items()})
        trials.load(trial, state, None)
        states.append(state)
    for trial, state in enumerate(states):
        found = (trials.parameters_of(trial), trials.momentum_of(trial), trials.running_of(trial))
        for part, wanted in zip(found, (state.parameters, state.momentum, state.buffers), strict=True):
            assert all(torch.equal(value.cpu(), wanted[name]) for name, value in part.items())
        assert set(found[0]) == set(state.parameters)
