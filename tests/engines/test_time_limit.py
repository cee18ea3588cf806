"""A study under a limit of time, on each engine that is here: it ends by itself, nothing is lost, and it goes on."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from started import Started, on_one_core
from studies import panel, study_of, text_of

from rewindctl.console import Console
from rewindctl.datasets.inventory import facts_of
from rewindctl.durations import Deadline
from rewindctl.engines.contract import Engine
from rewindctl.engines.in_turn import InProcess
from rewindctl.engines.lanes import Lanes
from rewindctl.engines.local import Processes
from rewindctl.engines.run import Finished, run_plan
from rewindctl.engines.schedule import Limit
from rewindctl.engines.work import WorkerConfig
from rewindctl.paper.plan import StudyPlan, make_plan
from rewindctl.pipeline import RunPolicy
from rewindctl.registry import Registry
from rewindctl.registry.runs.writer import resume_file

pytestmark = pytest.mark.slow
ENDLESS = panel(schedule="dense", iterations=1_000_000)
STUDY = panel(iterations=300, sparsities=[0.5], methods=[{"method": "finetune"}, {"method": "lr_rewind"}])
STAGES = 4
MOST_CALLS = 20
ENGINES: dict[str, tuple[Callable[[WorkerConfig], Engine], int, float]] = {
    "in this process": (InProcess, 1, 5.0),
    "threads": (lambda site: Lanes(site, 2), 2, 5.0),
    "processes": (lambda site: Processes(site, 2), 2, 30.0),  # they take seconds to start
}


def endless(seeds: int) -> StudyPlan:
    facts = facts_of("digits", None)
    return make_plan([study_of(ENDLESS)], lambda name: facts, tuple(range(seeds)))


def run_for(seconds: float, plan: StudyPlan, site: WorkerConfig, engine: Callable[[WorkerConfig], Engine]) -> Finished:
    limit = Limit(Deadline.at(time.monotonic() + seconds))
    opened = engine(replace(site, policy=RunPolicy(checkpoint_seconds=3_600.0, deadline=limit.deadline)))
    try:
        return run_plan(plan, {}, opened, Console(quiet=True), limit)
    finally:
        opened.close()


@pytest.mark.parametrize("name", ENGINES)
def test_trainings_without_end_stop_by_themselves_where_they_go_on(name: str, store: Path) -> None:
    """No point was kept before the end: the hour between two points was never over."""
    engine, count, seconds = ENGINES[name]
    plan, registry = endless(count + 1), Registry(f"sqlite:///{store}")
    site = WorkerConfig(registry.uri, "rewindctl", "cpu")
    done = run_for(seconds, plan, site, engine)
    assert (done.runs, done.failures, done.stopped) == ({}, [], "")
    assert (done.left, done.begun) == (list(plan.stages), set(list(plan.stages)[:count]))
    runs = registry.search()
    assert [run.status for run in runs] == ["KILLED"] * count
    points = {run.run_id: resume_file(run.run_id).read_bytes() for run in runs}
    run_for(seconds, plan, site, engine)
    assert {run.run_id for run in registry.search()} == set(points)
    for run_id, before in points.items():
        assert resume_file(run_id).read_bytes() != before, "it did not go on"


def reproduce(*more: str) -> tuple[int | None, str]:
    line = ("reproduce", "tiny.yaml", "--trials", "1", "--device", "cpu", "--checkpoint-every", "3600", "--jobs", "1")
    process = Started(*line, *more, first=on_one_core)
    _, err = process.communicate(timeout=300)
    assert "Traceback" not in err, err
    return process.returncode, err


def finished() -> dict[str, str]:
    return {run.fingerprint: run.run_id for run in Registry().search() if run.finished}


def digests() -> dict[str, dict[str, str]]:
    registry = Registry()
    made = {key: registry.manifest(registry.get(run_id)) for key, run_id in finished().items()}
    return {
        key: {
            path: entry["sha256"] for path, entry in manifest.items() if path not in ("environment.json", "record.json")
        }
        for key, manifest in made.items()
    }


def accuracies() -> dict[str, dict[str, float]]:
    """Every metric that no clock decides."""
    timed = ("seconds", "per_second", "memory", "cpu")
    return {
        run.fingerprint: {key: value for key, value in run.metrics.items() if not any(word in key for word in timed)}
        for run in Registry().search()
        if run.finished
    }


def test_a_study_in_pieces_ends_as_the_unbroken_one_and_loses_nothing(store: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(text_of(STUDY))
    fresh = store.read_bytes()
    before: dict[str, str] = {}
    pieces = 0
    while (answer := reproduce("--time-limit", "9s"))[0] == 3:
        pieces += 1
        assert finished().items() >= before.items(), "a finished run was lost or made again"
        before = finished()
        assert f"{STAGES - len(before)} of {STAGES} stages are left" in answer[1]
        assert pieces < MOST_CALLS
    assert answer[0] == 0, answer[1]
    assert pieces, "it was too quick to be stopped"
    assert len(Registry().search()) == len(finished()) == STAGES  # every piece went on with the runs before
    in_pieces = digests(), accuracies()
    store.write_bytes(fresh)
    assert reproduce()[0] == 0
    assert (digests(), accuracies()) == in_pieces
