"""A batch is a function of seed and position, and its pixels are those of flip, pad and crop done one by one."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewindctl.datasets import Dataset, load_dataset
from rewindctl.datasets.batches import BatchStream, DeviceData, reflect
from rewindctl.errors import UsageError

CPU = torch.device("cpu")
SHAPES = [(8, 8, 1), (4, 6, 3), (7, 5, 3), (5, 9, 1)]
Draw = tuple[int, bool, int, int]  # sample, mirrored, down, right


def dataset(shape: tuple[int, int, int] = (4, 6, 3), samples: int = 10) -> Dataset:
    """Random images; the label of a sample is its number, so that a batch says which samples it holds."""
    images = np.random.default_rng(0).integers(0, 256, (samples, *shape), dtype=np.uint8)
    labels = np.arange(samples)
    return Dataset.from_arrays("toy", {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}, "toy")


def stream(
    data: Dataset | None = None, batch_size: int = 3, padding: int = 1, mirror: bool = True, seed: int = 5
) -> BatchStream:
    return BatchStream(DeviceData.upload(data or dataset(), CPU), batch_size, padding, mirror, seed)


def samples_of(batches: BatchStream, epoch: int) -> list[int]:
    positions = range(epoch * batches.batches_per_epoch, (epoch + 1) * batches.batches_per_epoch)
    return [int(label) for position in positions for label in batches.batch(position)[1]]


def versions(image: npt.NDArray[np.uint8], padding: int) -> Iterator[tuple[bool, int, int, npt.NDArray[np.uint8]]]:
    """The slow reference: every flip and crop of the padded image."""
    height, width = image.shape[:2]
    for mirrored in (False, True):
        flipped = image[:, ::-1] if mirrored else image
        padded = np.pad(flipped, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
        for down in range(2 * padding + 1):
            for right in range(2 * padding + 1):
                yield mirrored, down, right, padded[down : down + height, right : right + width]


def draws(batches: BatchStream, data: Dataset, positions: range) -> list[list[Draw]]:
    """Which of the reference's versions each image is; those of wide paddings may be equal."""
    sample_of = {int(label): index for index, label in enumerate(data.train_labels)}
    candidates: dict[int, tuple[list[tuple[bool, int, int]], npt.NDArray[np.float64]]] = {}
    for label, index in sample_of.items():
        made = list(versions(data.train_images[index], batches.padding))
        pixels = np.stack([version for *_, version in made])
        candidates[label] = [version[:3] for version in made], (pixels / 255 - data.mean) / data.std
    found = []
    for position in positions:
        images, labels = batches.batch(position)
        found.append([])
        for image, label in zip(images.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True):
            names, pixels = candidates[label]
            match, *_ = np.flatnonzero(np.abs(pixels - image).max(axis=(1, 2, 3)) < 1e-4)
            found[-1].append((label, *names[match]))
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", [1, 2, 3])
def test_every_image_is_one_version_of_the_slow_reference(shape: tuple[int, int, int], padding: int) -> None:
    data = dataset(shape)
    drawn = draws(stream(data, padding=padding), data, range(9))
    assert len({draw for batch in drawn for draw in batch}) > 9, "crops and flips differ"


def test_random_access_gives_what_walking_gives() -> None:
    walked, jumped = stream(), stream()
    expected = [walked.batch(position) for position in range(12)]
    for position in (11, 0, 7, 7, 2, 10, 3, 0):
        images, labels = jumped.batch(position)
        assert torch.equal(images, expected[position][0])
        assert torch.equal(labels, expected[position][1])


