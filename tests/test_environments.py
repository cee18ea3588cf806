"""`mlflow run` in environments that it makes: 6 GB and minutes each, so a target of its own (`make test-projects`)."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_packaging import ROOT, mlflow_run

from rewindctl.registry import Registry

# What pip is told of packages, and the name under which uv, which does not read pip's settings, takes it.
SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}


def uv_settings() -> dict[str, str]:
    """This machine's settings of pip, for uv."""
    line = [sys.executable, "-m", "pip", "config", "list"]
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # as pip: the newest, whichever index has it
    for row in subprocess.check_output(line, text=True).splitlines():
        key, _, value = row.partition("=")
        name = SETTINGS.get(key.rpartition(".")[2])
        if name is not None:
            found[name] = value.strip("'")
    return found


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An empty place for environments, and a cache of uv's beside it, from which files are linked; both go again."""
    folder = tmp_path_factory.mktemp("environments")
    yield {"MLFLOW_ENV_ROOT": str(folder / "made"), "UV_CACHE_DIR": str(folder / "cache"), **uv_settings()}
    shutil.rmtree(folder)


def a_project(folder: Path, python: str) -> Path:
    """A copy of the project for a Python of one version."""
    folder.mkdir()
    for name in ("MLproject", "conda.yaml"):
        text = (ROOT / name).read_text()
        (folder / name).write_text(text.replace("python=3.11\n", f"python={python}\n"))
    shutil.copytree(ROOT / "rewindctl", folder / "rewindctl", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


TRAIN = ("-e", "train_dense", "-P", "model=resnet8", "-P", "dataset=digits", "-P", "iterations=6")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_uv_makes_the_environment_once_and_the_chain_runs_in_it(
    environments: dict[str, str], store: Path, tmp_path: Path
) -> None:
    project = a_project(tmp_path / "project", "3.11")
    variables = {**environments, "MLFLOW_TRACKING_URI": f"sqlite:///{store}", "PYTHONPATH": ""}
    done = mlflow_run(project, *TRAIN, manager="uv", **variables)
    assert done.returncode == 0, done.stderr
    registry = Registry(f"sqlite:///{store}", "Default")
    (dense,) = registry.search()
    nested = registry.get(dense.tags["mlflow.parentRunId"])
    assert nested.tags["mlflow.project.env"] == "uv"
    (made,) = Path(environments["MLFLOW_ENV_ROOT"]).iterdir()
    assert f"source {made / 'bin' / 'activate'} && python -m rewindctl train-dense" in done.stderr
    # The second command takes the environment that is there.
    line = ("-e", "prune", "-P", f"parent={dense.run_id}", "-P", "compression=5")
    done = mlflow_run(project, *line, manager="uv", **variables)
    assert done.returncode == 0, done.stderr
    (prune,) = registry.search(kind="prune")
    assert prune.parent_id == dense.run_id
    assert list(made.parent.iterdir()) == [made]
    line = [str(made / "bin" / "python"), "-m", "rewindctl", "verify", "--all", "--experiment", "Default"]
    subprocess.run(line, cwd=project, env=os.environ | variables, check=True)


def pyenv_version() -> str:
    """The newest Python of pyenv's here that takes the packages of this one; it would build another from source."""
    if shutil.which("pyenv") is None:
        pytest.skip("mlflow's environment manager virtualenv takes Python from pyenv, which is not installed here")
    there = subprocess.check_output(["pyenv", "versions", "--bare"], text=True).split()
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    fit = [name for name in there if re.fullmatch(rf"{re.escape(minor)}\.\d+", name)]
    if not fit:
        pytest.skip(f"pyenv has no Python {minor} here")
    return max(fit, key=lambda name: int(name.rpartition(".")[2]))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_virtualenv_makes_the_environment_with_a_python_of_pyenv(store: Path, tmp_path: Path) -> None:
    """The packages are lent by this environment: pip finds all that the project asks for, and fetches none of it."""
    version = pyenv_version()
    project = a_project(tmp_path / "project", version)
    variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}", "MLFLOW_ENV_ROOT": str(tmp_path / "made")}
    done = mlflow_run(project, *TRAIN, manager="virtualenv", PYTHONPATH=sysconfig.get_path("purelib"), **variables)
    assert done.returncode == 0, done.stderr
    registry = Registry(f"sqlite:///{store}", "Default")
    (dense,) = registry.search()
    assert dense.finished
    assert registry.get(dense.tags["mlflow.parentRunId"]).tags["mlflow.project.env"] == "virtualenv"
    (made,) = (tmp_path / "made").iterdir()
    assert f"source {made / 'bin' / 'activate'} && python -m rewindctl train-dense" in done.stderr
    line = [str(made / "bin" / "python"), "--version"]
    assert subprocess.check_output(line, text=True).split() == ["Python", version]
