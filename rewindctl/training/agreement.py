"""Before kernels of our own train anything on a device, one update of theirs is compared with the reference there."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rewindctl.arithmetic import Precision
from rewindctl.datasets.batches import DeviceData
from rewindctl.models import Network
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.system.files import keep_text, state_folder
from rewindctl.training.course import Course
from rewindctl.training.graph import alone
from rewindctl.training.kernel_key import kernel_key, key_here
from rewindctl.training.records import TrainSettings
from rewindctl.training.step import Stepper

# Of a gradient's norm, how far it may be from that of float32: beside what PyTorch's own bfloat16 is away, twice.
WITHIN = {"fp32": 1e-3, "bf16": 0.02}
# A gradient may be rounding alone (of a bias before a norm: nothing depends on it), and is measured by this part of the
# largest one at least.
SMALLEST = 1e-2


def disagreement(
    make: Callable[..., Course],
    network: Network,
    data: DeviceData,
    settings: TrainSettings,
    start: TrainState,
    mask: Mask | None,
) -> str:
    """Where the stepper that `make` makes, of kernels of our own, makes another update than PyTorch's operations.

    Empty where they agree.

    Compared once for a device, its driver, the versions, the kernels and a kind of training; what was found
    is kept in the state folder of the machine. Takes a second, and what the kernels take to be compiled.
    """
    image = tuple(data.train_images.shape[1:])
    kept, key = _kept(), _key(data.device, network, image, settings, masked=mask is not None)
    with alone(data.device):  # so that of several trainings that begin together one compares
        known = _known(kept)
        if key not in known:
            try:
                known[key] = compared(make, network, data, settings, start, mask)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever Triton makes of a driver or a shape that it does not know
                reason = next(iter(str(error).splitlines()), "")
                return f"an error ({type(error).__name__}: {reason[:200]})"
            keep_text(kept, json.dumps(known, indent=1))
    return known[key]


def compared(
    make: Callable[..., Course],
    network: Network,
    data: DeviceData,
    settings: TrainSettings,
    start: TrainState,
    mask: Mask | None,
) -> str:
    """From the weights of `start` without momentum and decay: what is left as momentum is the gradient."""
    still = replace(start, momentum={name: torch.zeros_like(value) for name, value in start.momentum.items()})
    pure = replace(settings, weight_decay=0.0, compiled=False)

    def gradients(make: Callable[..., Course], precision: Precision) -> tuple[dict[str, Tensor], float]:
        own = copy.deepcopy(network)
        with torch.random.fork_rng([data.device] if data.device.type == "cuda" else []):
            torch.manual_seed(0)  # each drops out the same
            stepper = make(own, data, replace(pure, precision=precision), still, mask, capture=False)
            stepper.advance(0, 1)
        loss = stepper.mean_loss()
        return stepper.state(1).momentum, math.nan if loss is None else loss

    wanted, loss = gradients(Stepper, "fp32")
    found, own_loss = gradients(make, settings.precision)
    usual = gradients(Stepper, settings.precision)[0] if settings.precision != "fp32" else wanted
    within = WITHIN[settings.precision]
    if not abs(own_loss - loss) <= within * abs(loss):
        return f"a loss of {own_loss:.6g} where PyTorch's is {loss:.6g}"
    largest = max(float(value.norm()) for value in wanted.values())
    for name, value in wanted.items():
        scale = max(float(value.norm()), SMALLEST * largest)
        off, allowed = (float((one[name] - value).norm()) / scale for one in (found, usual))
        if not off <= 2 * allowed + within:
            return f"the gradient of {name} is {off:.2g} of its size away from PyTorch's"
    return ""


def comparisons(device: torch.device) -> dict[str, str]:
    """What was found of these kernels on `device`, by key: empty text where they made PyTorch's update."""
    here = key_here(device)
    return {key: found for key, found in _known(_kept()).items() if key.startswith(f"{here}, ")}


def known_disagreement(device: torch.device, network: Network, image: tuple[int, ...], settings: TrainSettings) -> str:
    """What `disagreement` found of such trainings on images of (height, width, channels), with or without a mask."""
    known = _known(_kept())
    found = (known.get(_key(device, network, image, settings, masked=masked), "") for masked in (False, True))
    return next(filter(None, found), "")


def _kept() -> Path:
    return state_folder() / "fused_step.json"


def _key(
    device: torch.device, network: Network, image: tuple[int, ...], settings: TrainSettings, *, masked: bool
) -> str:
    kind = (image, settings.batch_size, settings.crop_padding, settings.nesterov, masked)
    return kernel_key(device, network, settings.precision, *kind)


def _known(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
