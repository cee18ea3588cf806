"""A data set is its samples: whatever order they come in, and nothing else; a malformed one is refused in words."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewindctl.datasets import Dataset
from rewindctl.errors import DataError

Arrays = dict[str, Any]
WHERE = "toy.npz"


def arrays(train: int = 12, test: int = 6, shape: tuple[int, ...] = (4, 5, 3), seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "x_train": rng.integers(0, 256, (train, *shape), dtype=np.uint8),
        "y_train": np.arange(train) % 3,
        "x_test": rng.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": np.arange(test) % 3,
    }


def make(given_arrays: Arrays) -> Dataset:
    return Dataset.from_arrays("toy", given_arrays, WHERE)


def content(data: Dataset) -> tuple[Any, ...]:
    parts = (data.train_images, data.train_labels, data.test_images, data.test_labels)
    return (*((part.dtype, part.shape, part.tobytes()) for part in parts), data.mean, data.std, data.digest)


@settings(deadline=None)
@given(train=st.permutations(range(12)), test=st.permutations(range(6)))
def test_order_of_the_samples_does_not_matter(train: list[int], test: list[int]) -> None:
    original = arrays()
    shuffled = {key: value[train if key.endswith("train") else test] for key, value in original.items()}
    assert content(make(shuffled)) == content(make(original))


@settings(deadline=None)
@given(part=st.sampled_from(["x_train", "x_test"]), place=st.floats(0, 1, exclude_max=True), step=st.integers(1, 255))
def test_one_changed_pixel_changes_the_digest(part: str, place: float, step: int) -> None:
    changed = arrays()
    flat = changed[part].reshape(-1)
    flat[int(place * flat.size)] ^= np.uint8(step)
    assert make(changed).digest != make(arrays()).digest


@settings(deadline=None)
@given(part=st.sampled_from(["y_train", "y_test"]), index=st.integers(0, 5), step=st.integers(1, 2))
def test_one_changed_label_changes_the_digest(part: str, index: int, step: int) -> None:
    changed = arrays()
    changed[part][index] = (changed[part][index] + step) % 3
    assert make(changed).digest != make(arrays()).digest


def test_swapping_training_and_test_set_changes_the_digest() -> None:
    one = arrays(train=6)
    other = {"x_train": one["x_test"], "y_train": one["y_test"], "x_test": one["x_train"], "y_test": one["y_train"]}
    assert make(other).digest != make(one).digest


def test_same_bytes_in_another_shape_are_another_data_set() -> None:
    one = arrays(shape=(4, 6, 1))
    other = {key: value.reshape(-1, 6, 4, 1) if key[0] == "x" else value for key, value in one.items()}
    assert make(other).digest != make(one).digest


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64", ">i4"])
def test_integer_type_of_the_labels_does_not_matter(dtype: str) -> None:
    other = {key: value.astype(dtype) if key[0] == "y" else value for key, value in arrays().items()}
    assert content(make(other)) == content(make(arrays()))


def test_labels_may_be_a_column() -> None:
    column = {key: value[:, None] if key[0] == "y" else value for key, value in arrays().items()}
    assert content(make(column)) == content(make(arrays()))


def test_grey_images_need_no_channel_axis() -> None:
    grey = arrays(shape=(4, 5, 1))
    flat = {key: value[..., 0] if key[0] == "x" else value for key, value in grey.items()}
    assert content(make(flat)) == content(make(grey))
    assert make(flat).channels == 1


def test_arrays_are_contiguous_and_those_given_are_left_alone() -> None:
    given_arrays = arrays()
    before = {key: value.copy() for key, value in given_arrays.items()}
    data = make(given_arrays)
    assert data.train_images.flags.c_contiguous
    assert data.test_images.flags.c_contiguous
    assert (data.train_images.dtype, data.train_labels.dtype) == (np.uint8, np.int64)
    assert all(np.array_equal(given_arrays[key], before[key]) for key in before)


@settings(deadline=None)
@given(seed=st.integers(0, 2**16), channels=st.sampled_from([1, 3]))
def test_mean_and_std_are_those_of_the_training_images_alone(seed: int, channels: int) -> None:
    data = make(arrays(shape=(3, 4, channels), seed=seed))
    scaled = data.train_images.astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, scaled.mean(axis=(0, 1, 2)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(data.std, scaled.std(axis=(0, 1, 2)), rtol=0, atol=1e-12)


def test_constant_channel_can_still_be_divided_by_its_std() -> None:
    flat = arrays()
    flat["x_train"][..., 1] = 7
    assert all(deviation > 0 for deviation in make(flat).std)


def test_class_names_are_kept_and_are_the_labels_where_none_are_given() -> None:
    assert make(arrays() | {"class_names": np.array(["ant", "bee", "cow"])}).class_names == ("ant", "bee", "cow")
    assert make(arrays()).class_names == ("0", "1", "2")
    assert make(arrays()).classes == 3


def test_a_class_that_only_the_test_set_has_is_counted() -> None:
    more = arrays()
    more["y_test"][0] = 4
    assert make(more).classes == 5


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
def test_missing_array_is_named(key: str) -> None:
    given_arrays = arrays()
    del given_arrays[key]
    with pytest.raises(DataError, match=f"{WHERE} lacks {key}"):
        make(given_arrays)


X = arrays()["x_train"]
Y = arrays()["y_train"]
MALFORMED: dict[str, tuple[Arrays, str]] = {
    "float images": ({"x_train": X / 255}, r"x_train is float64 \(12, 4, 5, 3\)"),
    "wide images": ({"x_test": X[:6].astype(np.int64)}, r"x_test is int64 \(6, 4, 5, 3\)"),
    "flat images": ({"x_train": X.reshape(12, -1)}, r"x_train is uint8 \(12, 60\)"),
    "two channels": ({"x_train": X[..., :2]}, r"x_train is uint8 \(12, 4, 5, 2\)"),
    "four channels": ({"x_train": X[..., [0, 1, 2, 0]]}, r"x_train is uint8 \(12, 4, 5, 4\)"),
    "no images": ({"x_train": X[:0], "y_train": Y[:0]}, r"x_train is uint8 \(0, 4, 5, 3\)"),
    "no pixels": ({"x_train": X[:, :0]}, r"x_train is uint8 \(12, 0, 5, 3\)"),
    "two sizes": ({"x_train": X[:, :3]}, r"training images are \(3, 5, 3\), test images \(4, 5, 3\)"),
    "text for images": ({"x_train": np.array(["a"])}, r"x_train is <U1 \(1,\)"),
    "too few labels": ({"y_train": Y[:-1]}, r"y_train is int64 \(11,\) for 12 images"),
    "one-hot labels": ({"y_train": np.eye(3, dtype=int)[Y]}, r"y_train is int64 \(12, 3\) for 12 images"),
    "a scalar label": ({"y_train": np.int64(1)}, r"y_train is int64 \(\) for 12 images"),
    "float labels": ({"y_train": Y.astype(float)}, "y_train is float64"),
    "truth values": ({"y_train": Y > 0}, "y_train is bool"),
    "negative label": ({"y_train": Y - 1}, "y_train runs from -1 to 1"),
    "giant label": ({"y_train": Y * 2**14}, "y_train runs from 0 to 32768"),
    "unsigned giant": ({"y_train": Y.astype(np.uint64) * np.uint64(2**62)}, "y_train runs from 0 to"),
    "one class, the first": ({"y_train": Y * 0, "y_test": Y[:6] * 0}, "every training label is 0"),
    "one class, another": ({"y_train": Y * 0 + 2}, "every training label is 2"),
    "a name too few": ({"class_names": np.array(["ant", "bee"])}, r"class_names has shape \(2,\) for labels up to 2"),
    "a name too many": ({"class_names": np.array(list("abcd"))}, r"class_names has shape \(4,\) for labels up to 2"),
    "a single name": ({"class_names": np.array("abc")}, r"class_names has shape \(\) for labels up to 2"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_arrays_are_refused_and_what_is_wrong_is_named(case: str) -> None:
    change, words = MALFORMED[case]
    with pytest.raises(DataError, match=f"{WHERE}.*{words}"):
        make(arrays() | change)