def test_every_epoch_is_a_permutation_but_for_the_short_remainder() -> None:
    batches = stream(batch_size=3)
    assert batches.batches_per_epoch == 3
    epochs = [samples_of(batches, epoch) for epoch in range(100)]
    assert all(len(epoch) == len(set(epoch)) == 9 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 100
    assert {sample for epoch in epochs for sample in set(range(10)) - set(epoch)} == set(range(10)), "none is left out"


def test_batch_of_the_whole_set_is_a_permutation() -> None:
    batches = stream(batch_size=10)
    assert all(sorted(samples_of(batches, epoch)) == list(range(10)) for epoch in range(4))


def test_other_seed_gives_another_order_and_other_crops() -> None:
    data = dataset()
    one, other = (draws(stream(data, seed=seed), data, range(9)) for seed in (0, 1))
    assert [[draw[0] for draw in batch] for batch in one] != [[draw[0] for draw in batch] for batch in other]
    assert [[draw[1:] for draw in batch] for batch in one] != [[draw[1:] for draw in batch] for batch in other]


def test_order_does_not_depend_on_the_augmentation() -> None:
    plain, augmented = stream(padding=0, mirror=False), stream(padding=2)
    assert [samples_of(plain, epoch) for epoch in range(3)] == [samples_of(augmented, epoch) for epoch in range(3)]


def test_crops_and_flips_are_uniform_and_independent_of_each_other() -> None:
    data = dataset(samples=60)
    drawn = [draw[1:] for batch in draws(stream(data, batch_size=60), data, range(60)) for draw in batch]
    counts = Counter(drawn)
    assert set(counts) == {
        (mirrored, down, right) for mirrored in (False, True) for down in range(3) for right in range(3)
    }
    assert min(counts.values()) > 130
    assert max(counts.values()) < 270, "3,600 draws of 18: 200 each, 14 standard deviation"


def test_samples_of_a_batch_are_cropped_independently() -> None:
    data = dataset(samples=60)
    batches = draws(stream(data, batch_size=60), data, range(60))
    equal = sum(a[1:] == b[1:] for batch in batches for a, b in pairwise(batch))
    assert 100 < equal < 300, "neighbours agree once in 18: 197 times of 3,540"


def test_a_sample_is_cropped_anew_in_every_epoch() -> None:
    data = dataset()
    epochs = draws(stream(data, batch_size=10), data, range(20))
    of_first_sample = [draw[1:] for epoch in epochs for draw in epoch if draw[0] == 0]
    assert len(set(of_first_sample)) > 5


def test_without_mirror_nothing_is_flipped() -> None:
    data = dataset()
    drawn = [draw for batch in draws(stream(data, mirror=False), data, range(30)) for draw in batch]
    assert not any(mirrored for _, mirrored, _, _ in drawn)
    assert len({draw[2:] for draw in drawn}) == 9


@pytest.mark.parametrize("shape", SHAPES)
def test_no_padding_and_no_flip_is_the_identity(shape: tuple[int, int, int]) -> None:
    data = dataset(shape)
    batches = stream(data, padding=0, mirror=False)
    images, labels = batches.batch(4)
    for image, label in zip(images, labels.tolist(), strict=True):
        sample = torch.from_numpy(data.train_images[data.train_labels == label])
        assert torch.equal(image, batches.data.standardised(sample)[0])


def test_images_are_channels_last_float_and_labels_integers() -> None:
    images, labels = stream().batch(0)
    assert (images.shape, images.dtype) == ((3, 3, 4, 6), torch.float32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (labels.shape, labels.dtype) == ((3,), torch.int64)


@pytest.mark.parametrize("name", ["toy", "digits"])
def test_standardised_training_set_has_mean_0_and_std_1_in_every_channel(name: str) -> None:
    uploaded = DeviceData.upload(dataset((5, 9, 3), 50) if name == "toy" else load_dataset(name), CPU)
    images = uploaded.standardised(uploaded.train_images).to(torch.float64)
    assert images.mean(dim=(0, 2, 3)).abs().max() < 1e-6
    assert (images.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-6


def test_test_images_are_standardised_with_the_training_statistics() -> None:
    images = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(6) % 2
    data = Dataset.from_arrays(
        "t", {"x_train": images, "y_train": labels, "x_test": images // 2, "y_test": labels}, "t"
    )
    uploaded = DeviceData.upload(data, CPU)
    expected = (data.test_images / 255 - np.array(data.mean)) / np.array(data.std)
    np.testing.assert_allclose(uploaded.standardised(uploaded.test_images).permute(0, 2, 3, 1), expected, atol=1e-5)


@settings(deadline=None)
@given(size=st.integers(1, 12), data=st.data())
def test_reflection_is_that_of_numpy(size: int, data: st.DataObject) -> None:
    padding = data.draw(st.integers(0, size - 1))
    expected = np.pad(np.arange(size), padding, mode="reflect")
    assert np.array_equal(reflect(np.arange(-padding, size + padding), size), expected)


def test_batch_larger_than_the_training_set_is_refused() -> None:
    with pytest.raises(UsageError, match="batch size 11 is larger than the 10 training images"):
        stream(batch_size=11)


def test_padding_larger_than_a_reflection_is_refused() -> None:
    assert len(stream(padding=3).batch(0)[1]) == 3
    with pytest.raises(UsageError, match="crop padding 4 does not fit into images of 4x6"):
        stream(padding=4)
