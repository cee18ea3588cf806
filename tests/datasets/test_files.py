"""Data on disk: where it is looked for, what is refused, what an import keeps and later checks."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import Cli
from PIL import Image

from rewindctl.datasets import Dataset, load_dataset
from rewindctl.datasets.files import import_dataset, imported, places
from rewindctl.datasets.npz import read_npz
from rewindctl.errors import DataError, UnknownNameError, UsageError

Pixels = npt.NDArray[np.uint8]


class Trap:
    """Makes a folder when it is unpickled: its absence proves that nothing was."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def arrays(shape: tuple[int, ...] = (2, 3, 1), seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "x_train": rng.integers(0, 256, (8, *shape), dtype=np.uint8),
        "y_train": np.arange(8) % 2,
        "x_test": rng.integers(0, 256, (4, *shape), dtype=np.uint8),
        "y_test": np.arange(4) % 2,
    }


def saved(path: Path, **changes: Any) -> Path:
    np.savez(path, **(arrays() | changes))
    return path


def drawn(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def picture(seed: int, *shape: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape or (4, 5), dtype=np.uint8)


def folder(root: Path, *shape: int) -> Path:
    """Two cats and two dogs to train on, one of each to test."""
    for index, name in enumerate(
        ("train/dog/1", "train/dog/2", "train/cat/1", "train/cat/2", "test/dog/1", "test/cat/1")
    ):
        drawn(root / f"{name}.png", picture(index, *shape))
    return root


def test_places_are_data_dir_then_environment_then_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWINDCTL_DATA", str(tmp_path / "shared"))
    cache = tmp_path / "cache" / "rewindctl"
    assert places(Path("mine")) == [tmp_path / "mine", tmp_path / "shared", cache]
    monkeypatch.delenv("REWINDCTL_DATA")
    assert places(None) == [cache]


def test_archive_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    raw = saved(tmp_path / "whole.npz").read_bytes()
    cut = tmp_path / "cut.npz"
    for length in range(len(raw)):
        cut.write_bytes(raw[:length])
        with pytest.raises(DataError, match=r"cut\.npz is not a readable \.npz"):
            read_npz(cut)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_flipped_bit_anywhere_is_refused_or_reaches_no_sample(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "flipped.npz"
    save(path, **arrays())
    raw, digest = path.read_bytes(), Dataset.from_arrays("toy", read_npz(path), "toy").digest
    refused = 0
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :])
        try:
            assert Dataset.from_arrays("toy", read_npz(path), "toy").digest == digest
        except DataError:
            refused += 1
    assert refused > len(raw) / 3


def test_pickled_arrays_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trapped = saved(tmp_path / "trapped.npz", y_train=np.array([Trap(sprung)] * 8, dtype=object))
    bare = tmp_path / "bare.npz"
    bare.write_bytes(pickle.dumps(Trap(sprung)))
    for path in (trapped, bare):
        with pytest.raises(DataError, match=f"{path.name} is not a readable"):
            import_dataset("toy", path, None)
    assert not sprung.exists()
    pickle.loads(bare.read_bytes())
    assert sprung.exists(), "the trap works"


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("x_train\n")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("array.npy", "text.npz", "empty.npz", "nowhere.npz"):
        with pytest.raises(DataError, match=f"{name} is not a readable"):
            read_npz(tmp_path / name)


def test_imported_archive_is_found_by_name_with_the_same_content(tmp_path: Path) -> None:
    given, path = import_dataset("toy", saved(tmp_path / "in.npz", class_names=np.array(["a", "b"])), None)
    found = load_dataset("toy")
    assert path == tmp_path / "cache" / "rewindctl" / "toy.npz"
    assert (found.digest, found.class_names, found.name) == (given.digest, ("a", "b"), "toy")
    assert np.array_equal(found.train_images, given.train_images)
    assert found.digest == Dataset.from_arrays("other", arrays(), "memory").digest


def test_first_place_that_has_an_imported_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWINDCTL_DATA", str(tmp_path / "shared"))
    other, _ = import_dataset("toy", saved(tmp_path / "b.npz", **arrays(seed=1)), None)
    mine, _ = import_dataset("toy", saved(tmp_path / "a.npz"), tmp_path / "mine")
    assert other.digest != mine.digest
    assert load_dataset("toy", tmp_path / "mine").digest == mine.digest
    assert load_dataset("toy").digest == other.digest
    assert imported(tmp_path / "mine") == {"toy": tmp_path / "mine"}


def test_importing_again_replaces(tmp_path: Path) -> None:
    import_dataset("toy", saved(tmp_path / "a.npz"), None)
    second, _ = import_dataset("toy", saved(tmp_path / "b.npz", **arrays(seed=1)), None)
    assert load_dataset("toy").digest == second.digest


