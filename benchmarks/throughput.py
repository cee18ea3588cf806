"""Training speed: our loop against the loops a user would otherwise write, interleaved in one run.

    python benchmarks/throughput.py --model resnet20 --dataset cifar10 --rounds 5

Opponents are eager loops:
    plain      torchvision transforms in a DataLoader, everything at its defaults
    sensible   the same with workers, channels-last and, where it is fast, bf16 autocast
    in memory  channels-last float32 over batches that lie ready, neither drawn nor augmented: the least a loop must do
Ours are `fp32` and `auto` (what --precision auto chooses) and, on CUDA, `eager`: auto without the graph, and `free`:
auto with whatever kernels are fastest. The others run as a training does: deterministic, unless --no-deterministic.
--compiled adds auto with its passes joined by PyTorch's compiler. Of ours the seconds to the first update are told too.
Prints iterations per second and ratios to `plain`, median of the rounds; writes JSON with --output after each round.
A loop that fails keeps the numbers it has, says so, and makes the exit status 1.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from rewindctl.datasets import Dataset as OurDataset
from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.models import Network, build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.pipeline.requests import dense_spec
from rewindctl.pipeline.train_run import dense_settings
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.device import device_name, resolve_device
from rewindctl.training.kernels import reproducible
from rewindctl.training.precision import choose_for, missing_unit
from rewindctl.training.step import Stepper


class Images(Dataset[tuple[torch.Tensor, int]]):
    """A map-style data set with torchvision transforms, one image at a time."""

    def __init__(self, data: OurDataset, padding: int) -> None:
        from torchvision.transforms import v2

        self.images, self.labels = data.train_images, data.train_labels
        self.transform = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomHorizontalFlip(),
                v2.RandomCrop(data.train_images.shape[1], padding=padding, padding_mode="reflect"),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def endless(loader: "DataLoader[tuple[torch.Tensor, int]]") -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        yield from loader


def eager_step(
    network: Network,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    device: torch.device,
    decay: float,
    *,
    channels_last: bool = False,
    bf16: bool = False,
) -> Callable[[], None]:
    memory = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device).to(memory_format=memory).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=decay)

    def step() -> None:
        images, labels = next(batches)
        images = images.to(device=device, memory_format=memory, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()

    return step


def in_memory(data: DeviceData, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    ready = [
        (
            data.standardised(data.train_images[i * batch : (i + 1) * batch]),
            data.train_labels[i * batch : (i + 1) * batch],
        )
        for i in range(min(8, len(data.train_labels) // batch))
    ]
    while True:
        yield from ready


@dataclass
class Loop:
    """A contender: what makes its update, and what was measured of it. `deterministic`: None for another's loop."""

    make: Callable[[], Callable[[], None] | Stepper]
    deterministic: bool | None = None
    speeds: list[float] = field(default_factory=list)
    stepper: Stepper | None = None
    seconds_to_start: float = 0.0
    failed: str = ""
    _step: Callable[[], None] | None = None

    def measure(self, iterations: int, device: torch.device) -> None:
        """One round more; none after a failure."""
        if self.failed:
            return
        try:
            with self._kernels(device):
                self._step = self._step or self._made(device)
                self.speeds.append(speed(self._step, iterations, device))
        except Exception as error:
            self.failed = first_line(error)

    def _kernels(self, device: torch.device) -> AbstractContextManager[None]:
        return nullcontext() if self.deterministic is None else reproducible(device, self.deterministic)

    def _made(self, device: torch.device) -> Callable[[], None]:
        began, made = time.perf_counter(), self.make()
        if not isinstance(made, Stepper):
            return made
        stepper, counter = made, iter(range(1, 10**9))
        stepper.update(0)  # which compiles and captures
        wait_for(device)
        self.stepper, self.seconds_to_start = stepper, time.perf_counter() - began
        return lambda: stepper.update(next(counter))

    def row(self, name: str, plain: list[float]) -> dict[str, object]:
        row = {"loop": name, **compared(self.speeds, "plain", plain), "failed": self.failed}
        if self.stepper:
            row |= {"precision": self.stepper.settings.precision, "deterministic": self.deterministic}
            row |= {"captured": self.stepper.captured, "why_eager": self.stepper.why_eager}
            row |= {"seconds_to_start": round(self.seconds_to_start, 2)}
        return row


