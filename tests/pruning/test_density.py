"""The plot of a mask: a PNG, the same for the same mask, for networks of any depth."""

from pathlib import Path

import torch
from PIL import Image

from rewindctl.pruning import Mask
from rewindctl.pruning.mask import plot_density


def mask(layers: int, kept: int) -> Mask:
    tensor = (torch.arange(20) < kept).reshape(4, 5, 1, 1)
    return Mask({f"layer{index}.weight": tensor for index in range(layers)})


def drawn(value: Mask, path: Path) -> bytes:
    plot_density(value, path, "a title")
    return path.read_bytes()


def test_equal_masks_are_drawn_in_equal_bytes_and_others_not(tmp_path: Path) -> None:
    first = drawn(mask(3, 5), tmp_path / "a.png")
    assert drawn(mask(3, 5), tmp_path / "b.png") == first
    assert drawn(mask(3, 1), tmp_path / "c.png") != first


def test_more_layers_make_a_wider_plot(tmp_path: Path) -> None:
    sizes = []
    for layers in (3, 60, 120):  # the last is past the limit of named bars
        drawn(mask(layers, 5), tmp_path / "density.png")
        with Image.open(tmp_path / "density.png") as image:
            assert image.format == "PNG"
            sizes.append(image.size)
    assert sizes[0][0] < sizes[1][0] < sizes[2][0]
    assert len({height for _, height in sizes}) == 1
