"""Bytes of a pruned network's last checkpoint and mask, against `torch.save` of state, mask and optimiser.

    python benchmarks/disk.py --model resnet20 --output disk.json

The network is pruned at initialisation and trained for some updates on random images, so that momentum is what it is in
a retraining. The opponent keeps the mask as bool; with float masks, as many codes have them, it is larger.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from rewindctl.models import NetworkConfig, build_network
from rewindctl.models.network import kernels
from rewindctl.pruning import prune
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import PruneSpec

BOUNDS = {9.35: 0.25, 100.0: 0.10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = [measure(options.model, compression) for compression in BOUNDS]
    table = Table("compression", "torch.save", "checkpoint + mask", "share", "bound")
    for row in rows:
        share = row["ours"] / row["torch_save"]
        table.add_row(
            f"{row['compression']:g}x",
            f"{row['torch_save']:,.0f}",
            f"{row['ours']:,.0f}",
            f"{share:.1%}",
            f"{BOUNDS[row['compression']]:.0%}",
        )
    Console().print(f"{options.model}, torch {torch.__version__}", table)
    if options.output:
        options.output.write_text(json.dumps({"model": options.model, "torch": torch.__version__, "rows": rows}))


def measure(model: str, compression: float) -> dict[str, float]:
    network = build_network(model, NetworkConfig(3, 10, 0.1, 1e-5), 0)
    spec = PruneSpec(parent_fingerprint="0" * 64, sparsity=1 - 1 / compression)
    weights = {name: kernel.detach() for name, kernel in kernels(network).items()}
    mask = prune(weights, spec, None, network.norm_after).mask
    optimizer = train(network, mask.tensors())
    state = TrainState.initial(network)
    names = {parameter: name for name, parameter in network.named_parameters()}
    momentum = {names[p]: value["momentum_buffer"] for p, value in optimizer.state.items()}
    mask.apply_(momentum)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours"), Path(folder, "theirs")
        TrainState(state.parameters, state.buffers, momentum, 10, 10).save(ours)
        mask.save(Path(folder, "mask"))
        saved = {"state": network.state_dict(), "mask": dict(mask.tensors()), "optimizer": optimizer.state_dict()}
        torch.save(saved, theirs)
        loaded = TrainState.load(ours)
        assert all(torch.equal(loaded.momentum[name], value) for name, value in momentum.items())
        sizes = [float(path.stat().st_size) for path in (ours, Path(folder, "mask"), theirs)]
    return {"compression": compression, "ours": sizes[0] + sizes[1], "torch_save": sizes[2]}


def train(network: torch.nn.Module, masks: dict[str, torch.Tensor]) -> torch.optim.SGD:
    """Ten updates with masked weights."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        images = torch.randn(16, 3, 32, 32, generator=generator)
        labels = torch.randint(0, 10, (16,), generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name in masks:
                    parameter.masked_fill_(~masks[name], 0.0)
    return optimizer


if __name__ == "__main__":
    main()