def compared(speeds: list[float], name: str, others: list[float]) -> dict[str, object]:
    """Median speed, and the ratio to another's over the rounds that both made."""
    ratios = [value / other for value, other in zip(speeds, others, strict=False)]
    return {
        "iterations_per_second": round(statistics.median(speeds), 2) if speeds else None,
        f"ratio_to_{name}": round(statistics.median(ratios), 3) if ratios else None,
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)] if ratios else None,
        "rounds": len(speeds),
    }


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def contenders(
    model: str, dataset: str, device: torch.device, deterministic: bool, compiled: bool = False
) -> dict[str, Loop]:
    data = load_dataset(dataset)
    spec = dense_spec(model, data, 0)
    config = NetworkConfig(data.channels, data.classes, spec.norm_momentum, spec.norm_epsilon)
    on_device = DeviceData.upload(data, device)
    cuda, decay = device.type == "cuda", spec.weight_decay

    def network() -> Network:
        return build_network(model, config, 0)

    def loader(**options: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        images = Images(data, spec.crop_padding)
        return endless(DataLoader(images, spec.batch_size, shuffle=True, drop_last=True, **options))

    def sensible() -> Callable[[], None]:
        workers = min(8, os.cpu_count() or 1)
        batches = loader(num_workers=workers, persistent_workers=True, pin_memory=cuda)
        bf16 = not missing_unit(device)
        return eager_step(network(), batches, device, decay, channels_last=True, bf16=bf16)

    def ready() -> Callable[[], None]:
        return eager_step(network(), in_memory(on_device, spec.batch_size), device, decay, channels_last=True)

    def ours(asked: str, deterministic: bool, capture: bool = True, compiled: bool = False) -> Loop:
        def make() -> Stepper:
            one, batch = network(), (spec.batch_size, data.channels, *data.image_size)
            precision = choose_for(asked, device, one, batch).precision
            settings = replace(dense_settings(spec), precision=precision, deterministic=deterministic)
            return Stepper(one, on_device, settings, TrainState.initial(one), None, capture, compiled)

        return Loop(make, deterministic)

    loops = {
        "plain": Loop(lambda: eager_step(network(), loader(), device, decay)),
        "sensible": Loop(sensible),
        "in memory": Loop(ready),
        "fp32": ours("fp32", deterministic),
        "auto": ours("auto", deterministic),
    }
    if cuda:
        loops |= {"eager": ours("auto", deterministic, capture=False), "free": ours("auto", deterministic=False)}
    return loops | ({"compiled": ours("auto", deterministic, compiled=True)} if compiled else {})


def speed(step: Callable[[], None], iterations: int, device: torch.device) -> float:
    step()
    wait_for(device)
    began = time.perf_counter()
    for _ in range(iterations):
        step()
    wait_for(device)
    return iterations / (time.perf_counter() - began)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def line_of(row: dict[str, object]) -> str:
    line = (
        f"{row['loop']:12} {row['iterations_per_second']!s:>10} it/s   x{row['ratio_to_plain']}  {row['ratio_range']}"
    )
    if "captured" in row:
        line += f"  {row['precision']}, {'graph' if row['captured'] else 'eager'} after {row['seconds_to_start']} s"
        line += "" if row["deterministic"] else ", not deterministic"
        line += f": {row['why_eager']}" if row["why_eager"] else ""
    return line + (f"  FAILED after {row['rounds']} rounds: {row['failed']}" if row["failed"] else "")


def options(description: str | None) -> argparse.ArgumentParser:
    """What every measurement of updates is asked."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--deterministic", action=argparse.BooleanOptionalAction, default=True, help="as train does")
    parser.add_argument("--output", type=Path)
    return parser


def what(arguments: argparse.Namespace, device: torch.device) -> str:
    return f"{arguments.model} on {arguments.dataset}, {device_name(device)}, torch {torch.__version__}"


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--compiled", action="store_true", help="also compiled: a minute or more before it starts")
    parser.add_argument("--iterations", type=int, default=10, help="per contender and round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    head = what(arguments, device)
    loops = contenders(arguments.model, arguments.dataset, device, arguments.deterministic, arguments.compiled)
    rows: list[dict[str, object]] = []
    for number in range(arguments.rounds):
        for name in sorted(loops, reverse=number % 2 == 1):  # the order alternates, or the first would be favoured
            loops[name].measure(arguments.iterations, device)
        rows = [loop.row(name, loops["plain"].speeds) for name, loop in loops.items()]
        if arguments.output:
            arguments.output.write_text(json.dumps({"what": head, "rows": rows}, indent=2) + "\n")
    print("\n".join([head, *map(line_of, rows)]))
    if failed := [name for name, loop in loops.items() if loop.failed]:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
