"""A mask as a value and as a file: exact, small, and refused when it is not whole."""

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

from rewindctl.errors import IntegrityError
from rewindctl.models import build_network, kernels
from rewindctl.models.network import NetworkConfig
from rewindctl.pruning import Mask
from rewindctl.pruning.mask import FORMAT

SHAPES = st.one_of(
    st.tuples(*[st.integers(1, 5)] * 4), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 40))
)
MASKS = st.dictionaries(
    st.text("abc.0", min_size=1, max_size=5), SHAPES.flatmap(lambda shape: hnp.arrays(bool, shape)), max_size=4
)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def small() -> Mask:
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv.weight": (3, 2, 3, 3), "dense.weight": (2, 5)}
    return Mask(
        {name: torch.rand(shape, generator=generator) > 0.5 for name, shape in shapes.items()},
        {"norm.weight": torch.tensor([True, False, True])},
    )


@same_folder
@given(kernels=MASKS, norms=MASKS)
def test_a_saved_mask_is_the_same_mask(
    tmp_path: Path, kernels: dict[str, "np.ndarray"], norms: dict[str, "np.ndarray"]
) -> None:
    """Every shape, sizes that fill no whole byte included; the order of the kernels too."""
    names = {f"{name}.norm": torch.from_numpy(array) for name, array in norms.items()}
    mask = Mask({name: torch.from_numpy(array) for name, array in kernels.items()}, names)
    mask.save(tmp_path / "mask")
    loaded = Mask.load(tmp_path / "mask")
    assert list(loaded.kernels) == list(mask.kernels)
    assert list(loaded.norms) == list(mask.norms)
    for name, tensor in mask.tensors().items():
        assert torch.equal(loaded.tensors()[name], tensor)
    first = (tmp_path / "mask").read_bytes()
    loaded.save(tmp_path / "mask")
    assert (tmp_path / "mask").read_bytes() == first


def test_equal_masks_are_equal_bytes_and_a_single_weight_is_a_difference(tmp_path: Path) -> None:
    small().save(tmp_path / "a")
    small().save(tmp_path / "b")
    other = small()
    other.kernels["dense.weight"][1, 4] ^= True
    other.save(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_a_file_takes_one_bit_per_weight(tmp_path: Path) -> None:
    weights = kernels(build_network("resnet20", NetworkConfig(3, 10, 0.1, 1e-5), 0))
    mask = Mask.ones(weights)
    mask.save(tmp_path / "mask")
    header = 200 * len(weights)
    assert mask.total / 8 <= (tmp_path / "mask").stat().st_size <= mask.total / 8 + header


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    small().save(tmp_path / "mask")
    whole = (tmp_path / "mask").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "mask").write_bytes(whole[:length])
        with pytest.raises(IntegrityError):
            Mask.load(tmp_path / "mask")


@same_folder
@given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_damaged_byte_is_refused_or_reads_as_a_mask(tmp_path: Path, position: float, value: int) -> None:
    """Never another error: the digest in the manifest tells the rest."""
    small().save(tmp_path / "mask")
    content = bytearray((tmp_path / "mask").read_bytes())
    content[int(position * len(content))] = value
    (tmp_path / "mask").write_bytes(content)
    with contextlib.suppress(IntegrityError):
        assert isinstance(Mask.load(tmp_path / "mask"), Mask)


@pytest.mark.parametrize(
    "shape",
    [
        [2, 4],
        [0],
        [-1, -5],
        [2.0, 5],
        ["2", 5],
        [10**9, "abcd"],
        [2**40],
        [10**4000],
        [[2], [5]],
        None,
        5,
        "ab",
        {"2": 5},
    ],
)
def test_a_shape_that_is_not_that_of_the_bits_is_refused(tmp_path: Path, shape: object) -> None:
    metadata = {FORMAT: json.dumps({"kernels": {"w": shape}, "norms": {}})}
    save_file({"w": torch.zeros(2, dtype=torch.uint8)}, tmp_path / "mask", metadata=metadata)
    with pytest.raises(IntegrityError):
        Mask.load(tmp_path / "mask")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", '{"kernels": {}}', '{"kernels": [], "norms": {}}', "[" * 100_000, '{"kernels": 1e999}'],
)
def test_metadata_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    save_file({"w": torch.zeros(2, dtype=torch.uint8)}, tmp_path / "mask", metadata={FORMAT: text})
    with pytest.raises(IntegrityError):
        Mask.load(tmp_path / "mask")


