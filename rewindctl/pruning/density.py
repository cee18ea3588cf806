"""The plot of what a mask leaves of each layer."""

from pathlib import Path

from rewindctl.pruning.mask import Mask
from rewindctl.system.safe_text import drawn


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
