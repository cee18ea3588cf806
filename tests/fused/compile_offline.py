"""Compile the kernels of a step for GPUs that need not be here: a process of its own, for it must not interpret them.

    python compile_offline.py CASE ...        a case is network:precision:capability:which

Which: all, some, early or fold; of an evaluation, which is in fp32: evaluate, or evaluate-ieee, without matrix units.

Prints a line of JSON for each kernel: what it is of, registers, spilled and shared bytes.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace

import torch

from rewindctl.datasets.batches import DeviceData
from rewindctl.fused.evaluation import FusedEvaluation
from rewindctl.fused.launch import Launch, compiled, different
from rewindctl.fused.tiles import Tiles
from rewindctl.fused.trials import Constants, FusedTrials
from rewindctl.models import build_network
from rewindctl.models.network import NetworkConfig

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def launches(model: str, precision: str, which: str) -> Iterator[Launch]:
    """Of an update of batch 128 on images as CIFAR-10's, cut as on a GPU: all, or one of each kernel."""
    images, labels = torch.zeros(128, 32, 32, 3, dtype=torch.uint8), torch.zeros(128, dtype=torch.int64)
    data = DeviceData(images, labels, images, labels, torch.zeros(3), torch.zeros(3))
    constants = Constants(128, 4, 0.9, True, 1e-4, DTYPES[precision])
    tiles = replace(Tiles.usual(torch.device("cuda"), constants.dtype), early=which == "early", fold=which == "fold")
    trials = FusedTrials(build_network(model, NetworkConfig(3, 10, 0.1, 1e-5), 0), data, constants, 1, tiles)
    if which.startswith("evaluate"):
        usual = tiles if which == "evaluate-ieee" else Tiles.evaluating(torch.device("cuda"))
        evaluation = FusedEvaluation(trials, tiles=usual)
        yield from different([*evaluation.starts, *evaluation.launches])
        return
    made = different(trials.launches)
    if which == "all":
        yield from made
    else:
        yield from {launch.kernel_name: launch for launch in made}.values()


def main() -> None:
    for case in sys.argv[1:]:
        model, precision, capability, which = case.split(":")
        for launch in launches(model, precision, which):
            code = compiled(launch, int(capability))
            said = {"case": case, "name": launch.name, "kernel": launch.kernel_name, "warps": launch.warps}
            print(json.dumps(said | asdict(code)), flush=True)


if __name__ == "__main__":
    main()
