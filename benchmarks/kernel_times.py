"""What one update starts on the device and how long that takes, by PyTorch's profiler.

    python benchmarks/kernel_times.py --model resnet20 --dataset cifar10 --device cuda --output kernel_times.json

On CUDA these are the kernels of a replayed graph, on a CPU the operations; of a masked trial, in the kernels that
training takes. --fill: with PyTorch's filling of new memory, its default where all is deterministic. `busy` is the sum
of the kernels' times, `wall` the time of an update without the profiler: the rest is waiting. --compiled: with both
passes joined by PyTorch's compiler.
One setting a process: a second session of the profiler may see nothing.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from several import Given
from throughput import options, wait_for, what
from torch.profiler import ProfilerActivity, profile

from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.training.device import resolve_device
from rewindctl.training.kernels import reproducible
from rewindctl.training.step import Stepper

WARM_UP = 5  # updates, the one that captures among them
KEPT, SHOWN = 40, 15  # kernels in the file and on the screen, those that take most time


@dataclass
class Started:
    """A kernel or operation: how often it was started, and its microseconds in sum."""

    name: str
    times: int = 0
    microseconds: float = 0.0


@contextmanager
def chosen(device: torch.device, deterministic: bool, fill: bool) -> Iterator[None]:
    with reproducible(device, deterministic):
        before = torch.utils.deterministic.fill_uninitialized_memory
        torch.utils.deterministic.fill_uninitialized_memory = fill
        try:
            yield
        finally:
            torch.utils.deterministic.fill_uninitialized_memory = before


def started_by(run: Callable[[], None], device: torch.device) -> list[Started]:
    """All that `run` starts, longest first."""
    cuda, found = device.type == "cuda", dict[str, Started]()
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiled:
        run()
    for event in profiled.events() or ():
        if event.device_type.name == device.type.upper() and (cuda or event.name.startswith("aten::")):
            one = found.setdefault(event.name, Started(event.name))
            one.times += 1
            one.microseconds += event.time_range.elapsed_us() if cuda else event.self_cpu_time_total
    return sorted(found.values(), key=lambda one: -one.microseconds)


def measured(stepper: Stepper, updates: int) -> dict[str, Any]:
    device, t = stepper.device, iter(range(10**9))

    def run(count: int = updates) -> None:
        for _ in range(count):
            stepper.update(next(t))
        wait_for(device)

    run(WARM_UP)
    began = time.perf_counter()
    run()
    wall = 1e6 * (time.perf_counter() - began) / updates
    found = started_by(run, device)
    return {
        "precision": stepper.settings.precision,
        "captured": stepper.captured,
        "why_eager": stepper.why_eager,
        "started_per_update": round(sum(one.times for one in found) / updates, 1),
        "busy_us_per_update": round(sum(one.microseconds for one in found) / updates, 1),
        "wall_us_per_update": round(wall, 1),
        "most": [
            {
                "name": one.name[:300],
                "per_update": round(one.times / updates, 2),
                "us_each": round(one.microseconds / one.times, 2),
                "us_per_update": round(one.microseconds / updates, 2),
            }
            for one in found[:KEPT]
        ],
    }


def lines_of(made: dict[str, Any]) -> Iterator[str]:
    yield ", ".join([made["what"], made["precision"], *(name for name in ("fill", "compiled") if made[name])])
    how = "graph" if made["captured"] else f"eager: {made['why_eager']}" if made["why_eager"] else "eager"
    busy, wall = made["busy_us_per_update"], made["wall_us_per_update"]
    yield f"{made['started_per_update']} started an update, busy {busy} us of {wall} us, {how}"
    for one in made["most"][:SHOWN]:
        count, each = one["per_update"], one["us_each"]
        yield f"{one['us_per_update']:>9} us = {count:>6} x {each:>8}  {one['name'][:80]}"


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--fill", action=argparse.BooleanOptionalAction, default=False, help="new memory, with NaN")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--updates", type=int, default=50)
    arguments = parser.parse_args()
    device, data = resolve_device(arguments.device), load_dataset(arguments.dataset)
    on_device = DeviceData.upload(data, device)
    given = Given(arguments.model, data, on_device, arguments.precision, arguments.deterministic)
    made: dict[str, Any] = {
        "what": what(arguments, device),
        "deterministic": arguments.deterministic,
        "fill": arguments.fill,
        "compiled": arguments.compiled,
    }
    with chosen(device, arguments.deterministic, arguments.fill):
        made |= measured(given.trials(1, arguments.compiled)[0], arguments.updates)
    print("\n".join(lines_of(made)))
    if arguments.output:
        arguments.output.write_text(json.dumps(made, indent=1) + "\n")
    if not made["most"]:
        raise SystemExit("the profiler saw nothing")


if __name__ == "__main__":
    main()
