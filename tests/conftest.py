"""The world that tests run in: an empty folder, no settings from outside, a ready store to copy, one finished chain."""

import gc
import os
import shutil
import signal
import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import Engine, event

# A shell's background job ignores SIGINT, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
# Kernels of our own are interpreted where there is no GPU. Triton asks when it is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"
for name in (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_RUN_ID",
    "REWINDCTL_DATA",
):
    os.environ.pop(name, None)

# The same examples everywhere, however slow the machine is at that moment.
settings.register_profile("law", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("law")

from rewindctl.cli import run as run_command  # noqa: E402 (after the environment is clean)
from rewindctl.registry import Registry  # noqa: E402


@event.listens_for(Engine, "connect")
def without_fsync(connection: object, _: object) -> None:
    """SQLite need not wait for the disk: no test cuts the power, and writes survive a killed process without it."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


def pytest_collection_finish() -> None:
    """Imported objects stay until the end: let the garbage collector skip them."""
    gc.collect()
    gc.freeze()


# One short dense run: 24 iterations, points at 0, 6, 12 and 24. Enough for every law, seconds to make.
TINY = ("--model", "resnet8", "--dataset", "digits", "--iterations", "24", "--batch-size", "32")
TINY += ("--evaluate-every", "12", "--rewind-points", "6,12")


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def run_id(self) -> str:
        return self.out.strip()


Cli = Callable[..., Answer]


def quickly(case: object, *quick: object) -> object:
    """A case of a parametrized test: those that are not `quick` are left to the slow tests."""
    return case if case in quick else pytest.param(case, marks=pytest.mark.slow)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process: `cli("prune", "--parent", run)`; the folder is the test's own."""

    def call(*arguments: str) -> Answer:
        capsys.readouterr()
        code = run_command([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder and cache, 80 columns, no colour."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store after MLflow's migrations, to be copied: making one takes seconds, a copy none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    from rewindctl.registry.store.connect import connect

    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Path:
    """A fresh store where the commands of a test look for one: `mlflow.db` in its folder."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


@dataclass(frozen=True)
class Chain:
    """A finished chain in a store of its own. Tests read it; none writes to it."""

    store: Path
    uri: str
    dense: str
    prune: str
    finetune: str
    weight_rewind: str
    lr_rewind: str

    def registry(self) -> Registry:
        return Registry(self.uri)


@pytest.fixture(scope="session")
def chain(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """dense (seed 0) -> prune 5x -> finetune, weight_rewind at 6, lr_rewind."""
    folder = tmp_path_factory.mktemp("chain")
    uri = f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"

    def make(*arguments: str) -> str:
        registry = Registry(uri)
        before = {run.run_id for run in registry.search()}
        assert run_command([*arguments, "--tracking-uri", uri, "--quiet"]) == 0
        return next(run.run_id for run in registry.search() if run.run_id not in before)

    dense = make("train-dense", *TINY, "--seed", "0")
    prune = make("prune", "--parent", dense, "--compression", "5")
    methods = {"finetune": (), "weight_rewind": ("--k", "6"), "lr_rewind": ()}
    retrained = {name: make("retrain", "--parent", prune, "--method", name, *extra) for name, extra in methods.items()}
    return Chain(folder / "mlflow.db", uri, dense, prune, **retrained)


@pytest.fixture
def copied_chain(chain: Chain, tmp_path: Path) -> Chain:
    """The store of `chain` with its artifacts, copied for a test that damages or adds, with its own files."""
    return copy_chain(chain, tmp_path / "copied")


def settle(store: Path) -> None:
    """Make a copied store one that had been made where it is, without the checks of `registry relocate`."""
    from contextlib import closing

    from rewindctl.registry.roots.binding import Binding
    from rewindctl.registry.roots.relocation import rename

    binding = Binding(store)
    with closing(binding.connection()) as connection, connection:
        for home in binding.homes():
            root, mark = store.parent / "mlruns" / home.root.name, uuid.uuid4().hex
            binding.write_marker(root, mark)
            rename(connection, home, root, mark, None)


def copy_chain(chain: Chain, target: Path) -> Chain:
    shutil.copytree(chain.store.parent, target)
    uri = f"sqlite:///{target / 'mlflow.db'}"
    settle(target / "mlflow.db")
    return Chain(
        target / "mlflow.db", uri, chain.dense, chain.prune, chain.finetune, chain.weight_rewind, chain.lr_rewind
    )
