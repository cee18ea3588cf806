"""The packaged reproduction: `mlflow run`, and the lists of dependencies that must agree."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewindctl.registry import Registry

ROOT = Path(__file__).parents[1]


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_every_environment_lists_the_dependencies_of_the_package() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert read_yaml("conda.yaml")["dependencies"][-1]["pip"] == wanted
    assert read_yaml("python_env.yaml")["dependencies"] == wanted


def test_the_project_has_the_promised_entry_points() -> None:
    wanted = {"main", "train_dense", "prune", "retrain", "iterate", "reproduce", "compare"}
    assert set(read_yaml("MLproject")["entry_points"]) == wanted


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what `mlflow run` needs, so that nothing is written into the checkout."""
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "rewindctl", tmp_path / "rewindctl")
    return tmp_path


def mlflow_run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # `python` must be this interpreter, as it is in an activated environment.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "mlflow", "run", ".", "--env-manager", "local", *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


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
    assert mlflow_run(project, "-e", "compare").returncode == 0
