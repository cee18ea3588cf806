"""The least time that a training iteration can take on a device: bytes over bandwidth, arithmetic over matrix rate.

    python benchmarks/floor.py --bandwidth 4.3 --rate 788

Counted by iteration, in bfloat16, of each convolution and linear layer with I input and O output elements:
multiply-adds three times (forward, gradient of the input, gradient of the weights), and 3 I + 8 O elements moved:
forward, read I and write O, batch norm and ReLU read and write O; backward, batch norm and ReLU read O and the gradient
and write the gradient, the two convolutions read the gradient twice and I once and write the gradient of I. Weights
(float32: read, gradient, momentum and weight read and written, a copy in bfloat16) count once an iteration.
What no count shows is the time to start hundreds of kernels, some microseconds each, and that small ones fill no GPU.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rewindctl.models import build_network
from rewindctl.models.network import NetworkConfig

MODELS = ("resnet20", "resnet56", "resnet110", "wrn16_8")
TARGETS = {"resnet20": 1_200, "resnet56": 450, "resnet110": 230, "wrn16_8": 250}
MOVED_OF_INPUT, MOVED_OF_OUTPUT, BYTES = 3, 8, 2
BYTES_OF_WEIGHT = 4 * 6 + 2


@dataclass
class Count:
    """Of one iteration: floating-point operations, bytes, layers with weights."""

    operations: float = 0.0
    bytes: float = 0.0
    layers: int = 0


def count(model: str, batch: int) -> Count:
    """On images of 32x32x3 and ten classes."""
    network, found = build_network(model, NetworkConfig(3, 10, 0.1, 1e-5), 0), Count()

    def add(module: nn.Module, images: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        places = made[0, 0].numel() if made.dim() == 4 else 1
        found.operations += 3 * 2 * batch * module.weight.numel() * places  # type: ignore[operator]
        moved = MOVED_OF_INPUT * images[0].numel() + MOVED_OF_OUTPUT * made.numel()
        found.bytes += BYTES * batch * moved
        found.layers += 1

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 32, 32))
    found.bytes += BYTES_OF_WEIGHT * sum(parameter.numel() for parameter in network.parameters())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bandwidth", type=float, required=True, help="terabytes a second, as measured by a copy")
    parser.add_argument("--rate", type=float, required=True, help="teraflops a second, as measured by a matrix product")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for model in MODELS:
        one = count(model, arguments.batch)
        by_bytes, by_rate = one.bytes / arguments.bandwidth / 1e12, one.operations / arguments.rate / 1e12
        rows.append(
            {
                "model": model,
                "gigaflops": round(one.operations / 1e9, 1),
                "megabytes": round(one.bytes / 1e6, 1),
                "ms_by_bytes": round(1e3 * by_bytes, 3),
                "ms_by_rate": round(1e3 * by_rate, 3),
                "floor_iterations_per_second": round(1 / max(by_bytes, by_rate)),
                "target": TARGETS[model],
            }
        )
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
