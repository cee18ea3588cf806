"""Several trials of one network at once in one process, two ways against one after the other, interleaved in one run.

    python benchmarks/several.py --model resnet20 --dataset cifar10 --device cuda --trials 1 2 4 8

`in turn` gives each trial an update after the other; `streams` is what `--jobs` does on a GPU: a thread and a stream
for each; `stacked` has the weights of all in tensors of one dimension more: one call (`torch.func.vmap`) updates all.
On CUDA each is captured in graphs. Trials differ in seed, batches and mask; `apart` is how far the weights of `stacked`
are from those of `in turn` after 3 updates of all, the largest difference of any. Prints iterations per second in sum.
"""

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from rewindctl.datasets import Dataset, load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.models import build_network, kernels
from rewindctl.models.network import NetworkConfig
from rewindctl.pipeline.requests import dense_spec
from rewindctl.pipeline.settings import dense_settings
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.device import device_name, resolve_device
from rewindctl.training.graph import captured
from rewindctl.training.precision import choose_for
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

    def trials(self, count: int, capture: bool = True) -> list[Stepper]:
        return [self._trial(seed, capture) for seed in range(count)]

    def _trial(self, seed: int, capture: bool) -> Stepper:
        spec = dense_spec(self.model, self.data, seed)
        config = NetworkConfig(self.data.channels, self.data.classes, spec.norm_momentum, spec.norm_epsilon)
        network = build_network(self.model, config, seed)
        batch = (spec.batch_size, self.data.channels, *self.data.image_size)
        chosen = choose_for(self.precision, self.on_device.device, network, batch).precision
        settings = replace(dense_settings(spec), precision=chosen, constant_lr=0.01, seed=seed)
        draw = torch.Generator().manual_seed(seed)
        kept = {name: torch.rand(kernel.shape, generator=draw) < KEPT for name, kernel in kernels(network).items()}
        return Stepper(network, self.on_device, settings, TrainState.initial(network), Mask(kept), capture)


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
        with torch.cuda.stream(lane):
            for t in range(first, first + count):
                stepper.update(t)

    def updates(first: int, count: int) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        pairs = zip(steppers, lanes, strict=True)
        threads = [threading.Thread(target=one, args=(*pair, first, count)) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

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


def measure(given: Given, count: int, iterations: int, rounds: int) -> list[dict[str, object]]:
    """A row for each way: iterations per second of `count` trials in sum, and against `in turn`."""
    device = given.on_device.device
    ways = {name: make(given.trials(count)) for name, make in WAYS.items()}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    done = dict.fromkeys(ways, 0)
    for number in range(-1, rounds):  # the first round warms up
        for name in sorted(ways, reverse=number % 2 == 1):  # the order alternates, or the first would be favoured
            began = time.perf_counter()
            ways[name](done[name], iterations)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            speeds[name].append(count * iterations / (time.perf_counter() - began))
            done[name] += iterations
    rows = []
    for name, values in speeds.items():
        ratios = [value / other for value, other in zip(values[1:], speeds["in turn"][1:], strict=True)]
        rows.append(
            {
                "trials": count,
                "way": name,
                "iterations_per_second": round(statistics.median(values[1:]), 2),
                "ratio_to_in_turn": round(statistics.median(ratios), 3),
                "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--trials", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--iterations", type=int, default=10, help="of each trial, way and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    data = load_dataset(arguments.dataset)
    given = Given(arguments.model, data, DeviceData.upload(data, device), arguments.precision)
    head = f"{arguments.model} on {arguments.dataset}, {device_name(device)}, torch {torch.__version__}"
    difference = apart(replace(given, precision="fp32"), 2)
    print(f"{head}\napart in fp32 after {COMPARED} updates: {difference:.1e}")
    rows = []
    for count in arguments.trials:
        for row in measure(given, count, arguments.iterations, arguments.rounds):
            rows.append(row)
            print(
                f"{row['trials']:>2} trials  {row['way']:8} {row['iterations_per_second']:>10} it/s"
                f"   x{row['ratio_to_in_turn']}  {row['ratio_range']}"
            )
    if arguments.output:
        made = {"what": head, "apart": difference, "rows": rows}
        arguments.output.write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
