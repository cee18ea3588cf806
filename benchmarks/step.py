"""Updates by kernels of our own on a GPU: whether they are right, how fast, and what cutting them otherwise would do.

    python benchmarks/step.py --device cuda --output step.jsonl

Checks of each network: an update against PyTorch's, in bf16 and fp32; a trial alone and among others, and two runs from
one start, make the same bytes; masked weights stay 0. Speeds: iterations per second of all trials in sum, beside
`today`, the graph that training takes otherwise; both masked, alternating, medians and ranges. Variants of `Tiles`, in
order of what was hoped for, beside the usual ones. Last `plain` and `sensible` of throughput.py, for the first network.

Each group of measurements is a process, for one that reads where it must not spoils its GPU for itself. It compiles at
once, beside the others, and measures when it is its turn: nothing is measured beside another. Every result is a line
of --output when it is there. What --seconds are too few for, and what fails, is a line too. A summary is printed last.
The exit status is 1 when a check failed or could not be made, or a network could not be measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from throughput import contenders, first_line, options

TRIALS = {"resnet56": (1, 4), "resnet110": (1, 2), "wrn16_8": (1, 2)}  # at once, but for the first network
MODELS = ("resnet20", "resnet56", "resnet110", "wrn16_8")
UNCHECKED = ("resnet110",)  # whose kernels are those of ResNet-56
# Changes of `Tiles`, and how many trials they are measured with.
VARIANTS: dict[str, tuple[tuple[int, ...], dict[str, dict[str, Any]]]] = {
    "resnet20": (
        (1, 8),
        {
            "early": {"early": True},
            "fold": {"fold": True},
            "none ahead": {"stages": 1},
            "none ahead, fold": {"stages": 1, "fold": True},
            "all ahead": {"crowd": 10**6},
            "none ahead, early": {"stages": 1, "early": True},
            "apart": {"side_by_side": False},
            "share 512": {"share": 512},
            "share 2048": {"share": 2048},
            "least_rows 32": {"least_rows": 32},
            "least_rows 128": {"least_rows": 128},
            "rows 128": {"rows": 128},
            "stages 2": {"stages": 2},
            "stages 4": {"stages": 4},
            "elements 8192": {"elements": 8192},
        },
    ),
    "wrn16_8": (
        (1,),
        {
            "fold": {"fold": True},
            "early": {"early": True},
            "wide 256, area 32768": {"wide": 256, "area": 32768, "rows": 128},
            "area 32768": {"area": 32768},
            "wide 64": {"wide": 64},
            "area 8192": {"area": 8192},
            "apart": {"side_by_side": False},
            "stages 4": {"stages": 4},
        },
    ),
}
BETWEEN = ("wrn16_8",)  # also measured with PyTorch's convolutions between norms of our own
ROUNDS, LOOP_ROUNDS = 5, 3
ROUND_SECONDS = 0.15
MOST = 90  # seconds of a group once it is its turn, on a GPU
LEAST = 3  # seconds: with less left no measurement is begun
Line = dict[str, Any]
Write = Callable[[Line], None]


@dataclass(frozen=True)
class Group:
    """What one process measures."""

    kind: str
    model: str
    variant: str = ""

    @property
    def name(self) -> str:
        return ":".join(filter(None, (self.kind, self.model, self.variant)))

    @classmethod
    def called(cls, name: str) -> "Group":
        return cls(*name.split(":"))


def groups(arguments: argparse.Namespace) -> list[Group]:
    """In order: what is trained in, then the other arithmetic, then variants of all networks in turn."""
    models, cuda = arguments.models, arguments.device != "cpu"
    checked = [model for model in models if model not in UNCHECKED]
    found = []
    for model in models:
        found += [Group("check", model, "bf16" if cuda else arguments.precision)] if model in checked else []
        found += [Group("speed", model)]
    found += [Group("check", model, "fp32") for model in checked] if cuda else []
    variants = []
    for model in models:
        names = list(VARIANTS.get(model, ((), {}))[1])[: arguments.variants]
        variants += [(place / len(names), Group("variant", model, name)) for place, name in enumerate(names)]
    found += [group for _, group in sorted(variants, key=lambda one: one[0])]
    return found + ([Group("loops", models[0])] if arguments.loops else [])


# In the process of a group


class Measured:
    """A group: `prepare` compiles and starts nothing, `measure` writes lines until the time is over."""

    def __init__(self, group: Group, arguments: argparse.Namespace) -> None:
        from several import Given

        from rewindctl.datasets import load_dataset
        from rewindctl.datasets.batches import DeviceData
        from rewindctl.training.device import resolve_device

        self.group, self.arguments = group, arguments
        self.device, data = resolve_device(arguments.device), load_dataset(arguments.dataset)
        on_device = DeviceData.upload(data, self.device)
        precision = group.variant if group.kind == "check" else arguments.precision
        given = Given(group.model, data, on_device, precision, True, arguments.batch)
        self.given = replace(given, precision=given.settings(0).precision)
        self.cuda = self.device.type == "cuda"
        self.until = float("inf")

    def prepare(self) -> None:
        from own_kernels import Together

        if self.group.kind != "loops":
            for tiles in {None, self.tiles()}:
                Together(self.given, [0], tiles).compile()

    def tiles(self) -> Any:
        """None for the usual ones."""
        from rewindctl.fused.tiles import Tiles
        from rewindctl.training.fused_step import DTYPES

        if self.group.kind != "variant":
            return None
        usual = Tiles.usual(self.device, DTYPES[self.given.precision])
        return replace(usual, **VARIANTS[self.group.model][1][self.group.variant])

    def measure(self, write: Write) -> None:
        {"check": self._check, "speed": self._speed, "variant": self._variant, "loops": self._loops}[self.group.kind](
            write
        )

    def _over(self, what: str, write: Write) -> bool:
        if time.time() < self.until - LEAST:
            return False
        write({"kind": "not done", "what": what})
        return True

    def _check(self, write: Write) -> None:
        checks: dict[str, Callable[[Any], str]] = {"as PyTorch": _disagrees, "same bytes": _other_bytes}
        for name, check in checks.items():
            if self._over(name, write):
                continue
            try:
                why = check(self.given)
            except Exception as error:
                why = first_line(error)
            line = {"kind": "check", "model": self.group.model, "precision": self.given.precision, "check": name}
            write(line | {"passed": not why, "why": why})

    def _speed(self, write: Write) -> None:
        from floor import TARGETS

        counts = (
            self.arguments.trials
            if self.group.model == self.arguments.models[0]
            else TRIALS.get(self.group.model, (1,))
        )
        today = Updates(lambda: _stepper(self.given))
        for count in counts:
            if self._over(f"{count} trials", write):
                continue
            row = self._pair(self._own(count), today, count, "today")
            single, in_sum = TARGETS.get(self.group.model, (None, None))
            write({"kind": "speed", "trials": count, **row, "target": single if count == 1 else in_sum})
        if self.group.model in BETWEEN and not self._over("the library's convolutions", write):
            row = self._pair(Updates(lambda: _stepper(self.given, own_norms=True)), self._own(1), 1, "usual")
            write({"kind": "variant", "variant": "cuDNN between own norms", "trials": 1, **row})

    def _variant(self, write: Write) -> None:
        for count in VARIANTS[self.group.model][0]:
            if not self._over(f"{count} trials", write):
                row = self._pair(self._own(count, self.tiles()), self._own(count), count, "usual")
                write({"kind": "variant", "variant": self.group.variant, "trials": count, **row})

    def _own(self, count: int, tiles: Any = None) -> "Updates":
        from own_kernels import Together

        return Updates(lambda: Together(self.given, range(count), tiles).update)

    def _pair(self, one: "Updates", other: "Updates", count: int, name: str) -> Line:
        """Alternating; updates of `count` trials at once against what is called `name`."""
        line = {"model": self.group.model, "precision": self.given.precision, "failed": ""}
        several, rounds = (count, min(3, self.arguments.rounds)) if name == "usual" else (1, self.arguments.rounds)
        speeds: tuple[list[float], list[float]] = ([], [])
        try:
            for number in range(rounds):
                for place in (0, 1) if number % 2 == 0 else (1, 0):
                    speeds[place].append((count, several)[place] * (one, other)[place].speed(self.cuda))
        except Exception as error:
            line["failed"] = first_line(error)
        return line | summed(speeds[0], "") | summed(speeds[1], f"{name}_") | {"ratio": _ratio(*speeds)}

    def _loops(self, write: Write) -> None:
        found = contenders(self.group.model, self.arguments.dataset, self.device, True)
        loops = {name: found[name] for name in ("plain", "sensible")}
        for number in range(min(LOOP_ROUNDS, self.arguments.rounds)):
            for name in sorted(loops, reverse=number % 2 == 1):
                if self._over(f"{name}, round {number + 1}", write):
                    return
                loops[name].measure(10 if self.cuda else 2, self.device)
        for name, loop in loops.items():
            line = {"kind": "loop", "model": self.group.model, "loop": name, "failed": loop.failed}
            write(line | summed(loop.speeds, ""))


class Updates:
    """Made when first measured; then rounds of about the same time."""

    def __init__(self, make: Callable[[], Callable[[int], None]]) -> None:
        self.make = make
        self.update: Callable[[int], None] | None = None
        self.count = 1

    def speed(self, cuda: bool) -> float:
        """Updates a second."""
        if self.update is None:
            self.update = self.make()
            self.update(3 if cuda else 1)
            if cuda:
                self.count = max(1, int(ROUND_SECONDS * 10 / self._seconds(10)))
        return self.count / self._seconds(self.count)

    def _seconds(self, count: int) -> float:
        assert self.update is not None
        began = time.perf_counter()
        self.update(count)
        return time.perf_counter() - began


def _stepper(given: Any, own_norms: bool = False) -> Callable[[int], None]:
    from throughput import wait_for

    from rewindctl.training.fused_step import NormStepper
    from rewindctl.training.step import Stepper

    stepper, number = given.trial(0, make=NormStepper if own_norms else Stepper), iter(range(10**9))

    def update(count: int) -> None:
        for _ in range(count):
            stepper.update(next(number))
        wait_for(stepper.device)

    return update


def _disagrees(given: Any) -> str:
    from several import mask_of

    from rewindctl.rewinding.checkpoints import TrainState
    from rewindctl.training.agreement import disagreement
    from rewindctl.training.fused_step import FusedStepper

    network = given.network(0)
    start = TrainState.initial(network)
    return disagreement(FusedStepper, network, given.on_device, given.settings(0), start, mask_of(network, 0))


def _other_bytes(given: Any) -> str:
    """A trial among others against the same alone, against itself again, and its masked weights."""
    import torch
    from own_kernels import Together
    from several import mask_of

    cuda = given.on_device.device.type == "cuda"
    seeds, updates = (range(3), 20) if cuda else (range(2), 1)
    together = Together(given, seeds)
    together.update(updates)
    first = together.bytes_of(1)
    parameters, momenta = together.trials.parameters_of(1), together.trials.momentum_of(1)
    for name, kept in mask_of(given.network(1), 1).tensors().items():
        gone = ~kept.bool().to(given.on_device.device)
        if parameters[name][gone].any() or momenta[name][gone].any():
            return f"masked weights of {name} are not 0"
    if not all(bool(tensor.isfinite().all()) for tensor in first):
        return "not every value is finite"
    together.begin()
    together.update(updates)
    if not all(map(torch.equal, first, together.bytes_of(1))):
        return "a second run from the same start makes other bytes"
    alone = Together(given, seeds[1:2])
    alone.update(updates)
    if not all(map(torch.equal, first, alone.bytes_of(0))):
        return f"a trial makes other bytes alone than among {len(seeds)}"
    return ""


def summed(speeds: Sequence[float], name: str) -> Line:
    found = [round(value, 2) for value in speeds]
    return {
        f"{name}iterations_per_second": round(statistics.median(found), 1) if found else None,
        f"{name}range": [min(found), max(found)] if found else None,
    }


def _ratio(one: Sequence[float], other: Sequence[float]) -> float | None:
    found = [value / beside for value, beside in zip(one, other, strict=False)]
    return round(statistics.median(found), 3) if found else None


def measure_group(group: Group, arguments: argparse.Namespace) -> None:
    """Prepare, wait to be told until when, measure."""
    from rewindctl.training.kernels import reproducible

    with tempfile.TemporaryDirectory() as folder, arguments.output.open("a") as file:
        os.environ["XDG_STATE_HOME"] = folder  # an older comparison of the kernels would be taken as it is

        def write(line: Line) -> None:
            line = {"group": group.name, **line}
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(said(line), flush=True)

        try:
            measured = Measured(group, arguments)
            with reproducible(measured.device, deterministic=True):
                measured.prepare()
                if until := sys.stdin.readline():  # nothing where the first process has ended
                    measured.until = float(until)
                    measured.measure(write)
        except Exception as error:
            write({"kind": "failed", "why": first_line(error)})


# In the first process


class Queue:
    """Processes of the groups in order: as many at once as there are processors, one of them measuring."""

    def __init__(self, order: Sequence[Group], arguments: argparse.Namespace) -> None:
        self.waiting, self.arguments = list(order), arguments
        self.started: list[tuple[Group, subprocess.Popen[str]]] = []
        self.end = time.time() + arguments.seconds

    def run(self) -> None:
        self._start()
        while self.started:
            group, process = self.started.pop(0)
            left = self.end - time.time()
            if left < LEAST:
                process.kill()
                process.wait()
                self._write({"group": group.name, "kind": "not done", "what": "all of it"})
            else:
                self._measure(group, process, min(left, MOST) if self.arguments.device != "cpu" else left)
            self._start()

    def _start(self) -> None:
        jobs = self.arguments.jobs or (1 if self.arguments.device == "cpu" else os.cpu_count() or 1)
        while self.waiting and len(self.started) < jobs:
            group = self.waiting.pop(0)
            command = [sys.executable, __file__, *sys.argv[1:], "--only", group.name]
            self.started.append((group, subprocess.Popen(command, stdin=subprocess.PIPE, text=True)))

    def _measure(self, group: Group, process: "subprocess.Popen[str]", most: float) -> None:
        try:
            process.communicate(f"{time.time() + most}\n", timeout=most)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self._write({"group": group.name, "kind": "not done", "what": f"the rest, stopped after {most:.0f} s"})
            return
        if process.returncode:
            why = f"its process ended with {process.returncode}"
            self._write({"group": group.name, "kind": "failed", "why": why})

    def _write(self, line: Line) -> None:
        with self.arguments.output.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(said(line), flush=True)


def said(line: Line) -> str:
    """A line of results in words."""
    kind = line["kind"]
    if kind in ("failed", "not done"):
        return f"{line['group']}: {kind.upper()}: {line.get('why') or line.get('what')}"
    if kind == "check":
        verdict = "PASS" if line["passed"] else f"FAIL: {line['why']}"
        return f"{line['model']}, {line['precision']}, {line['check']}: {verdict}"
    speed = f"{line['iterations_per_second']} it/s {line['range']}"
    speed += f"  FAILED: {line['failed']}" if line["failed"] else ""
    if kind == "loop":
        return f"{line['model']}, {line['loop']}: {speed}"
    if kind == "variant":
        usual = f"x{line['ratio']} of the usual {line['usual_iterations_per_second']}"
        return f"{line['model']}, {line['variant']}, {line['trials']} at once: {speed}, {usual}"
    today = f"x{line['ratio']} of today's {line['today_iterations_per_second']}"
    return f"{line['model']}, {line['trials']} at once: {speed}, wanted {line['target']}, {today}"


def summary(lines: Sequence[Line]) -> Iterator[str]:
    """Checks and speeds, then variants by what they gain, then what there is not."""
    order = ("check", "speed", "loop", "variant", "failed", "not done")
    for kind in order:
        chosen = [line for line in lines if line["kind"] == kind]
        if kind == "variant":
            chosen.sort(key=lambda line: (line["model"], line["trials"], -(line["ratio"] or 0)))
        yield from ([f"== {kind}"] if chosen else [])
        yield from map(said, chosen)


def wrong(lines: Sequence[Line]) -> bool:
    """Whether a check failed, or a check or a speed could not be had. A variant may fail."""
    return any(
        (line["kind"] == "check" and not line["passed"])
        or (line["kind"] == "speed" and line["failed"])
        or (line["kind"] == "failed" and Group.called(line["group"]).kind in ("check", "speed"))
        or (line["kind"] == "not done" and Group.called(line["group"]).kind == "check")
        for line in lines
    )


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--trials", nargs="+", type=int, default=(1, 2, 4, 8, 16, 32), help="of the first network")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", type=int, help="images; the recipe's, if not given")
    parser.add_argument("--seconds", type=float, default=150, help="for all; what they are too few for is said")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--variants", type=int, default=99, help="the first so many of each network")
    parser.add_argument("--loops", action=argparse.BooleanOptionalAction, default=True, help="plain and sensible")
    parser.add_argument("--jobs", type=int, help="processes at once, compiling but for one; the processors, on a GPU")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.output = arguments.output or Path("step.jsonl")
    if arguments.only:
        measure_group(Group.called(arguments.only), arguments)
        return
    arguments.output.write_text("")
    Queue(groups(arguments), arguments).run()
    lines = [json.loads(line) for line in arguments.output.read_text().splitlines()]
    print("\n".join(summary(lines)))
    if wrong(lines):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