ALTERED: dict[str, dict[str, Any]] = {
    "a pixel": {"x_train": arrays()["x_train"] ^ 1},
    "a label": {"y_test": 1 - arrays()["y_test"]},
    "one sample less": {"x_test": arrays()["x_test"][:3], "y_test": arrays()["y_test"][:3]},
    "an output more": {"class_names": np.array(["a", "b", "c"])},
}


@pytest.mark.parametrize("case", ALTERED)
def test_imported_data_altered_afterwards_is_refused(tmp_path: Path, case: str) -> None:
    _, path = import_dataset("toy", saved(tmp_path / "in.npz"), None)
    saved(path, **ALTERED[case])
    with pytest.raises(DataError, match=r"toy\.npz"):
        load_dataset("toy")


def test_altered_import_says_so_and_what_to_do(tmp_path: Path) -> None:
    _, path = import_dataset("toy", saved(tmp_path / "in.npz"), None)
    saved(path, **ALTERED["a pixel"])
    with pytest.raises(DataError, match="was altered since its import") as caught:
        load_dataset("toy")
    assert "rewindctl data import toy" in caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"digest": 5}', '{"digest": "beef"}'])
def test_damaged_record_of_an_import_is_refused(tmp_path: Path, text: str) -> None:
    _, path = import_dataset("toy", saved(tmp_path / "in.npz"), None)
    path.with_name("toy.dataset.json").write_text(text)
    with pytest.raises(DataError, match="toy"):
        load_dataset("toy")


def test_lost_files_of_an_import_are_refused(tmp_path: Path) -> None:
    _, path = import_dataset("toy", saved(tmp_path / "in.npz"), None)
    path.unlink()
    with pytest.raises(DataError, match=r"toy\.npz is not a readable"):
        load_dataset("toy")
    path.with_name("toy.dataset.json").unlink()
    with pytest.raises(UnknownNameError, match="toy"):
        load_dataset("toy")


@pytest.mark.parametrize("name", ["", "a b", "../up", "a/b", "a.npz", "-", "_-_", "ünder", "a\n", "models:/x"])
def test_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a data set"):
        import_dataset(name, saved(tmp_path / "in.npz"), None)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["cells", "Cells-2", "my_set", "7"])
def test_letters_digits_dashes_and_underscores_name_a_data_set(tmp_path: Path, name: str) -> None:
    import_dataset(name, saved(tmp_path / "in.npz"), None)
    assert load_dataset(name).name == name


def test_built_in_name_is_not_taken(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'digits' is built in"):
        import_dataset("digits", saved(tmp_path / "in.npz"), None)


def test_name_of_a_published_set_is_taken_only_by_its_own_images(tmp_path: Path) -> None:
    place = tmp_path / "cache" / "rewindctl"
    place.mkdir(parents=True)
    (place / "cifar10.npz").write_bytes(b"the published one")
    with pytest.raises(DataError, match=r"in\.npz is not cifar10"):
        import_dataset("cifar10", saved(tmp_path / "in.npz"), None)
    assert [path.name for path in place.iterdir()] == ["cifar10.npz"]
    assert (place / "cifar10.npz").read_bytes() == b"the published one"


def test_place_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file cannot be written") as caught:
        import_dataset("toy", saved(tmp_path / "in.npz"), tmp_path / "file")
    assert "--data-dir" in caught.value.hint


def test_refused_import_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="runs from -7 to 0"):
        import_dataset("toy", saved(tmp_path / "in.npz", y_train=-np.arange(8)), None)
    assert not (tmp_path / "cache").exists()


def test_image_folder_keeps_pixels_and_numbers_classes_by_name(tmp_path: Path) -> None:
    data, _ = import_dataset("pets", folder(tmp_path / "pets", 4, 5, 3), None)
    assert data.class_names == ("cat", "dog")
    assert (len(data.train_images), len(data.test_images)) == (4, 2)
    pictures = {image.tobytes(): label for image, label in zip(data.train_images, data.train_labels, strict=True)}
    assert pictures == {picture(seed, 4, 5, 3).tobytes(): int(seed < 2) for seed in range(4)}
    assert load_dataset("pets").digest == data.digest


def test_folder_and_archive_of_the_same_images_are_the_same_data_set(tmp_path: Path) -> None:
    data, _ = import_dataset("pets", folder(tmp_path / "pets"), None)
    images = np.stack([picture(seed) for seed in range(6)])
    archive = {"x_train": images[:4], "y_train": [1, 1, 0, 0], "x_test": images[4:], "y_test": [1, 0]}
    assert data.digest == Dataset.from_arrays("pets", archive, "memory").digest
    assert data.channels == 1


