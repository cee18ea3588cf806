"""CIFAR: the published images or none."""

import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli

from rewindctl.datasets import Dataset, load_dataset
from rewindctl.datasets.cifar import fetch, unpickled, verified
from rewindctl.errors import DataError, UnknownNameError, UsageError

GIVEN = os.environ.get("REWINDCTL_TEST_DATA", "")  # a folder with cifar10.npz and cifar100.npz
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every address is behind a proxy at a port where nothing listens."""
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


def archive(path: Path, train: int, test: int, classes: int) -> Path:
    """As large as asked for, of the right form; the content is not the published one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for part, count in (("train", train), ("test", test)):
        images = np.zeros((count, 32, 32, 3), np.uint8)
        images.reshape(count, -1)[:, :4] = np.arange(count, dtype="<u4")[:, None].view(np.uint8)
        arrays |= {f"x_{part}": images, f"y_{part}": np.arange(count) % classes}
    np.savez_compressed(path, **arrays)
    return path


def torchvision_layout(root: Path) -> Path:
    """torchvision's own files in name and form, with other bytes."""
    home = root / FOLDERS["cifar10"]
    home.mkdir(parents=True)
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (home / name).write_bytes(pickle.dumps(batch))
    (home / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(label) for label in range(10)]}))
    return root


@pytest.mark.parametrize("name", FOLDERS)
def test_missing_set_names_every_place_looked_in_and_the_command_that_gets_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWINDCTL_DATA", str(tmp_path / "shared"))
    with pytest.raises(DataError) as caught:
        load_dataset(name, tmp_path / "mine")
    for place in (tmp_path / "mine", tmp_path / "shared", tmp_path / "cache" / "rewindctl"):
        assert f"{place / name}.npz" in caught.value.message
        assert str(place / FOLDERS[name]) in caught.value.message
    assert f"rewindctl data fetch {name}" in caught.value.hint


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_archive_of_another_size_is_refused(name: str, classes: int, tmp_path: Path) -> None:
    archive(tmp_path / f"{name}.npz", 200, 100, classes)
    with pytest.raises(DataError, match=rf"{name}\.npz is not {name}: \(200, 100, 32, 32, 3\), {classes} classes"):
        load_dataset(name, tmp_path)


@pytest.mark.parametrize(("name", "classes"), [("cifar100", 100)])
def test_archive_of_the_right_form_with_other_content_is_refused(name: str, classes: int, tmp_path: Path) -> None:
    path = archive(tmp_path / f"{name}.npz", 50_000, 10_000, classes)
    with pytest.raises(DataError, match=rf"{name}\.npz was altered: its digest is") as caught:
        load_dataset(name, tmp_path)
    assert f"rewindctl data fetch {name}" in caught.value.hint
    path.unlink()


# Source: the published files; the paper's table 3 for CIFAR-10, counted for CIFAR-100.
PUBLISHED = {
    "cifar10": ((0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784), 0),
    "cifar100": ((0.5070751592, 0.4865488733, 0.4409178434), (0.26733429, 0.25643846, 0.27615047), 10),
}


@pytest.mark.skipif(not GIVEN, reason="needs the published images: set REWINDCTL_TEST_DATA to their folder")
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_images_are_taken_in_any_order_and_altered_in_one_value_are_refused(
    name: str, tmp_path: Path
) -> None:
    mean, std, shared = PUBLISHED[name]
    data = load_dataset(name, Path(GIVEN))
    assert data.mean == pytest.approx(mean, abs=1e-8)
    assert data.std == pytest.approx(std, abs=1e-8)
    for labels in (data.train_labels, data.test_labels):
        assert set(np.bincount(labels)) == {len(labels) // data.classes}
    seen = {image.tobytes() for image in data.train_images}
    assert sum(image.tobytes() in seen for image in data.test_images) == shared
    arrays = {"x_train": data.train_images, "y_train": data.train_labels}
    arrays |= {"x_test": data.test_images, "y_test": data.test_labels}
    backwards = Dataset.from_arrays(name, {key: array[::-1] for key, array in arrays.items()}, "memory")
    assert verified(name, backwards, tmp_path).digest == data.digest
    for key, at in (("x_train", (7, 3, 3, 1)), ("y_train", (7,)), ("x_test", (7, 3, 3, 1)), ("y_test", (7,))):
        changed = arrays[key].copy()
        changed[at] ^= 1
        with pytest.raises(DataError, match=f"was altered: its digest is .*, {name}'s is"):
            verified(name, Dataset.from_arrays(name, arrays | {key: changed}, "memory"), tmp_path)


def test_torchvision_files_with_another_md5_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar-10-batches-py is incomplete or altered") as caught:
        load_dataset("cifar10", torchvision_layout(tmp_path))
    assert "rewindctl data fetch cifar10" in caught.value.hint


def test_torchvision_files_are_not_unpickled_before_their_md5_is_checked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home = torchvision_layout(tmp_path) / FOLDERS["cifar10"]
    for path in home.iterdir():
        path.write_bytes(b"cos\nsystem\n(S'echo sprung'\ntR.")
    with pytest.raises(DataError, match="incomplete or altered"):
        load_dataset("cifar10", tmp_path)
    assert capfd.readouterr().out == ""
    pickle.loads((home / "test_batch").read_bytes())
    assert capfd.readouterr().out == "sprung\n", "the trap works"


def test_archive_goes_before_torchvision_files(tmp_path: Path) -> None:
    torchvision_layout(tmp_path)
    (tmp_path / "cifar10.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"cifar10\.npz is not a readable"):
        load_dataset("cifar10", tmp_path)


def test_only_what_can_be_downloaded_is_fetched() -> None:
    with pytest.raises(UsageError, match="digits needs no download"):
        fetch("digits", None)
    with pytest.raises(UnknownNameError, match=r"cifar11.*did you mean 'cifar10'"):
        fetch("cifar11", None)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("before", [None, b"damaged"])
def test_failed_download_says_so_and_leaves_the_folder_as_it_was(tmp_path: Path, before: bytes | None) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    if before is not None:
        (place / "cifar10.npz").write_bytes(before)
    with pytest.raises(DataError, match="cifar10 could not be downloaded") as caught:
        fetch("cifar10", place)
    assert str(place) in caught.value.hint
    assert {path.name: path.read_bytes() for path in place.iterdir()} == ({"cifar10.npz": before} if before else {})


@pytest.mark.usefixtures("offline")
def test_fetch_command_prints_no_data_when_it_fails(cli: Cli) -> None:
    failed, wrong, unknown = cli("data", "fetch", "cifar10"), cli("data", "fetch", "digits"), cli("data", "fetch", "x")
    assert [answer.code for answer in (failed, wrong, unknown)] == [1, 2, 2]
    assert {answer.out for answer in (failed, wrong, unknown)} == {""}
    assert "error: cifar10 could not be downloaded" in failed.err
    assert "hint: known: cifar10, cifar100, digits" in unknown.err


def test_training_on_a_missing_set_fails_before_a_store_is_made(tmp_path: Path, cli: Cli) -> None:
    answer = cli("train-dense", "--model", "resnet20", "--dataset", "cifar10")
    assert (answer.code, answer.out) == (1, "")
    assert "rewindctl data fetch cifar10" in answer.err
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("place", [b"r" + struct.pack("<I", 1 << 26), b"p67108864\n"], ids=["binary", "text"])
def test_a_memo_that_a_pickle_only_names_is_not_made(place: bytes) -> None:
    pickled = b"\x80\x02}" + place + b"."
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="and a memo of 67,108,864"):
            unpickled(pickled)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
