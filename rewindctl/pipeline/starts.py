"""What a stage starts from: a fresh network, or the weights that another run left."""

from dataclasses import dataclass, replace

import torch

from rewindctl.datasets import Dataset
from rewindctl.errors import UsageError
from rewindctl.models import Network, build_network
from rewindctl.models.build import require_logits
from rewindctl.models.network import NetworkConfig
from rewindctl.pruning import Mask
from rewindctl.registry import Registry, RunRecord
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.seeds import derived_seed
from rewindctl.specs import DenseSpec, PruneSpec, RetrainSpec
from rewindctl.training.records import TrainSettings


@dataclass(frozen=True)
class Prepared:
    """What a training starts with, on the CPU; a baseline has no mask."""

    network: Network
    start: TrainState
    mask: Mask | None
    settings: TrainSettings


def fresh_network(spec: DenseSpec, data: Dataset) -> Network:
    """The network of a baseline before its training. Raises: UsageError when `data` is not that of the spec."""
    if data.digest != spec.data_digest:
        raise UsageError(
            f"data set {spec.dataset!r} is {data.digest[:12]} here, {spec.data_digest[:12]} in the dense run",
            "use the data that the dense run was trained on (--data-dir)",
        )
    config = NetworkConfig(data.channels, data.classes, spec.norm_momentum, spec.norm_epsilon)
    network = build_network(spec.model, config, derived_seed(spec.seed, "init"))
    require_logits(spec.model, network, data.channels, data.image_size, data.classes)
    return network


def weights_source(
    registry: Registry, spec: RetrainSpec, parent: RunRecord, dense: RunRecord
) -> tuple[RunRecord, int | None]:
    """The training whose weights are retrained, and at which of its iterations (None: the last).

    The network that was pruned, or the original `dense` run to rewind to. Which run has the file: `replays.States`.
    """
    assert isinstance(dense.spec, DenseSpec)
    if spec.weights_iteration != dense.spec.iterations:
        return dense, spec.weights_iteration
    return pruned_source(registry, parent)


def pruned_source(registry: Registry, mask: RunRecord) -> tuple[RunRecord, int | None]:
    """The training whose weights the prune run `mask` pruned, and at which of its iterations (None: the last)."""
    assert isinstance(mask.spec, PruneSpec)
    return registry.parent(mask), mask.spec.iteration


def retrain_start(spec: RetrainSpec, state: TrainState) -> TrainState:
    """The weights of `state` with the momentum that the spec asks for."""
    if spec.optimizer_state == "zero":
        state = replace(state, momentum={name: torch.zeros_like(m) for name, m in state.momentum.items()})
    return state
