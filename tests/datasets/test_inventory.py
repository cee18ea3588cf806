"""The inventory knows every data set, those of the catalog and those imported, and where each is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli

from rewindctl.datasets import datasets, load_dataset
from rewindctl.datasets.files import import_dataset
from rewindctl.datasets.inventory import describe, inventory


def found(data_dir: Path | None = None) -> dict[str, Any]:
    rows = inventory(data_dir)
    assert len({row["name"] for row in rows}) == len(rows), "a name is listed once"
    return {row["name"]: row["place"] for row in rows}


def imported(name: str, data_dir: Path | None = None) -> str:
    images, labels = np.arange(16, dtype=np.uint8).reshape(4, 2, 2, 1), np.arange(4) % 2
    np.savez("in.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return str(import_dataset(name, Path("in.npz"), data_dir)[1])


def test_every_data_set_of_the_catalog_is_listed() -> None:
    assert found() == {"cifar10": None, "cifar100": None, "digits": "built in"}
    assert set(found()) == set(datasets)


def test_files_are_found_in_the_order_of_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWINDCTL_DATA", str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "cifar10.npz").touch()
    assert found()["cifar10"] == str(tmp_path / "shared" / "cifar10.npz")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "cifar10.npz").touch()
    assert found(tmp_path / "mine")["cifar10"] == str(tmp_path / "mine" / "cifar10.npz")


def test_torchvision_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    assert found(tmp_path)["cifar100"] == str(tmp_path / "cifar-100-python")


def test_imported_data_is_listed_where_it_is_kept(tmp_path: Path) -> None:
    place = imported("toy", tmp_path / "mine")
    assert found(tmp_path / "mine")["toy"] == place
    assert "toy" not in found()


def test_description_is_that_of_the_data_set() -> None:
    data = load_dataset("digits")
    assert describe(data) == {
        "name": "digits",
        "train": 1_000,
        "test": 797,
        "shape": "8x8x1",
        "classes": 10,
        "digest": data.digest,
    }


def test_list_command_says_where_each_is_or_how_to_get_it(cli: Cli) -> None:
    place = imported("toy")
    answer = cli("data", "list")
    lines = dict(line.split(maxsplit=1) for line in answer.out.splitlines())
    assert answer.code == 0
    assert lines == {
        "cifar10": "missing: rewindctl data fetch cifar10",
        "cifar100": "missing: rewindctl data fetch cifar100",
        "digits": "built in",
        "toy": place,
    }


def test_list_command_speaks_json(tmp_path: Path, cli: Cli) -> None:
    imported("toy", tmp_path / "mine")
    answer = cli("data", "list", "--json", "--data-dir", str(tmp_path / "mine"))
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out) == inventory(tmp_path / "mine")
