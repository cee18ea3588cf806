"""What one update starts on the device and how long that takes, by PyTorch's profiler.

    python benchmarks/kernel_times.py --model resnet20 --dataset cifar10 --device cuda --output kernel_times.json

On CUDA these are the kernels of a replayed graph, on a CPU the operations; of a masked trial, in the kernels that
training takes. --fill: with PyTorch's filling of new memory, its default where all is deterministic. `busy` is the sum
of the kernels' times, `wall` the time of an update without the profiler: the rest is waiting. --compiled: with both
passes joined by PyTorch's compiler.

--update-step fused: kernels of our own, of --trials at once; each beside what `floor.py` predicts (which counts its
start too), by kernel and shape. On a CPU each is interpreted and timed by itself (TRITON_INTERPRET=1): no speed.
One setting a process: a second session of the profiler may see nothing.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from floor import Machine, Predicted, add_machine, machine_of, predicted
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


def measured_own(given: Given, count: int, updates: int, machine: Machine) -> dict[str, Any]:
    """Of `count` trials by kernels of our own."""
    from own_kernels import Together

    together, device = Together(given, range(count)), given.on_device.device
    launches = together.trials.launches
    foreseen = predicted(launches, machine, count, count)
    if device.type == "cuda":
        together.update(WARM_UP)
    began = time.perf_counter()
    together.update(updates)
    wall = 1e6 * (time.perf_counter() - began) / updates
    if device.type == "cuda":
        names = [launch.kernel_name for launch in launches]
        matched, times = times_of(in_order(lambda: together.update(updates)), names)
    else:
        matched, times = True, [_timed(launch) for launch in launches]
    rows = by_shape(foreseen, times)
    return {
        "precision": given.settings(0).precision,
        "trials": count,
        "matched": matched,
        "kernels": len(launches),
        "busy_us": round(sum(times), 1),
        "predicted_us": round(sum(one.microseconds for one in foreseen), 1),
        "wall_us": round(wall, 1),
        "rows": rows,
    }


def in_order(run: Callable[[], None]) -> list[tuple[str, float]]:
    """Kernels by name with their microseconds, as they began."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
    events = [event for event in profiled.events() or () if event.device_type.name == "CUDA"]
    events.sort(key=lambda event: event.time_range.start)
    return [(event.name, event.time_range.elapsed_us()) for event in events]


def times_of(found: Sequence[tuple[str, float]], names: Sequence[str]) -> tuple[bool, list[float]]:
    """Microseconds of each launch of an update, the kernels of whole updates given; by name where they are others."""
    own = [one for one in found if one[0] in set(names)]
    updates, rest = divmod(len(own), len(names))
    if updates and not rest and [name for name, _ in own] == [*names] * updates:
        return True, [_mean([us for _, us in own[place :: len(names)]]) for place in range(len(names))]
    return False, [_mean([us for name, us in own if name == wanted]) for wanted in names]


def by_shape(foreseen: Sequence[Predicted], times: Sequence[float]) -> list[dict[str, Any]]:
    """Launches of the same code and grid together, those first that take most time."""
    groups: dict[tuple[Any, ...], list[tuple[Predicted, float]]] = {}
    for one, measured_us in zip(foreseen, times, strict=True):
        groups.setdefault((one.launch.code, one.launch.grid), []).append((one, measured_us))
    rows = []
    for group in groups.values():
        first, spent = group[0][0], _mean([us for _, us in group])
        wanted = _mean([one.microseconds for one, _ in group])
        launch = first.launch
        rows.append(
            {
                "kernel": launch.kernel_name,
                "first": launch.name,
                "times": len(group),
                "us": round(spent, 2),
                "predicted_us": round(wanted, 2),
                "ratio": round(spent / wanted, 2),
                "us_in_all": round(spent * len(group), 1),
                "by": max(first.parts, key=lambda part: first.parts[part]),
                "megabytes_from_memory": round(_mean([one.memory for one, _ in group]) / 1e6, 3),
                "megabytes_asked_of_l2": round(_mean([one.asked for one, _ in group]) / 1e6, 3),
                "grid": launch.grid,
                "warps": launch.warps,
                "shape": {name: value for name, value in launch.constants.items() if value is not False},
            }
        )
    return sorted(rows, key=lambda row: -float(row["us_in_all"]))  # type: ignore[arg-type]


def _timed(launch: Callable[[], None]) -> float:
    began = time.perf_counter()
    launch()
    return 1e6 * (time.perf_counter() - began)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def lines_of_own(made: dict[str, Any]) -> Iterator[str]:
    yield f"{made['what']}, {made['precision']}, {made['trials']} at once by kernels of our own"
    busy, foreseen, wall = made["busy_us"], made["predicted_us"], made["wall_us"]
    yield f"{made['kernels']} kernels, busy {busy} us of {wall} us an update, predicted {foreseen} us"
    if not made["matched"]:
        yield "the profiler saw other kernels than were started: times by name alone, the same for every shape"
    yield f"{'us in all':>10} {'times':>5} {'us':>8} {'predicted':>9} {'ratio':>6}  by          kernel"
    for row in made["rows"]:
        said = " ".join(f"{name}={value}" for name, value in row["shape"].items())
        yield (
            f"{row['us_in_all']:>10} {row['times']:>5} {row['us']:>8} {row['predicted_us']:>9} {row['ratio']:>6}  "
            f"{row['by']:11} {row['kernel']} {'x'.join(map(str, row['grid']))} {said}"
        )


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
    parser.add_argument("--update-step", choices=("pytorch", "fused"), default="pytorch")
    parser.add_argument("--trials", type=int, default=1, help="at once, of fused")
    parser.add_argument("--batch", type=int, help="images; the recipe's, if not given")
    add_machine(parser)
    arguments = parser.parse_args()
    device, data = resolve_device(arguments.device), load_dataset(arguments.dataset)
    on_device = DeviceData.upload(data, device)
    given = Given(arguments.model, data, on_device, arguments.precision, arguments.deterministic, arguments.batch)
    made: dict[str, Any] = {
        "what": what(arguments, device),
        "deterministic": arguments.deterministic,
        "fill": arguments.fill,
        "compiled": arguments.compiled,
    }
    if arguments.update_step == "fused":
        made = {"what": what(arguments, device)}
        with chosen(device, arguments.deterministic, arguments.fill):
            made |= measured_own(given, arguments.trials, arguments.updates, machine_of(arguments))
        print("\n".join(lines_of_own(made)))
        if arguments.output:
            arguments.output.write_text(json.dumps(made, indent=1) + "\n")
        return
    with chosen(device, arguments.deterministic, arguments.fill):
        made |= measured(given.trials(1, arguments.compiled)[0], arguments.updates)
    print("\n".join(lines_of(made)))
    if arguments.output:
        arguments.output.write_text(json.dumps(made, indent=1) + "\n")
    if not made["most"]:
        raise SystemExit("the profiler saw nothing")


if __name__ == "__main__":
    main()
