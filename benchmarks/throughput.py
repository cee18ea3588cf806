"""Training speed: our loop against the loops a user would otherwise write, interleaved in one run.

    python benchmarks/throughput.py --model resnet20 --dataset cifar10 --rounds 5

Opponents: `plain`, an eager channels-last loop over tensors already in memory, standardised, not augmented (the least
that any loop must do); `dataloader`, torchvision transforms in a DataLoader at its defaults. Prints iterations per
second and ratios to `plain`, median of the rounds; writes JSON with --output.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from rewindctl.datasets import Dataset as OurDataset
from rewindctl.datasets import load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.models import Network, build_network
from rewindctl.models.network import NetworkConfig
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.rewinding.schedule import Schedule
from rewindctl.training.device import device_name, resolve_device
from rewindctl.training.loop import Stepper, TrainSettings
from rewindctl.training.recipes import default_recipe, recipes


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


def plain_step(
    network: Network, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], device: torch.device, decay: float
) -> Callable[[], None]:
    network = network.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=decay)

    def step() -> None:
        images, labels = next(batches)
        images = images.to(device=device, memory_format=torch.channels_last)
        optimizer.zero_grad()
        cross_entropy(network(images), labels.to(device)).backward()
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
    recipe = recipes[default_recipe(model, dataset)]
    config = NetworkConfig(data.channels, data.classes, recipe.norm_momentum, recipe.norm_epsilon)
    on_device = DeviceData.upload(data, device)
    loader = DataLoader(Images(data, recipe.crop_padding), recipe.batch_size, shuffle=True, drop_last=True)
    network = build_network(model, config, 0)
    settings = TrainSettings(
        schedule=Schedule(recipe.iterations, recipe.learning_rate, recipe.lr_boundaries, recipe.lr_factor),
        clock_start=0,
        iterations=recipe.iterations,
        constant_lr=None,
        batch_size=recipe.batch_size,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        crop_padding=recipe.crop_padding,
        horizontal_flip=recipe.horizontal_flip,
        evaluate_every=recipe.evaluate_every,
        checkpoint_at=(),
        seed=0,
    )
    stepper = Stepper(network, on_device, settings, TrainState.initial(network), None)
    counter = iter(range(10**9))
    plain = build_network(model, config, 0)
    loading = build_network(model, config, 0)
    return {
        "plain": plain_step(plain, in_memory(on_device, recipe.batch_size), device, recipe.weight_decay),
        "rewindctl": lambda: stepper.update(next(counter)),
        "dataloader": plain_step(loading, endless(loader), device, recipe.weight_decay),
    }


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
