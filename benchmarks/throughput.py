"""Training speed: our loop against the loops a user would otherwise write, interleaved in one run.

    python benchmarks/throughput.py --model resnet20 --dataset cifar10 --rounds 5

Opponents are eager loops:
    plain      torchvision transforms in a DataLoader, everything at its defaults
    sensible   the same with workers, channels-last and, where it is fast, bf16 autocast
    in memory  channels-last float32 over batches that lie ready, neither drawn nor augmented: the least a loop must do
Ours are `fp32` and `auto` (what --precision auto chooses) and, on CUDA, `eager`: auto without the graph.
Prints iterations per second and ratios to `plain`, median of the rounds; writes JSON with --output.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from rewindctl.datasets import Dataset as OurDataset
from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.models import Network, build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.pipeline.requests import dense_spec
from rewindctl.pipeline.settings import dense_settings
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.device import device_name, resolve_device
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
        yield from loader  # type: ignore[misc]


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


def contenders(model: str, dataset: str, device: torch.device) -> dict[str, Callable[[], None]]:
    data = load_dataset(dataset)
    spec = dense_spec(model, data, 0)
    config = NetworkConfig(data.channels, data.classes, spec.norm_momentum, spec.norm_epsilon)
    on_device = DeviceData.upload(data, device)
    images, cuda = Images(data, spec.crop_padding), device.type == "cuda"
    workers = min(8, os.cpu_count() or 1)
    plain = DataLoader(images, spec.batch_size, shuffle=True, drop_last=True)
    sensible = DataLoader(
        images,
        spec.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=cuda,
    )

    def network() -> Network:
        return build_network(model, config, 0)

    def ours(asked: str, capture: bool = True) -> Callable[[], None]:
        one, counter = network(), iter(range(10**9))
        batch = (spec.batch_size, data.channels, *data.image_size)
        settings = replace(dense_settings(spec), precision=choose_for(asked, device, one, batch).precision)
        stepper = Stepper(one, on_device, settings, TrainState.initial(one), None, capture)
        return lambda: stepper.update(next(counter))

    decay, bf16 = spec.weight_decay, not missing_unit(device)
    ready = in_memory(on_device, spec.batch_size)
    steps = {
        "plain": eager_step(network(), endless(plain), device, decay),
        "sensible": eager_step(network(), endless(sensible), device, decay, channels_last=True, bf16=bf16),
        "in memory": eager_step(network(), ready, device, decay, channels_last=True),
        "fp32": ours("fp32"),
        "auto": ours("auto"),
    }
    return steps | ({"eager": ours("auto", capture=False)} if cuda else {})


def speed(step: Callable[[], None], iterations: int, device: torch.device) -> float:
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(iterations):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return iterations / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--iterations", type=int, default=10, help="per contender and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    steps = contenders(arguments.model, arguments.dataset, device)
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(arguments.rounds):
        for name in sorted(steps, reverse=number % 2 == 1):  # the order alternates, or the first would be favoured
            speeds[name].append(speed(steps[name], arguments.iterations, device))
    rows = []
    for name, values in speeds.items():
        ratios = [value / plain for value, plain in zip(values, speeds["plain"], strict=True)]
        rows.append(
            {
                "loop": name,
                "iterations_per_second": round(statistics.median(values), 2),
                "ratio_to_plain": round(statistics.median(ratios), 3),
                "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            }
        )
    head = f"{arguments.model} on {arguments.dataset}, {device_name(device)}, torch {torch.__version__}"
    print(head)
    for row in rows:
        speed_text = f"{row['iterations_per_second']:>10} it/s"
        print(f"{row['loop']:12} {speed_text}   x{row['ratio_to_plain']}  {row['ratio_range']}")
    if arguments.output:
        arguments.output.write_text(json.dumps({"what": head, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
