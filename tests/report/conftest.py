"""A small study, run once for the tests of reports."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from study_rows import facts, tiny_study

from rewindctl.console import Console
from rewindctl.engines.in_turn import InProcess
from rewindctl.engines.run import run_plan
from rewindctl.engines.work import WorkerConfig
from rewindctl.paper.plan import StudyPlan, make_plan
from rewindctl.registry import Registry


@dataclass(frozen=True)
class Tiny:
    """The plan of the small study for seeds 0 and 1, the run of each of its stages, and their store."""

    plan: StudyPlan
    runs: dict[str, str]
    uri: str

    def registry(self) -> Registry:
        return Registry(self.uri)


@pytest.fixture(scope="session")
def tiny(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """dense, 2 sparsities x 3 methods one-shot, 2 levels of iterative LR rewinding; no test writes to it."""
    folder = tmp_path_factory.mktemp("tiny")
    uri = f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"
    plan = make_plan([tiny_study], facts, (0, 1))
    engine = InProcess(WorkerConfig(uri, "rewindctl", "cpu", threads=1))
    finished = run_plan(plan, {}, engine, Console(quiet=True))
    assert not finished.failures
    return Tiny(plan, finished.runs, uri)
