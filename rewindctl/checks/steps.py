"""What makes the updates of trainings on a device, and why: for `rewindctl doctor`."""

import torch

from rewindctl.arithmetic import AUTO
from rewindctl.counting import count_of
from rewindctl.errors import RewindError
from rewindctl.fused.pairs import is_whole, missing_part, unfit
from rewindctl.models import NetworkConfig, build_network, models
from rewindctl.training.agreement import comparisons
from rewindctl.training.step import choose_step

NAMES = {"pytorch": "PyTorch's operations", "fused": "kernels of our own"}
LIKE_CIFAR10 = NetworkConfig(3, 10, 0.1, 1e-5)


def step_text(device: torch.device) -> str:
    """What is taken unasked, whether there are kernels of our own, for which networks, and how they compared here."""
    usual = NAMES[choose_step(AUTO, device)]
    if missing := missing_part(device):
        return f"{usual}; kernels of our own: {missing}"
    networks = "".join(f", {said}" for name in models if (said := _network_text(name)))
    return f"{usual}; kernels of our own: possible (--update-step fused){networks}; {_compared(device)}"


def _network_text(name: str) -> str:
    """How far there are kernels for a network of somebody's own; for the families of the paper there are."""
    try:
        network = build_network(name, LIKE_CIFAR10, 0)
    except RewindError as error:
        return f"not for {name}: {error.message}"
    if is_whole(network):
        return ""
    why = unfit(network)
    return f"not for {name}: {why}" if why else f"in part for {name}"


def _compared(device: torch.device) -> str:
    """What comparisons of their updates with PyTorch's found on this device, and when the next one is."""
    found = comparisons(device)
    if not found:
        return "not compared with PyTorch's here yet: the first training that takes them does"
    others = sorted({why for why in found.values() if why})
    times = count_of(len(found), "kind of training", "kinds of training")
    if not others:
        return f"compared with PyTorch's here for {times}: they agree"
    bad = sum(bool(why) for why in found.values())
    return f"compared with PyTorch's here for {times}: {bad} not taken, since they make {others[0]}"
