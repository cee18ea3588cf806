"""The packaged reproduction: `mlflow run`, and the lists of dependencies that must agree."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli.test_help import ALL
from mlflow.projects._project_spec import load_project
from mlflow.utils.environment import _PythonEnv

from rewindctl.registry import Registry

ROOT = Path(__file__).parents[1]


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_every_environment_lists_the_dependencies_of_the_package() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert read_yaml("conda.yaml")["dependencies"][-1]["pip"] == wanted
    assert read_yaml("python_env.yaml")["dependencies"] == wanted


def test_every_file_of_the_package_is_installed_with_it() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folders = {ROOT.joinpath(*name.split(".")): patterns for name, patterns in data.items()}
    named = {path for folder, patterns in folders.items() for pattern in patterns for path in folder.glob(pattern)}
    assert named == {path for path in (ROOT / "rewindctl").rglob("*.*") if path.suffix not in (".py", ".pyc")}


def test_the_project_has_the_promised_entry_points() -> None:
    wanted = {"main", "train_dense", "prune", "retrain", "iterate", "tune", "reproduce", "compare"}
    assert set(read_yaml("MLproject")["entry_points"]) == wanted


def test_virtualenv_and_uv_make_of_the_conda_file_what_the_other_file_says() -> None:
    converted = _PythonEnv.from_conda_yaml(ROOT / "conda.yaml")
    written = _PythonEnv.from_yaml(ROOT / "python_env.yaml")
    assert (converted.python, converted.dependencies) == (written.python, written.dependencies)
    assert set(converted.build_dependencies) <= set(written.build_dependencies)


GIVEN = {"parent": "abcdef", "method": "lr_rewind"}
PASSED = {
    "main": {"iterations": "12", "checkpoint-every": "5"},
    "train_dense": {"iterations": "1000", "rewind-points": "0,100", "batch-size": "64", "lr": "0.05"},
    "prune": {"compression": "9.35"},
    "retrain": {"k": "100", "lr-clock": "restarted", "momentum": "0.5", "compression": "20"},
    "iterate": {"k": "100", "structure": "structured"},
    "tune": {"space": "a folder/space.yaml", "study": "it's"},
    "reproduce": {"jobs": "2", "cells": "method=lr_rewind,compression>5"},
    "compare": {"study": "fig1", "margin": "0.2"},
}


@pytest.mark.parametrize("name", PASSED)
def test_the_command_of_an_entry_point_parses_with_what_is_declared_and_what_passes_through(name: str) -> None:
    entry = load_project(str(ROOT)).get_entry_point(name)
    asked = {key: value for key, value in GIVEN.items() if key in entry.parameters} | PASSED[name]
    program, flag, module, command, *words = shlex.split(entry.compute_command(asked, None))
    assert (program, flag, module) == ("python", "-m", "rewindctl")
    parsed = ALL[command].make_context(command, words).params
    for key, value in asked.items():
        found = parsed[key.replace("-", "_")]
        text = found[0] if isinstance(found, list) else f"{found:g}" if isinstance(found, float) else str(found)
        assert text == value


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what `mlflow run` needs, so that nothing is written into the checkout."""
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "rewindctl", tmp_path / "rewindctl", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def mlflow_run(
    folder: Path, *arguments: str, uri: str = ".", manager: str = "local", **variables: str
) -> subprocess.CompletedProcess[str]:
    """`mlflow run` in a folder; `python` is this interpreter, as it is in an activated environment."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | variables
    command = [sys.executable, "-m", "mlflow", "run", uri, "--env-manager", manager, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_mlflow_run_makes_the_whole_chain_with_its_lineage(project: Path, store: Path) -> None:
    done = mlflow_run(project, "-P", "seeds=0", "-P", "compressions=5", "-P", "iterations=12", "-P", "k=6")
    assert done.returncode == 0, done.stderr
    uri = f"sqlite:///{store}"
    runs = Registry(uri, "Default").search()
    assert sorted(run.kind for run in runs) == ["dense", "prune", "retrain", "retrain", "retrain"]
    by_id = {run.run_id: run for run in runs}
    for run in runs:
        kind_of_parent = by_id[run.parent_id].kind if run.parent_id else None
        assert kind_of_parent == {"dense": None, "prune": "dense", "retrain": "prune"}[run.kind]
    (nested,) = {run.tags["mlflow.parentRunId"] for run in runs if run.kind == "dense"}
    assert Registry(uri, "Default").get(nested).tags["mlflow.project.entryPoint"] == "main"
    assert (project / "demo" / "curves.png").is_file()


@pytest.mark.slow
def test_entry_points_pass_their_parameters_on(project: Path, store: Path) -> None:
    done = mlflow_run(project, "-e", "train_dense", "-P", "model=resnet8", "-P", "dataset=digits", "-P", "iterations=6")
    assert done.returncode == 0, done.stderr
    (dense,) = Registry(f"sqlite:///{store}", "Default").search()
    assert (dense.params["model"], dense.params["iterations"]) == ("resnet8", "6")
    done = mlflow_run(project, "-e", "prune", "-P", f"parent={dense.run_id}", "-P", "sparsity=0.5")
    assert done.returncode == 0, done.stderr
    prune = Registry(f"sqlite:///{store}", "Default").search(kind="prune")[0]
    done = mlflow_run(project, "-e", "retrain", "-P", f"parent={prune.run_id}", "-P", "method=lr_rewind")
    assert done.returncode == 0, done.stderr
    done = mlflow_run(project, "-e", "tune", "-P", f"parent={prune.run_id}", "-P", "trials=1", "-P", "iterations=3")
    assert done.returncode == 0, done.stderr
    by_kind = {run.kind: run for run in Registry(f"sqlite:///{store}", "Default").search()}
    assert set(by_kind) == {"dense", "prune", "retrain", "tune", "trial"}
    assert by_kind["tune"].parent_id == prune.run_id
    assert by_kind["trial"].parent_id == by_kind["tune"].run_id
    assert mlflow_run(project, "-e", "compare").returncode == 0


@pytest.mark.slow
def test_virtualenv_without_pyenv_fails_and_makes_nothing_of_ours(project: Path, store: Path) -> None:
    """MLflow has pyenv find and build Python; `uv` needs neither (tests/test_environments.py)."""
    folders = [Path(sys.executable).parent, *map(Path, os.environ["PATH"].split(os.pathsep))]
    path = os.pathsep.join(str(folder) for folder in folders if not (folder / "pyenv").exists())
    variables = {"PATH": path, "MLFLOW_ENV_ROOT": str(project / "environments")}
    done = mlflow_run(project, "-e", "train_dense", manager="virtualenv", **variables)
    assert done.returncode != 0
    assert "pyenv" in done.stderr
    assert Registry(f"sqlite:///{store}", "Default").search() == []


# From a git server: in a folder of its own, gone after the run


@pytest.fixture
def served(project: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a repository with the project, tagged `v1`; its newest version has nothing to run."""

    def git(*words: str) -> None:
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", project, *author, *words], check=True, capture_output=True)

    git("init", "-q")
    git("add", "MLproject", "conda.yaml", "rewindctl")
    git("commit", "-q", "-m", "one")
    git("tag", "v1")
    git("rm", "-q", "MLproject")
    git("commit", "-q", "-m", "two")
    git("clone", "-q", "--bare", str(project), str(tmp_path / "served" / "repo.git"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = ["git", "daemon", "--export-all", f"--base-path={tmp_path / 'served'}", "--listen=127.0.0.1"]
    with subprocess.Popen([*line, f"--port={port}"], stderr=subprocess.DEVNULL) as daemon:
        address = f"git://127.0.0.1:{port}/repo.git"
        while subprocess.run(["git", "ls-remote", address], capture_output=True, check=False).returncode:
            assert daemon.poll() is None
            time.sleep(0.1)
        yield address
        daemon.terminate()


@pytest.mark.slow
def test_a_version_from_a_git_server_records_its_commit_and_lineage(served: str, project: Path, store: Path) -> None:
    work = store.parent / "elsewhere"
    work.mkdir()
    variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
    line = ("-v", "v1", "-e", "train_dense", "-P", "model=resnet8", "-P", "dataset=digits", "-P", "iterations=6")
    done = mlflow_run(work, *line, uri=served, **variables)
    assert done.returncode == 0, done.stderr
    registry = Registry(f"sqlite:///{store}", "Default")
    (dense,) = registry.search()
    commit = subprocess.check_output(["git", "-C", project, "rev-parse", "v1"], text=True).strip()
    nested = registry.get(dense.tags["mlflow.parentRunId"])
    assert nested.tags["mlflow.source.git.commit"] == commit
    assert json.loads(registry.artifact(dense, "environment.json").read_text())["git_commit"] == commit
    assert (dense.parent_id, dense.dense_run_id) == (None, dense.run_id)
    relative = mlflow_run(work, *line, uri=served, MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
    assert relative.returncode != 0
    assert "give mlflow run an absolute MLFLOW_TRACKING_URI" in relative.stderr
