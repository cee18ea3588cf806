"""Where data sets lie on disk, and how one is found, read, imported."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rewindctl.catalog import is_plain, require_plain
from rewindctl.datasets.dataset import Dataset, Images, datasets
from rewindctl.datasets.npz import check_amount, read_npz
from rewindctl.errors import DataError, UnknownNameError, UsageError
from rewindctl.system.files import cache_folder, disk_hint, read_text, replacing

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# Whatever its ending, a file is of one of these: Pillow reads 40 others, one of them by running Ghostscript.
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
MOST_PIXELS = 1 << 24  # of an image
LARGEST_RECORD = 100_000


def places(data_dir: Path | None) -> list[Path]:
    """Folders looked in, in this order: `--data-dir`, `$REWINDCTL_DATA`, the user's cache."""
    given = [data_dir, os.environ.get("REWINDCTL_DATA"), cache_folder()]
    return [Path(place).expanduser().absolute() for place in given if place]


def load_dataset(name: str, data_dir: Path | None = None) -> Dataset:
    """A data set by name, built in or imported. Raises: UnknownNameError, DataError."""
    if name not in datasets:
        for place in places(data_dir) if is_plain(name) else ():
            if _record(place, name).is_file():
                return _read_imported(place, name)
        require_dataset(name, data_dir)
    return datasets[name](data_dir)


def require_dataset(name: str, data_dir: Path | None) -> None:
    """Raises: UnknownNameError for a name of no data set, built in or imported."""
    try:
        datasets[name]
    except UnknownNameError as error:
        others = imported(data_dir)
        if others and name not in others:
            raise UnknownNameError(error.message, f"{error.hint}; imported: {', '.join(others)}") from None
        if name not in others:
            raise


def find_npz(name: str, data_dir: Path | None) -> Path | None:
    """The first `NAME.npz` in the places looked in."""
    return next((place / f"{name}.npz" for place in places(data_dir) if (place / f"{name}.npz").is_file()), None)


def missing(name: str, looked_at: Iterable[Path]) -> DataError:
    """The error that names every place looked in and the command that gets the data."""
    listed = ", ".join(str(path) for path in looked_at)
    return DataError(
        f"data set {name!r} was not found; looked for {listed}",
        f"run: rewindctl data fetch {name}  (or: rewindctl data import {name} FILE.npz)",
    )


def write_npz(path: Path, dataset: Dataset) -> None:
    """The archive that `read_npz` reads, whole or not at all."""
    with replacing(path) as temporary:
        np.savez(
            temporary,
            x_train=dataset.train_images,
            y_train=dataset.train_labels.astype(np.uint16),
            x_test=dataset.test_images,
            y_test=dataset.test_labels.astype(np.uint16),
            class_names=np.array(dataset.class_names),
        )


def import_dataset(name: str, source: Path, data_dir: Path | None) -> tuple[Dataset, Path]:
    """Check an image folder or `.npz` and keep it as `NAME.npz` with its digest beside it.

    A folder has `train/<class>/*.png` and `test/<class>/*`. The name of a built-in set is taken only by that set's
    own images, checked before anything is written. Raises: UsageError, DataError.
    """
    from rewindctl.datasets.cifar import folder_of, verified  # it reads its files with this module

    require_plain("data set", name)
    if name in datasets and folder_of(name) is None:
        raise UsageError(f"{name!r} is built in", "choose another name")
    if not source.exists():
        raise UsageError(f"{source} does not exist", "give an .npz file or a folder with train/ and test/")
    arrays = read_folder(source) if source.is_dir() else read_npz(source)
    dataset = Dataset.from_arrays(name, arrays, str(source))
    if name in datasets:
        verified(name, dataset, source)
    place = places(data_dir)[0]
    try:
        write_npz(place / f"{name}.npz", dataset)
        if name not in datasets:
            with replacing(_record(place, name)) as temporary:
                temporary.write_text(json.dumps({"digest": dataset.digest, "source": source.name}) + "\n")
    except OSError as error:
        hint = disk_hint(error, "give another --data-dir")
        raise DataError(f"{place} cannot be written: {error.strerror or error}", hint) from None
    return dataset, place / f"{name}.npz"


