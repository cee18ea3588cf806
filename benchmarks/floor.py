"""What an update by kernels of our own should take on a GPU: each kernel as it is written, its bytes and arithmetic.

    python benchmarks/floor.py --bandwidth 3.0 --l2-bandwidth 3.8 --rate 727

A prediction, at batch 128 in bfloat16 on images of 32x32x3: a kernel takes --launch-us and the longest of three: its
bytes from memory at --bandwidth, all bytes that its programs ask the cache of the device (L2) for at --l2-bandwidth,
its arithmetic at --rate. The defaults are what an H100 did. Of them 3.8 TB/s is a copy of 4 MiB within L2 in 2.2 us
with its start, which is counted apart here: without it the same copy is 7.0 TB/s, and the truth lies between. Not
counted: how little of the device a kernel fills, that its programs wait for each other, and that matrix units do less
for 16 and 32 channels than in the large product that --rate is.

From L2 comes what was touched last (read or written): of --l2 MB --counted. Not all of it counts: an H100's L2 is two
halves, and what programs on both sides read may lie in both; and no cache fills evenly. Trials come one after another
in a kernel, their tensors in step. What is written counts as what is read: it goes to memory at some time.

Asked of L2: of a convolution each pixel for every place of its kernel and each tile of columns, and the weights for
every tile of rows; of the gradient of weights the input for each tile of columns and the other gradient for each group
of rows. Every place, since copies ahead of use pass by the processors' own caches; where nothing is copied ahead these
serve all places but the first, and the rest stays. --ahead: all convolutions copy, none, or those that `Tiles` says.
"""

import argparse
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import torch

from rewindctl.datasets.batches import DeviceData
from rewindctl.fused.launch import Launch, Moved
from rewindctl.fused.tiles import Tiles
from rewindctl.fused.trials import Constants, FusedTrials
from rewindctl.models import build_network
from rewindctl.models.network import NetworkConfig

# Iterations per second of a trial alone, and in sum of several at once.
TARGETS = {"resnet20": (2_500, 6_000), "resnet56": (850, 2_000), "resnet110": (430, 1_000), "wrn16_8": (350, 400)}
MODELS = tuple(TARGETS)
TRIALS = (1, 2, 4, 8, 16, 32)
PIECE = 2**19  # bytes that the model of the cache keeps or gives up together
Key = tuple[int, int, int]
AHEAD = {"all": Tiles(crowd=10**9), "some": Tiles(), "none": Tiles(stages=1)}


@dataclass(frozen=True)
class Machine:
    """Bytes and operations a microsecond, bytes of L2 that count, microseconds to start a kernel."""

    bandwidth: float = 3.0e6
    l2_bandwidth: float = 3.8e6
    rate: float = 727e6
    l2: float = 30e6
    launch: float = 1.0


@dataclass(frozen=True)
class Predicted:
    """Of a launch: bytes from memory, bytes asked of L2, operations; microseconds of each and in all."""

    launch: Launch
    memory: float
    asked: float
    operations: float
    parts: dict[str, float]
    microseconds: float


class Cache:
    """The pieces that were touched last, as many as fit."""

    def __init__(self, size: float) -> None:
        self.size, self.used = size, 0
        self.kept: OrderedDict[Key, int] = OrderedDict()

    def touch(self, key: Key, size: int) -> bool:
        """Whether it was there."""
        before = self.kept.pop(key, 0)
        self.kept[key] = max(before, size)
        self.used += self.kept[key] - before
        while self.used > self.size:
            self.used -= self.kept.popitem(last=False)[1]
        return before > 0


