"""`mlflow run` in an environment that uv makes: 6 GB and minutes, so a target of its own (`make test-projects`)."""

import os
import shutil
import subprocess
import sys
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


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_uv_makes_the_environment_once_and_the_chain_runs_in_it(
    environments: dict[str, str], store: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "rewindctl", project / "rewindctl")
    variables = {**environments, "MLFLOW_TRACKING_URI": f"sqlite:///{store}", "PYTHONPATH": ""}
    line = ("-e", "train_dense", "-P", "model=resnet8", "-P", "dataset=digits", "-P", "iterations=6")
    done = mlflow_run(project, *line, manager="uv", **variables)
    assert done.returncode == 0, done.stderr
    registry = Registry(f"sqlite:///{store}", "Default")
    (dense,) = registry.search()
    nested = registry.get(dense.tags["mlflow.parentRunId"])
    assert nested.tags["mlflow.project.env"] == "uv"
    (made,) = Path(environments["MLFLOW_ENV_ROOT"]).iterdir()
    assert f"source {made / 'bin' / 'activate'} && python -m rewindctl train-dense" in done.stderr
    # What uv made serves virtualenv too, without pyenv: the folder's name is that of what is installed.
    line = ("-e", "prune", "-P", f"parent={dense.run_id}", "-P", "compression=5")
    done = mlflow_run(project, *line, manager="virtualenv", **variables)
    assert done.returncode == 0, done.stderr
    (prune,) = registry.search(kind="prune")
    assert prune.parent_id == dense.run_id
    assert list(made.parent.iterdir()) == [made]
    line = [str(made / "bin" / "python"), "-m", "rewindctl", "verify", "--all", "--experiment", "Default"]
    subprocess.run(line, cwd=project, env=os.environ | variables, check=True)