def test_files_that_are_no_masks_are_refused(tmp_path: Path) -> None:
    shapes = {FORMAT: json.dumps({"kernels": {"w": [2, 5]}, "norms": {}})}
    save_file({"w": torch.zeros(2)}, tmp_path / "floats", metadata=shapes)
    save_file({"v": torch.zeros(2, dtype=torch.uint8)}, tmp_path / "other", metadata=shapes)
    save_file({"w": torch.zeros(2, dtype=torch.uint8)}, tmp_path / "bare")
    (tmp_path / "huge").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    (tmp_path / "text").write_text("not a mask")
    for name in ("floats", "other", "bare", "huge", "text", "missing"):
        with pytest.raises(IntegrityError) as caught:
            Mask.load(tmp_path / name)
        assert name in caught.value.message


def test_apply_zeroes_the_removed_and_leaves_the_rest(tmp_path: Path) -> None:
    """Exactly: NaN and infinity too, which a product with 0 would keep."""
    mask = small()
    tensors = {name: torch.randn(tensor.shape) for name, tensor in mask.tensors().items()} | {"free": torch.ones(3)}
    for name, tensor in mask.tensors().items():
        tensors[name][~tensor] = torch.tensor([float("nan"), float("inf"), -1.0]).repeat(99)[: int((~tensor).sum())]
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    mask.apply_(tensors)
    assert torch.equal(tensors.pop("free"), torch.ones(3))
    for name, tensor in tensors.items():
        kept = mask.tensors()[name]
        assert torch.equal(tensor[kept], before[name][kept])
        assert torch.equal(tensor[~kept], torch.zeros(int((~kept).sum())))


def test_apply_refuses_tensors_of_another_shape_or_name() -> None:
    mask = Mask({"w": torch.ones(2, 5, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"w is \(2, 5\), the tensor \(5, 2\)"):
        mask.apply_({"w": torch.ones(5, 2)})
    with pytest.raises(ValueError, match="w is"):
        mask.apply_({"w": torch.ones(5)})  # would broadcast
    with pytest.raises(KeyError):
        mask.apply_({"v": torch.ones(2, 5)})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_only_bools_make_a_mask(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="norm"):
        Mask({"w": torch.ones(2, dtype=torch.bool)}, {"norm": torch.ones(2, dtype=dtype)})


@same_folder
@given(hnp.arrays(bool, (4, 3, 2, 2)), hnp.arrays(bool, (3, 7)))
def test_counts_agree_with_each_other(conv: "np.ndarray", dense: "np.ndarray") -> None:
    conv.flat[0] = True
    mask = Mask(
        {"conv": torch.from_numpy(conv), "dense": torch.from_numpy(dense)}, {"norm": torch.zeros(4, dtype=torch.bool)}
    )
    assert mask.total == conv.size + dense.size
    assert mask.kept == np.count_nonzero(conv) + np.count_nonzero(dense)
    assert mask.removed == mask.total - mask.kept
    assert mask.sparsity == mask.removed / mask.total
    assert mask.compression == mask.total / mask.kept
    first, second = mask.layers()
    assert (first["units"], first["units_kept"]) == (4, np.count_nonzero(conv.any(axis=(1, 2, 3))))
    assert (second["units"], second["units_kept"]) == (7, np.count_nonzero(dense.any(axis=0)))
    assert [row["kept"] + row["removed"] for row in (first, second)] == [conv.size, dense.size]
    assert (first["shape"], second["shape"]) == ("4x3x2x2", "3x7")


def test_covers_is_the_order_of_masks() -> None:
    more = Mask({"w": torch.tensor([True, False, False])})
    less = Mask({"w": torch.tensor([True, True, False])})
    other = Mask({"w": torch.tensor([False, True, True])})
    assert more.covers(less)
    assert more.covers(more)
    assert not less.covers(more)
    assert not less.covers(other)
    assert not other.covers(less)