def pieces(moved: Moved, trial: int, trials: int) -> Iterator[tuple[Key, int]]:
    """What one of `trials` touches, in order, with bytes of each piece."""
    tensor, size = moved.tensor, moved.bytes // trials
    first = int(tensor.storage_offset()) * tensor.element_size()
    at = first
    while at < first + size:
        upto = min((at // PIECE + 1) * PIECE, first + size)
        yield (trial, tensor.untyped_storage()._cdata, at // PIECE), upto - at
        at = upto


def predicted(launches: Sequence[Launch], machine: Machine, built: int, trials: int) -> list[Predicted]:
    """Of `trials`, from the launches of `built`: after one update has filled the cache, another."""
    cache = Cache(machine.l2)
    for _ in range(2):
        found = [_one(launch, cache, machine, built, trials) for launch in launches]
    return found


def _one(launch: Launch, cache: Cache, machine: Machine, built: int, trials: int) -> Predicted:
    moved, memory = (*launch.read, *launch.written), 0
    for trial in range(trials):
        for together in zip_longest(*(pieces(one, trial, built) for one in moved)):
            memory += sum(piece[1] for piece in together if piece and not cache.touch(*piece))
    asked = sum(one.asked for one in moved) * trials / built
    operations = launch.operations * trials / built
    parts = {
        "memory": memory / machine.bandwidth,
        "L2": asked / machine.l2_bandwidth,
        "arithmetic": operations / machine.rate,
    }
    return Predicted(launch, memory, asked, operations, parts, machine.launch + max(parts.values()))


def without_memory(model: str, batch: int, tiles: Tiles, dtype: torch.dtype = torch.bfloat16) -> FusedTrials:
    """One trial as it is cut for a GPU; its tensors have sizes and no bytes."""
    meta = torch.device("meta")
    images = torch.zeros(2 * batch, 32, 32, 3, dtype=torch.uint8, device=meta)
    labels, channel = torch.zeros(2 * batch, dtype=torch.int64, device=meta), torch.zeros(3, device=meta)
    data = DeviceData(images, labels, images, labels, channel, channel)
    network = build_network(model, NetworkConfig(3, 10, 0.1, 1e-5), 0)
    return FusedTrials(network, data, Constants(batch, 4, 0.9, True, 2e-4, dtype), 1, tiles)


def row_of(model: str, one: FusedTrials, machine: Machine, trials: int) -> dict[str, object]:
    found = predicted(one.launches, machine, 1, trials)
    whole = sum(each.microseconds for each in found)
    single, in_sum = TARGETS[model]
    longest = [max(each.parts, key=lambda part: each.parts[part]) for each in found]
    return {
        "model": model,
        "trials": trials,
        "kernels": len(found),
        "gigaflops": round(sum(each.operations for each in found) / 1e9, 1),
        "megabytes": round(sum(each.launch.reads + each.launch.writes for each in found) * trials / 1e6),
        "megabytes_from_memory": round(sum(each.memory for each in found) / 1e6),
        "megabytes_asked_of_l2": round(sum(each.asked for each in found) / 1e6),
        "us_to_start": round(machine.launch * len(found)),
        **{
            f"us_by_{part.lower()}": round(
                sum(each.parts[part] for each, by in zip(found, longest, strict=True) if by == part)
            )
            for part in ("memory", "L2", "arithmetic")
        },
        "us": round(whole),
        "iterations_per_second": round(trials * 1e6 / whole),
        "target": single if trials == 1 else in_sum,
    }


def add_machine(parser: argparse.ArgumentParser) -> None:
    """What a machine does, as measured; the defaults are an H100's."""
    parser.add_argument("--bandwidth", type=float, default=3.0, help="of memory: terabytes a second, by a copy")
    parser.add_argument("--l2-bandwidth", type=float, default=3.8, help="of L2: the same, by a copy that stays in it")
    parser.add_argument("--rate", type=float, default=727, help="teraflops a second, by a matrix product")
    parser.add_argument("--l2", type=float, default=50, help="megabytes")
    parser.add_argument("--counted", type=float, default=0.6, help="share of it that counts")
    parser.add_argument("--launch-us", type=float, default=1.0, help="an empty kernel in a graph")


def machine_of(arguments: argparse.Namespace) -> Machine:
    return Machine(
        arguments.bandwidth * 1e6,
        arguments.l2_bandwidth * 1e6,
        arguments.rate * 1e6,
        arguments.l2 * arguments.counted * 1e6,
        arguments.launch_us,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_machine(parser)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--trials", nargs="+", type=int, default=TRIALS)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--ahead", choices=AHEAD, default="some")
    parser.add_argument("--fold", action="store_true", help="norms made where their one reader loads them")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    machine, rows = machine_of(arguments), []
    for model in arguments.models:
        one = without_memory(model, arguments.batch, replace(AHEAD[arguments.ahead], fold=arguments.fold))
        for trials in arguments.trials:
            rows.append(row_of(model, one, machine, trials))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
