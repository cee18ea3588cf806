"""A mask as a checked value: one bool per kernel weight, True where the weight is kept; its file and its plot."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from rewindctl.bits import checked_count, packed_bits, packed_size, reading, unpacked_bits
from rewindctl.system.safe_text import drawn

FORMAT = "rewindctl-mask-1"
LARGEST_WEIGHTS = 2**33  # no network here comes near; a header that claims more is refused before allocation


@dataclass(frozen=True)
class Mask:
    """Kept weights of every kernel by parameter name; `norms` are batch-norm scales and shifts held at zero
    with their channel (`channel_norm=remove`), which count as no kernel weights.
    """

    kernels: Mapping[str, Tensor]
    norms: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, tensor in {**self.kernels, **self.norms}.items():
            if tensor.dtype != torch.bool:
                raise TypeError(f"mask of {name} is {tensor.dtype}, not bool")

    @classmethod
    def ones(cls, kernels: Mapping[str, Tensor]) -> "Mask":
        """The mask that keeps everything."""
        return cls({name: torch.ones(k.shape, dtype=torch.bool) for name, k in kernels.items()})

    @property
    def total(self) -> int:
        return sum(mask.numel() for mask in self.kernels.values())

    @property
    def kept(self) -> int:
        return sum(int(mask.sum()) for mask in self.kernels.values())

    @property
    def removed(self) -> int:
        return self.total - self.kept

    @property
    def sparsity(self) -> float:
        """Removed / total kernel weights."""
        return self.removed / self.total

    @property
    def compression(self) -> float:
        """Total / kept kernel weights."""
        return self.total / self.kept

    def tensors(self) -> dict[str, Tensor]:
        """Kernel and norm masks by parameter name."""
        return {**self.kernels, **self.norms}

    def apply_(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the removed entries of `tensors` to exactly 0, in place. Raises: KeyError, ValueError on a misfit."""
        for name, mask in self.tensors().items():
            tensor = tensors[name]
            if tensor.shape != mask.shape:
                raise ValueError(f"mask of {name} is {tuple(mask.shape)}, the tensor {tuple(tensor.shape)}")
            with torch.no_grad():
                tensor.masked_fill_(~mask.to(tensor.device), 0.0)

    def covers(self, other: "Mask") -> bool:
        """Whether everything that `other` removes is removed here too (masks only ever grow)."""
        return all(not bool((mask & ~other.kernels[name]).any()) for name, mask in self.kernels.items())

    def layers(self) -> list[dict[str, Any]]:
        """One row per kernel: layer, shape, weights, kept, removed, sparsity, units and units_kept."""
        rows = []
        for name, mask in self.kernels.items():
            kept = int(mask.sum())
            rows.append(
                {
                    "layer": name,
                    "shape": "x".join(str(size) for size in mask.shape),
                    "weights": mask.numel(),
                    "kept": kept,
                    "removed": mask.numel() - kept,
                    "sparsity": 1 - kept / mask.numel(),
                    "units": mask.shape[unit_dimension(mask)],
                    "units_kept": int(units(mask).any(dim=1).sum()),
                }
            )
        return rows

    def save(self, path: Path) -> None:
        """One bit per weight, eight to a byte, in a safetensors file; shapes are in its metadata."""
        packed = {name: packed_bits(mask) for name, mask in sorted(self.tensors().items())}
        shapes = {
            "kernels": {name: list(mask.shape) for name, mask in self.kernels.items()},
            "norms": {name: list(mask.shape) for name, mask in self.norms.items()},
        }
        # One metadata key: safetensors writes several in no fixed order, and equal masks must be equal bytes.
        path.write_bytes(save(packed, metadata={FORMAT: json.dumps(shapes)}))

    @classmethod
    def load(cls, path: Path) -> "Mask":
        """Raises: IntegrityError when the file is not a whole, consistent mask."""
        with reading(path, "is not a readable mask"):
            if not path.is_file():
                raise ValueError("it is not a file")
            with safe_open(path, framework="pt") as file:
                shapes = json.loads(file.metadata()[FORMAT])
                kernels = {name: _unpack(file, name, shape) for name, shape in shapes["kernels"].items()}
                norms = {name: _unpack(file, name, shape) for name, shape in shapes["norms"].items()}
            return cls(kernels, norms)


def unit_dimension(kernel: Tensor) -> int:
    """The dimension of a kernel's prunable units: output channels of a convolution, inputs of the dense kernel.

    Source: the paper, section 3 ("rows or convolutional channels"); Crowley et al. 2018 (arXiv 1810.04622).
    """
    return 0 if kernel.dim() == 4 else 1


def units(kernel: Tensor) -> Tensor:
    """(units, weights per unit) view of a kernel."""
    return kernel.movedim(unit_dimension(kernel), 0).flatten(1)


def _unpack(file: Any, name: str, shape: list[int]) -> Tensor:
    count = checked_count(shape, name, LARGEST_WEIGHTS)
    claimed = file.get_slice(name)
    if claimed.get_dtype() != "U8" or claimed.get_shape() != [packed_size(count)]:
        raise ValueError(f"{name!r:.80} holds {str(claimed.get_shape())[:80]} {claimed.get_dtype()}, not its bits")
    return unpacked_bits(file.get_tensor(name), count).reshape(shape)


def plot_density(mask: Mask, path: Path, title: str) -> None:
    """A bar per kernel, in network order: kept / total, with the network's density as a line."""
    from matplotlib.figure import Figure

    rows = mask.layers()
    density = [row["kept"] / row["weights"] for row in rows]
    figure = Figure(figsize=(max(6.0, 0.22 * len(rows)), 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(range(len(rows)), density, color="#0072B2")
    axes.axhline(1 - mask.sparsity, color="#D55E00", label=f"whole network: {1 - mask.sparsity:.2%}")
    if len(rows) <= 70:
        axes.set_xticks(
            range(len(rows)), [drawn(row["layer"].removesuffix(".weight")) for row in rows], rotation=90, fontsize=6
        )
    else:
        axes.set_xlabel("kernel, in network order")
    axes.set_ylabel("density (kept / total)")
    axes.set_yscale("log")
    axes.set_title(drawn(title), fontsize=9)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, metadata={"Software": "rewindctl"})
