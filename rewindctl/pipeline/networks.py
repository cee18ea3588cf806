"""The network of a run from its files alone: no data set is needed."""

from collections.abc import Collection

import torch
from torch import nn

from rewindctl.datasets import Dataset
from rewindctl.datasets.inventory import DataFacts
from rewindctl.errors import IntegrityError, RewindError
from rewindctl.models import NetworkConfig, kernels, models
from rewindctl.models.build import construct
from rewindctl.pipeline.replays import States
from rewindctl.pruning import Mask, excluded_layers
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry.runs.manifest import MASK, checkpoint_path
from rewindctl.rewinding.checkpoints import TrainState, check_shapes
from rewindctl.specs import DenseSpec, PruneSpec, ReplaySpec, RetrainSpec

CHANNELS = (3, 1)  # those that a data set's images can have


def load_network(registry: Registry, run: RunRecord) -> nn.Module:
    """The network that a finished run ended with, its mask applied, on the CPU, in evaluation mode.

    A prune run's is the network that it pruned, before any retraining; a replay's has no mask of its own.
    Raises: RegistryError, IntegrityError.
    """
    source, iteration = run, None
    if isinstance(run.spec, PruneSpec | ReplaySpec):
        source, iteration = registry.parent(run), run.spec.iteration
    dense = registry.lineage(run)[0].spec
    assert isinstance(dense, DenseSpec)
    network = network_of(dense, load_state(registry, source, iteration))
    if (mask := load_mask(registry, run)) is not None:
        try:
            mask.apply_(dict(network.named_parameters()))
        except (KeyError, ValueError) as error:
            raise IntegrityError(f"the mask of run {run.run_id} does not fit its network: {error}") from None
    return network


def load_state(registry: Registry, training: RunRecord, iteration: int | None) -> TrainState:
    """The state of a training at an iteration (None: its last), recorded or replayed.

    Raises: RegistryError, IntegrityError.
    """
    return load_file(registry, holder_of(registry, training, iteration), iteration)


def holder_of(registry: Registry, training: RunRecord, iteration: int | None) -> RunRecord:
    """The run that has the file of a state of `training`. Raises: UsageError where none has."""
    if iteration is None:
        return training
    states = States.of(registry, training)
    if iteration not in states.runs:
        raise states.refusal(iteration, "")
    return states.runs[iteration]


def load_file(registry: Registry, run: RunRecord, iteration: int | None) -> TrainState:
    """A checkpoint of a run itself; None: its last. Raises: RegistryError, IntegrityError."""
    last = isinstance(run.spec, DenseSpec | RetrainSpec) and iteration == run.spec.iterations
    state = TrainState.load(registry.artifact(run, checkpoint_path(None if last else iteration)))
    if iteration not in (None, state.iteration):
        raise IntegrityError(f"the checkpoint of iteration {iteration} of run {run.run_id} is of {state.iteration}")
    return state


def load_mask(registry: Registry, run: RunRecord) -> Mask | None:
    """The mask of `run`: its own, or for a retraining that of its prune run; empty for a dense run.

    A replay has that of its training.
    """
    if run.kind == "replay":
        return load_mask(registry, registry.parent(run))
    if run.kind == "dense":
        return None
    path = registry.artifact(run if run.kind == "prune" else registry.parent(run), MASK)
    mask = Mask.load(path)
    if not mask.kernels or not mask.kept or any(kernel.dim() < 2 for kernel in mask.kernels.values()):
        raise IntegrityError(f"{path} removes every weight: it is not a mask of rewindctl")
    return mask


def network_of(dense: DenseSpec, state: TrainState) -> nn.Module:
    """The network of a baseline with the parameters and buffers of `state`, on the CPU, ready to be used.

    Raises: UnknownNameError, IntegrityError when they do not fit together.
    """
    network = construct(dense.model, fitting_config(dense, state))
    state.load_into(network)
    return network.eval()


def fitting_config(dense: DenseSpec, state: TrainState) -> NetworkConfig:
    """Channels and classes with which the network has the shapes of `state`. Raises: IntegrityError naming a misfit."""
    heads = [tensor for tensor in state.parameters.values() if tensor.dim() == 2] or list(state.parameters.values())
    problem: IntegrityError | None = None
    for channels in CHANNELS:
        for classes in dict.fromkeys(tensor.shape[0] for tensor in heads):
            config = NetworkConfig(channels, classes, dense.norm_momentum, dense.norm_epsilon)
            skeleton = _skeleton(dense.model, config)
            try:
                for found in (state.parameters, state.momentum):
                    check_shapes(found, dict(skeleton.named_parameters()), "parameter")
                check_shapes(state.buffers, dict(skeleton.named_buffers()), "buffer")
                return config
            except IntegrityError as error:
                problem = problem or error
    raise problem or IntegrityError(f"the checkpoint has no parameters of {dense.model!r}")


def require_layers(dense: DenseSpec, data: Dataset | DataFacts, patterns: Collection[str]) -> None:
    """Raises: UsageError when a pattern of layers to exclude matches none of a baseline's network on `data`."""
    if patterns:
        config = NetworkConfig(data.channels, data.classes, dense.norm_momentum, dense.norm_epsilon)
        excluded_layers(kernels(_skeleton(dense.model, config)), patterns)


def _skeleton(name: str, config: NetworkConfig) -> nn.Module:
    """The shapes of a network, without memory where its constructor can do so."""
    make = models[name]
    try:
        with torch.device("meta"):
            return make(config)
    except RewindError:
        raise
    except Exception:  # a constructor that looks at values
        return construct(name, config)
