"""rewindctl init"""

import json
from pathlib import Path

import pytest
from conftest import Cli

from rewindctl.registry import Registry


def test_it_prints_the_store_as_an_absolute_address(store: Path, cli: Cli) -> None:
    answer = cli("init")
    assert (answer.code, answer.out) == (0, f"sqlite:///{store}\n")
    assert answer.err == "experiment 'rewindctl' is ready\n"


def test_it_may_be_repeated(store: Path, cli: Cli) -> None:
    assert cli("init") == cli("init")


def test_json_names_the_store_and_the_experiment(store: Path, cli: Cli) -> None:
    answer = cli("init", "--json", "--experiment", "paper")
    assert json.loads(answer.out) == {"tracking_uri": f"sqlite:///{store}", "experiment": "paper"}
    assert Registry(f"sqlite:///{store}", "paper").search() == []


def test_global_options_hold_before_and_after_the_command(store: Path, cli: Cli) -> None:
    assert cli("--json", "--experiment", "paper", "init") == cli("init", "--json", "--experiment", "paper")
    assert cli("--experiment", "before", "init", "--experiment", "after", "--quiet").err == ""
    assert set(experiments(store)) == {"Default", "paper", "after"}


def test_the_store_of_the_environment_is_used(store: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = store.rename(store.with_name("elsewhere.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{moved}")
    assert cli("init").out == f"sqlite:///{moved}\n"
    assert not store.exists()


def experiments(store: Path) -> list[str]:
    from mlflow import MlflowClient

    return [experiment.name for experiment in MlflowClient(f"sqlite:///{store}").search_experiments()]


@pytest.mark.usefixtures("store")
def test_reading_needs_no_init_and_finds_what_it_made(cli: Cli) -> None:
    for line in (("list",), ("list", "--experiment", "rewindctl")):
        assert (cli(*line).code, cli(*line).err) == (0, "no runs\n")
    paper = ("list", "--experiment", "paper")
    assert cli(*paper).code == 2
    assert cli("init", "--experiment", "paper").code == 0
    assert (cli(*paper).code, cli(*paper).err) == (0, "no runs\n")