def test_grey_among_colour_becomes_colour(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets", 4, 5, 3)
    drawn(root / "train" / "cat" / "1.png", picture(7))
    data, _ = import_dataset("pets", root, None)
    assert data.channels == 3
    assert np.repeat(picture(7)[..., None], 3, axis=2).tobytes() in {image.tobytes() for image in data.train_images}


@pytest.mark.parametrize("part", ["train", "test"])
def test_one_part_grey_and_one_in_colour_become_colour(tmp_path: Path, part: str) -> None:
    root = folder(tmp_path / "pets", 4, 5, 3)
    for index, path in enumerate(sorted((root / part).rglob("*.png"))):
        drawn(path, picture(20 + index))
    data, _ = import_dataset("pets", root, None)
    grey = data.train_images if part == "train" else data.test_images
    assert data.channels == 3
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_images_of_two_sizes_are_refused_naming_both(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    drawn(root / "train" / "dog" / "2.png", picture(9, 5, 5))
    with pytest.raises(DataError, match=r"dog/2\.png is \(5, 5\), .*cat/1\.png is \(4, 5\)"):
        import_dataset("pets", root, None)


def test_two_parts_of_two_sizes_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    for path in (root / "test").rglob("*.png"):
        drawn(path, picture(9, 8, 8))
    with pytest.raises(DataError, match="pets: training images are"):
        import_dataset("pets", root, None)


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    victim = root / "test" / "cat" / "1.png"
    whole = victim.read_bytes()
    for damaged in (b"", b"no image", whole[: len(whole) // 2]):
        victim.write_bytes(damaged)
        with pytest.raises(DataError, match=r"test/cat/1\.png is not a readable image"):
            import_dataset("pets", root, None)


def test_images_of_more_than_8_bits_are_refused_not_cut_to_white(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    Image.fromarray(picture(0).astype(np.uint16) * 257).save(root / "train" / "cat" / "2.png")
    with pytest.raises(DataError, match=r"cat/2\.png has more than 8 bits"):
        import_dataset("pets", root, None)


def test_class_that_train_has_not_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    drawn(root / "test" / "emu" / "1.png", picture(0))
    with pytest.raises(DataError, match="test has a class that train/ lacks: 'emu'"):
        import_dataset("pets", root, None)


def test_class_without_images_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    (root / "train" / "emu").mkdir()
    with pytest.raises(DataError, match="class_names"):
        import_dataset("pets", root, None)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_folder_without_its_parts_or_images_is_refused(tmp_path: Path, missing: str) -> None:
    root = folder(tmp_path / "pets")
    for path in (root / missing).rglob("*.png"):
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DataError, match=f"pets/{missing} holds no images"):
        import_dataset("pets", root, None)
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(DataError, match="has no train/<class>/ and test/<class>/"):
        import_dataset("pets", root, None)


def test_files_that_are_no_images_are_passed_over(tmp_path: Path) -> None:
    digest = import_dataset("pets", folder(tmp_path / "pets"), None)[0].digest
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("mine")
    (tmp_path / "pets" / "train" / "README").write_text("mine")
    (tmp_path / "pets" / "train" / "cat" / "1.png").rename(tmp_path / "pets" / "train" / "cat" / "one.PNG")
    assert import_dataset("pets", tmp_path / "pets", None)[0].digest == digest


def test_import_command_prints_the_path_and_keeps_the_data(tmp_path: Path, cli: Cli) -> None:
    answer = cli("data", "import", "pets", str(folder(tmp_path / "pets")), "--data-dir", str(tmp_path / "mine"))
    assert (answer.code, answer.out.strip()) == (0, str(tmp_path / "mine" / "pets.npz"))
    assert "4 training and 2 test images, 4x5x1" in answer.err
    assert "digits, resnet, wrn are larger than its training set: train with --batch-size 4 or less" in answer.err
    assert load_dataset("pets", tmp_path / "mine").classes == 2


def test_import_command_speaks_json(tmp_path: Path, cli: Cli) -> None:
    facts = json.loads(cli("data", "import", "toy", str(saved(tmp_path / "in.npz")), "--json").out)
    data = load_dataset("toy")
    assert facts["digest"] == data.digest
    assert (facts["name"], facts["train"], facts["test"], facts["shape"], facts["classes"]) == ("toy", 8, 4, "2x3x1", 2)
    assert Path(facts["path"]).is_file()


@pytest.mark.parametrize(
    ("name", "source", "code", "words"),
    [
        ("toy", "nowhere.npz", 2, "nowhere.npz does not exist"),
        ("a b", "in.npz", 2, "'a b' cannot name a data set"),
        ("digits", "in.npz", 2, "'digits' is built in"),
        ("cifar10", "in.npz", 1, "in.npz is not cifar10"),
        ("toy", "text.npz", 1, "text.npz is not a readable"),
    ],
)
def test_refused_import_command_says_why_and_prints_no_data(
    tmp_path: Path, cli: Cli, name: str, source: str, code: int, words: str
) -> None:
    saved(tmp_path / "in.npz")
    (tmp_path / "text.npz").write_text("text")
    answer = cli("data", "import", name, source)
    assert (answer.code, answer.out) == (code, "")
    assert words in answer.err
    assert "hint:" in answer.err