def imported(data_dir: Path | None) -> dict[str, Path]:
    """Imported data sets by name; the first place that has a name wins."""
    found: dict[str, Path] = {}
    for place in places(data_dir):
        for record in sorted(place.glob("*.dataset.json")):
            found.setdefault(record.name.removesuffix(".dataset.json"), place)
    return found


def read_folder(root: Path) -> dict[str, Any]:
    """The images below `train/<class>/` and `test/<class>/`. Raises: DataError naming the first wrong file."""
    classes = sorted(path.name for path in (root / "train").glob("*") if path.is_dir())
    if not classes or not (root / "test").is_dir():
        raise DataError(f"{root} has no train/<class>/ and test/<class>/ folders", "arrange the images so")
    extra = {path.name for path in (root / "test").glob("*") if path.is_dir()} - set(classes)
    if extra:
        raise DataError(f"{root}/test has a class that train/ lacks: {sorted(extra)[0]!r}")
    arrays: dict[str, Any] = {"class_names": np.array(classes)}
    for part in ("train", "test"):
        paths = [
            (path, label)
            for label, name in enumerate(classes)
            for path in sorted((root / part / name).glob("*"))
            if path.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not paths:
            raise DataError(f"{root / part} holds no images", f"known endings: {', '.join(IMAGE_SUFFIXES)}")
        arrays[f"x_{part}"] = _read_images([path for path, _ in paths])
        arrays[f"y_{part}"] = np.array([label for _, label in paths])
    if arrays["x_train"].shape[3] != arrays["x_test"].shape[3]:
        arrays |= {key: np.broadcast_to(arrays[key], (*arrays[key].shape[:3], 3)) for key in ("x_train", "x_test")}
    return arrays


def _read_images(paths: list[Path]) -> Any:
    images: list[Images] = []
    for path in paths:
        images.append(_read_image(path))
        if len(images) == 1:
            check_amount(images[0].nbytes * len(paths), f"{path.parent.parent}: {len(paths):,} images like {path.name}")
        if images[-1].shape[:2] != images[0].shape[:2]:
            raise DataError(
                f"{path} is {images[-1].shape[:2]}, {paths[0]} is {images[0].shape[:2]} (height, width)",
                "scale all images to one size",
            )
    channels = max(image.shape[2] for image in images)
    return np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in images])


def _read_image(path: Path) -> Images:
    """(height, width, 1 or 3). Raises: DataError; also for more than 8 bits, which Pillow would cut to white."""
    from PIL import Image

    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            mode = image.mode
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}")
            pixels = np.asarray(image.convert("L" if mode in ("1", "L") else "RGB"))
    except Exception as error:  # each decoder has its own errors
        raise DataError(f"{path} is not a readable image: {str(error)[:300]}") from None
    if mode.startswith(("I", "F")):
        raise DataError(f"{path} has more than 8 bits per channel (mode {mode})", "save it with 8 bits per channel")
    return pixels.reshape(*pixels.shape[:2], -1)


def _record(place: Path, name: str) -> Path:
    return place / f"{name}.dataset.json"


def _read_imported(place: Path, name: str) -> Dataset:
    path, record = place / f"{name}.npz", _record(place, name)
    hint = f"import it again: rewindctl data import {name} PATH"
    try:
        digest = str(json.loads(read_text(record, str(record), LARGEST_RECORD, hint))["digest"])
    except (UsageError, ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{record} is not readable", hint) from None
    dataset = Dataset.from_arrays(name, read_npz(path), str(path))
    if dataset.digest != digest:
        raise DataError(
            f"{path} was altered since its import: its digest is {dataset.digest[:12]}, not {digest[:12]}", hint
        )
    return dataset
