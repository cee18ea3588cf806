"""Several trials of one network at once in one process, two ways against one after the other, interleaved in one run.

    python benchmarks/several.py --model resnet20 --dataset cifar10 --device cuda --trials 1 2 4 8

`in turn` gives each trial an update after the other; `streams` is what `--jobs` does on a GPU: a thread and a stream
for each; `stacked` has the weights of all in tensors of one dimension more: one call (`torch.func.vmap`) updates all.
On CUDA each is captured in graphs. Trials differ in seed, batches and mask; `apart` is how far the weights of `stacked`
are from those of `in turn` after 3 updates of all, the largest difference of any. Prints iterations per second in sum,
whether the updates were graphs, and whether the weights of `streams` ended as those of `in turn`, byte for byte.
All run as a training does: deterministic, unless --no-deterministic. A way that fails keeps the numbers it has, says
so, and makes the exit status 1.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from throughput import compared, first_line, options, wait_for, what
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from rewindctl.datasets import Dataset, load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.models import Network, build_network, kernels
from rewindctl.models.network import NetworkConfig
from rewindctl.pipeline.requests import dense_spec
from rewindctl.pipeline.train_run import dense_settings
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.device import resolve_device
from rewindctl.training.graph import captured
from rewindctl.training.kernels import reproducible
from rewindctl.training.precision import choose_for
from rewindctl.training.records import TrainSettings
from rewindctl.training.step import Stepper

COMPARED = 3  # updates after which the weights of both ways are compared
KEPT = 0.107  # share of the weights of a kernel: 9.35x


@dataclass(frozen=True)
class Given:
    """What every trial is made of."""

    model: str
    data: Dataset
    on_device: DeviceData
    precision: str
    deterministic: bool = True
    batch: int | None = None  # that of the recipe, if not given

    def trials(self, count: int, compiled: bool = False) -> list[Stepper]:
        return [self.trial(seed, partial(Stepper, compiled=compiled)) for seed in range(count)]

    def trial(self, seed: int, make: Callable[..., Stepper] = Stepper) -> Stepper:
        network = self.network(seed)
        start, mask = TrainState.initial(network), mask_of(network, seed)
        return make(network, self.on_device, self.settings(seed), start, mask)

    def network(self, seed: int) -> Network:
        spec = dense_spec(self.model, self.data, seed)
        config = NetworkConfig(self.data.channels, self.data.classes, spec.norm_momentum, spec.norm_epsilon)
        return build_network(self.model, config, seed)

    def settings(self, seed: int) -> TrainSettings:
        spec = dense_spec(self.model, self.data, seed, batch_size=self.batch)
        batch = (spec.batch_size, self.data.channels, *self.data.image_size)
        chosen = choose_for(self.precision, self.on_device.device, self.network(seed), batch).precision
        return replace(
            dense_settings(spec), precision=chosen, constant_lr=0.01, seed=seed, deterministic=self.deterministic
        )


def mask_of(network: Network, seed: int) -> Mask:
    draw = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(kernel.shape, generator=draw) < KEPT for name, kernel in kernels(network).items()})


class Stacked:
    """All trials in one: weights, momentum and masks (trials, ...); `steppers` lend their settings and batches."""

    def __init__(self, steppers: Sequence[Stepper]) -> None:
        self.steppers, first = steppers, steppers[0]
        self.network, self.settings, self.device = first.network, first.settings, first.device
        networks = [stepper.network for stepper in steppers]
        self.parameters, self.buffers = stack_module_state(networks)
        self.optimizer = torch.optim.SGD(
            self.parameters.values(),
            lr=first.rate,
            momentum=self.settings.momentum,
            nesterov=self.settings.nesterov,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        for parameter in self.parameters.values():
            self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.masked = [self.parameters[name] for name in first.kept]
        self.kept = [torch.stack([stepper.kept[name] for stepper in steppers]) for name in first.kept]
        self._run: Callable[[], None] | None = None

    def update(self, t: int) -> None:
        for stepper in self.steppers:
            stepper.stream.seek(t)
        if self._run is None:
            self._run = self._captured() if self.device.type == "cuda" else self._step
        self._run()

    def _captured(self) -> Callable[[], None]:
        momentum = [state["momentum_buffer"] for state in self.optimizer.state.values()]
        places = [stepper.stream.index for stepper in self.steppers]
        changed = [*self.parameters.values(), *self.buffers.values(), *momentum, *places]
        return captured(self._step, changed, self.device)

    def _step(self) -> None:
        images, labels = zip(*(stepper.stream.take() for stepper in self.steppers), strict=True)
        with torch.autocast(self.device.type, torch.bfloat16, self.settings.precision == "bf16", cache_enabled=False):
            logits = vmap(self._logits)(self.parameters, self.buffers, torch.stack(images))
        losses = [cross_entropy(one.float(), wanted) for one, wanted in zip(logits, labels, strict=True)]
        torch.stack(losses).sum().backward()
        torch._foreach_mul_([p.grad for p in self.masked if p.grad is not None], self.kept)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _logits(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.network, (parameters, buffers), (images,))
        return logits


def in_turn(steppers: Sequence[Stepper]) -> Callable[[int, int], None]:
    def updates(first: int, count: int) -> None:
        for t in range(first, first + count):
            for stepper in steppers:
                stepper.update(t)

    return updates


def streams(steppers: Sequence[Stepper]) -> Callable[[int, int], None]:
    device = steppers[0].device
    lanes = [torch.cuda.Stream(device) if device.type == "cuda" else None for _ in steppers]

    def one(stepper: Stepper, lane: torch.cuda.Stream | None, first: int, count: int) -> None:
        here = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        with here, torch.cuda.stream(lane):  # both are a thread's own
            for t in range(first, first + count):
                stepper.update(t)

    def updates(first: int, count: int) -> None:
        wait_for(device)
        with ThreadPoolExecutor(len(steppers)) as pool:
            started = [pool.submit(one, *pair, first, count) for pair in zip(steppers, lanes, strict=True)]
        for thread in started:
            thread.result()  # raises what the thread raised

    return updates


def stacked(steppers: Sequence[Stepper]) -> Callable[[int, int], None]:
    all_of_them = Stacked(steppers)

    def updates(first: int, count: int) -> None:
        for t in range(first, first + count):
            all_of_them.update(t)

    return updates


def apart(given: Given, count: int) -> float:
    """The largest difference of any weight between `stacked` and `in turn` after a few updates."""
    one, other = given.trials(count), given.trials(count)
    together = Stacked(other)
    for t in range(COMPARED):
        together.update(t)
    in_turn(one)(0, COMPARED)
    differences = [
        (together.parameters[name][number] - parameter).detach().abs().max()
        for number, stepper in enumerate(one)
        for name, parameter in stepper.parameters.items()
    ]
    return float(torch.stack(differences).max())


WAYS = {"in turn": in_turn, "streams": streams, "stacked": stacked}


@dataclass
class Way:
    """One way of updating several trials, and what was measured of it."""

    make: Callable[[Sequence[Stepper]], Callable[[int, int], None]]
    speeds: list[float] = field(default_factory=list)
    trials: list[Stepper] = field(default_factory=list)
    done: int = 0
    failed: str = ""
    _updates: Callable[[int, int], None] | None = None

    def measure(self, given: Given, count: int, iterations: int) -> None:
        """One round more; none after a failure."""
        if self.failed:
            return
        try:
            with reproducible(given.on_device.device, given.deterministic):
                self.speeds.append(self._speed(given, count, iterations))
        except Exception as error:
            self.failed = first_line(error)

    def _speed(self, given: Given, count: int, iterations: int) -> float:
        if self._updates is None:
            self.trials = given.trials(count)
            self._updates = self.make(self.trials)
        device, began = given.on_device.device, time.perf_counter()
        self._updates(self.done, iterations)
        wait_for(device)
        self.done += iterations
        return count * iterations / (time.perf_counter() - began)

    def same_as(self, other: "Way") -> bool | None:
        """Whether the weights are the same bytes, None where that is no question or not all updates were made."""
        if self is other or self.make is stacked or self.failed or self.done != other.done:
            return None
        pairs = zip(self.trials, other.trials, strict=True)
        return all(torch.equal(p, one.parameters[n]) for two, one in pairs for n, p in two.parameters.items())

    def row(self, in_turn: "Way") -> dict[str, object]:
        return {
            **compared(self.speeds[1:], "in_turn", in_turn.speeds[1:]),
            "captured": self.captured(),
            "why_eager": next((one.why_eager for one in self.trials if one.why_eager), ""),
            "same_weights": self.same_as(in_turn),
            "failed": self.failed,
        }

    def captured(self) -> bool:
        """`stacked` has a graph of its own, or fails."""
        if self.make is stacked:
            return bool(self.speeds) and self.trials[0].device.type == "cuda"
        return bool(self.trials) and all(one.captured for one in self.trials)


def measure(given: Given, count: int, iterations: int, rounds: int) -> list[dict[str, object]]:
    """A row for each way: iterations per second of `count` trials in sum, and against `in turn`."""
    ways = {name: Way(make) for name, make in WAYS.items()}
    for number in range(-1, rounds):  # the first round warms up
        for name in sorted(ways, reverse=number % 2 == 1):  # the order alternates, or the first would be favoured
            ways[name].measure(given, count, iterations)
    return [{"trials": count, "way": name} | way.row(ways["in turn"]) for name, way in ways.items()]


def line_of(row: dict[str, object]) -> str:
    line = f"{row['trials']:>2} trials  {row['way']:8} {row['iterations_per_second']!s:>10} it/s"
    line += f"   x{row['ratio_to_in_turn']}  {row['ratio_range']}  {'graph' if row['captured'] else 'eager'}"
    line += f": {row['why_eager']}" if row["why_eager"] else ""
    if row["same_weights"] is not None:
        line += ", the same bytes" if row["same_weights"] else ", OTHER BYTES than in turn"
    return line + (f"  FAILED after {row['rounds']} rounds: {row['failed']}" if row["failed"] else "")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--trials", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--iterations", type=int, default=10, help="of each trial, way and round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    data = load_dataset(arguments.dataset)
    on_device = DeviceData.upload(data, device)
    given = Given(arguments.model, data, on_device, arguments.precision, arguments.deterministic)
    head = what(arguments, device)
    made: dict[str, Any] = {"what": head, "deterministic": arguments.deterministic, "rows": []}
    print(head)
    made["apart"] = said_apart(replace(given, precision="fp32"))
    for count in arguments.trials:
        made["rows"] += (rows := measure(given, count, arguments.iterations, arguments.rounds))
        print("\n".join(map(line_of, rows)))
        if arguments.output:
            arguments.output.write_text(json.dumps(made, indent=2) + "\n")
    failed = sorted({str(row["way"]) for row in made["rows"] if row["failed"]})
    failed += ["apart"] if isinstance(made["apart"], str) else []
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def said_apart(given: Given) -> float | str:
    """How far apart two stacked trials are; what failed, when they could not be made: the speeds are measured still."""
    try:
        with reproducible(given.on_device.device, given.deterministic):
            difference: float | str = apart(given, 2)
    except Exception as error:
        difference = f"FAILED: {first_line(error)}"
    said = difference if isinstance(difference, str) else f"{difference:.1e}"
    print(f"apart in fp32 after {COMPARED} updates: {said}")
    return difference


if __name__ == "__main__":
    main()
