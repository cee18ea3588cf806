"""Asking and telling, on objectives whose answers are known: optimum, interruptions, divergence, several workers."""

import math
import multiprocessing
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from rewindctl.errors import DivergedError
from rewindctl.specs import TuneSpec
from rewindctl.tuning.sampling import abandoned, counted, make_pruner, make_sampler
from rewindctl.tuning.search import OWNER, Objective, Search, SearchTrialOutcome
from rewindctl.tuning.storage import open_storage, open_study

STEPS = 16
SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "k": CategoricalDistribution([0, 6, 12]),
    "momentum": FloatDistribution(0.0, 0.99),
}
BEST_RATE, BEST_MOMENTUM = 10**-2.3, 0.7
SPEC = TuneSpec(
    parent_fingerprint="0" * 64,
    study="synthetic",
    method="finetune",
    space="{}",
    seeds=(0,),
    holdout_fraction=0.1,
    holdout_seed=0,
    evaluate_every=1,
    sampler_seed=7,
    startup_trials=6,
    pruner="halving",
)
DEAD = "999999999"


class Killed(BaseException):
    """The process ends here."""


def search(place: Path, target: int, spec: TuneSpec = SPEC, space: dict[str, BaseDistribution] = SPACE) -> Search:
    """What a fresh process opens."""
    study = open_study(open_storage(str(place)), spec, "p" * 32, make_sampler(spec), make_pruner(spec, STEPS))
    return Search(study, space, target, lambda text: None)


def height(params: dict[str, Any]) -> float:
    """Highest, 1, at a rate of 10**-2.3 and a momentum of 0.7."""
    distance = (math.log10(params["lr"]) - math.log10(BEST_RATE)) ** 2
    return 1 - 0.1 * distance - (params.get("momentum", BEST_MOMENTUM) - BEST_MOMENTUM) ** 2


def curve(trial: optuna.Trial) -> SearchTrialOutcome:
    """A training whose accuracy grows to `height`, watched by the pruner."""
    for step in range(1, STEPS + 1):
        trial.report(height(trial.params) * (1 - 0.5**step), step)
        if trial.should_prune() and step < STEPS:
            return SearchTrialOutcome(None, pruned=True)
    return SearchTrialOutcome(height(trial.params))


def plain(trial: optuna.Trial) -> SearchTrialOutcome:
    return SearchTrialOutcome(height(trial.params))


def history(found: Search) -> list[tuple[Any, ...]]:
    return [(t.params, t.value, t.state, t.intermediate_values) for t in counted(found.study)]


@pytest.mark.parametrize("seed", range(5))
def test_the_known_optimum_is_found(tmp_path: Path, seed: int) -> None:
    only = {"lr": SPACE["lr"]}
    found = search(tmp_path / "a.log", 25, SPEC.model_copy(update={"sampler_seed": seed}), only)
    found.work(plain, wait=True)
    assert abs(math.log10(found.study.best_params["lr"] / BEST_RATE)) < 0.15
    assert len(found.study.trials) == 25


def test_the_optimum_of_several_settings_is_found_with_most_trials_stopped_early(tmp_path: Path) -> None:
    found = search(tmp_path / "a.log", 40)
    found.work(curve, wait=True)
    assert height(found.study.best_params) > 0.95
    states = [trial.state for trial in found.study.trials]
    assert states.count(TrialState.PRUNED) > 10
    assert states.count(TrialState.COMPLETE) >= 3
    assert len(states) == 40


def test_a_study_resumed_after_every_trial_is_the_unbroken_one(tmp_path: Path) -> None:
    whole, broken = search(tmp_path / "whole.log", 24), tmp_path / "broken.log"
    whole.work(curve, wait=True)
    for target in range(1, 25):
        search(broken, target).work(curve, wait=True)
    assert history(search(broken, 24)) == history(whole)


def interrupted(error: type[BaseException], at: set[int], step: int) -> Callable[[optuna.Trial], SearchTrialOutcome]:
    """`curve`, ended by `error` at a step of the trials with these numbers."""

    def objective(trial: optuna.Trial) -> SearchTrialOutcome:
        if trial.number in at:
            for done in range(1, step + 1):
                trial.report(height(trial.params) * (1 - 0.5**done), done)
                trial.should_prune()
            raise error
        return curve(trial)

    return objective


@pytest.mark.parametrize("step", [0, 5, 15])
def test_a_study_interrupted_in_its_trials_is_the_unbroken_one(tmp_path: Path, step: int) -> None:
    """Parameters, values, states and curves: a trial interrupted is repeated, and leaves no trace in what follows."""
    whole, broken = search(tmp_path / "whole.log", 20), tmp_path / "broken.log"
    whole.work(curve, wait=True)
    ends = {0, 3, 4, 11, 12, 13, 20}
    for _ in ends:
        with pytest.raises(Killed):
            search(broken, 20).work(interrupted(Killed, ends, step), wait=True)
    last = search(broken, 20)
    last.work(interrupted(Killed, ends, step), wait=True)
    assert history(last) == history(whole)
    assert sum(abandoned(trial) for trial in last.study.trials) == len(ends)


@pytest.mark.parametrize("step", [0, 9])
def test_the_trial_of_a_dead_worker_is_repeated(tmp_path: Path, step: int) -> None:
    """Killed, it stays RUNNING: nobody was there to say that it failed."""
    whole, broken = search(tmp_path / "whole.log", 12), tmp_path / "broken.log"
    whole.work(curve, wait=True)
    first = search(broken, 5)
    first.work(curve, wait=True)
    trial = first.study.ask(SPACE)
    for done in range(1, step + 1):
        trial.report(height(trial.params) * (1 - 0.5**done), done)
        trial.should_prune()
    trial.set_user_attr(OWNER, f"{socket.gethostname()}:{DEAD}")
    last = search(broken, 12)
    last.work(curve, wait=True)
    assert history(last) == history(whole)
    repeated = last.study.trials[6]
    assert (last.study.trials[5].state, repeated.params) == (TrialState.FAIL, trial.params)
    assert repeated.user_attrs["repeats"] == 5


def test_a_worker_of_another_machine_is_believed_until_it_is_silent_for_long(tmp_path: Path) -> None:
    found = search(tmp_path / "a.log", 3)
    trial = found.study.ask(SPACE)
    trial.set_user_attr(OWNER, "elsewhere:1")
    trial.set_user_attr("beat", time.time())
    found.repeat_stale()
    assert found.study.trials[0].state == TrialState.RUNNING
    trial.set_user_attr("beat", time.time() - 3600)
    found.repeat_stale()
    assert [t.state for t in found.study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_one_taken_for_dead_that_lives_changes_nothing(tmp_path: Path) -> None:
    """A machine that slept: its trial was repeated meanwhile."""
    place = tmp_path / "a.log"

    def slept(trial: optuna.Trial) -> SearchTrialOutcome:
        if trial.number == 2:
            search(place, 6).study.tell(2, state=TrialState.FAIL)
        return curve(trial)

    found = search(place, 6)
    found.work(slept, wait=True)
    whole = search(tmp_path / "whole.log", 6)
    whole.work(curve, wait=True)
    assert history(found) == history(whole)


def test_a_training_that_diverges_is_a_failed_trial_and_the_search_goes_on(tmp_path: Path) -> None:
    def objective(trial: optuna.Trial) -> SearchTrialOutcome:
        if trial.params["lr"] > 0.01:
            raise DivergedError(3, trial.params["lr"], math.inf)
        return plain(trial)

    found = search(tmp_path / "a.log", 20)
    found.work(objective, wait=True)
    failed = [trial for trial in found.study.trials if trial.state == TrialState.FAIL]
    assert failed, "a space without divergence tests nothing"
    assert all(trial.params["lr"] > 0.01 and "diverged" in trial.user_attrs for trial in failed)
    assert len(found.study.trials) == 20, "a failed trial has its place, and is not repeated"
    search(tmp_path / "a.log", 20).work(objective, wait=True)
    assert len(found.study.trials) == 20


def test_when_everything_diverges_the_search_ends(tmp_path: Path) -> None:
    def objective(trial: optuna.Trial) -> SearchTrialOutcome:
        raise DivergedError(0, trial.params["lr"], math.nan)

    found = search(tmp_path / "a.log", 5)
    found.work(objective, wait=True)
    assert [trial.state for trial in found.study.trials] == [TrialState.FAIL] * 5


def test_any_other_error_ends_the_work_and_the_trial_is_repeated(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"):
        search(tmp_path / "a.log", 4).work(interrupted(OSError("disk full"), {1}, 2), wait=True)  # type: ignore[arg-type]
    last = search(tmp_path / "a.log", 4)
    last.work(curve, wait=True)
    whole = search(tmp_path / "whole.log", 4)
    whole.work(curve, wait=True)
    assert history(last) == history(whole)


def test_more_trials_go_on_where_fewer_ended(tmp_path: Path) -> None:
    whole, grown = search(tmp_path / "whole.log", 15), tmp_path / "grown.log"
    whole.work(curve, wait=True)
    search(grown, 8).work(curve, wait=True)
    search(grown, 3).work(curve, wait=True)
    assert len(search(grown, 3).study.trials) == 8
    search(grown, 15).work(curve, wait=True)
    assert history(search(grown, 15)) == history(whole)


def test_another_seed_draws_other_points(tmp_path: Path) -> None:
    found = [search(tmp_path / f"{s}.log", 3, SPEC.model_copy(update={"sampler_seed": s})) for s in (0, 1)]
    for one in found:
        one.work(plain, wait=True)
    points = [trial.params["lr"] for one in found for trial in one.study.trials]
    assert len(set(points)) == 6


def test_wilcoxon_stops_a_trial_that_is_worse_in_every_seed_from_the_third_on(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"pruner": "wilcoxon"})
    space: dict[str, BaseDistribution] = {"lr": CategoricalDistribution([0.1, 0.2])}
    found = search(tmp_path / "a.log", 8, spec, space)
    seen: dict[float, set[int]] = {}

    def objective(trial: optuna.Trial) -> SearchTrialOutcome:
        rate = trial.params["lr"]
        for index in range(6):
            trial.report(rate + 0.01 * index, index)
            if trial.should_prune() and index < 5:
                seen.setdefault(rate, set()).add(index + 1)
                return SearchTrialOutcome(None, pruned=True)
        return SearchTrialOutcome(rate)

    found.study.enqueue_trial({"lr": 0.2})
    found.work(objective, wait=True)
    assert set(seen) == {0.1}, "the better rate is never stopped, the worse one is"
    assert seen[0.1] == {3}


# Several workers of one journal, each a process.


def slow(trial: optuna.Trial) -> SearchTrialOutcome:
    time.sleep(0.01)
    return plain(trial)


def worker(place: Path, target: int) -> None:
    search(place, target).work(slow, wait=False)


def test_several_workers_make_exactly_the_trials_asked_for(tmp_path: Path) -> None:
    place, context = tmp_path / "a.log", multiprocessing.get_context("fork")
    search(place, 17)
    processes = [context.Process(target=worker, args=(place, 17)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    trials = counted(search(place, 17).study)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 17
    assert len({str(trial.params) for trial in trials}) == 17, "no two workers drew the same point"
    assert len({trial.user_attrs[OWNER] for trial in trials}) > 1


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_search import SearchTrialOutcome, plain, search
def objective(trial):
    time.sleep(0.05)
    return plain(trial)
search(Path(sys.argv[2]), int(sys.argv[3])).work(objective, wait=True)
"""


@pytest.mark.slow
def test_workers_killed_at_any_moment_leave_a_study_that_ends_exactly(tmp_path: Path) -> None:
    place = tmp_path / "a.log"
    line = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(place), "14"]
    for kill in range(3):
        process = subprocess.Popen(line)
        while process.poll() is None and len(search(place, 14).study.trials) < 4 * (kill + 1):
            time.sleep(0.02)
        time.sleep(0.03 * kill)
        process.kill()
        process.wait()
    assert subprocess.run(line, check=False).returncode == 0
    last, whole = search(place, 14), search(tmp_path / "whole.log", 14)
    whole.work(plain, wait=True)
    assert history(last) == history(whole)
    assert 1 <= sum(abandoned(trial) for trial in last.study.trials) <= 3


def test_the_last_worker_waits_for_the_others(tmp_path: Path) -> None:
    place, context = tmp_path / "a.log", multiprocessing.get_context("fork")
    found = search(place, 1)
    ended: Objective = plain
    process = context.Process(target=_slow_trial, args=(place,))
    process.start()
    while not found.study.trials:
        time.sleep(0.01)
    found.work(ended, wait=True)
    assert [trial.state for trial in found.study.trials] == [TrialState.COMPLETE]
    process.join(60)


def _slow_trial(place: Path) -> None:
    def objective(trial: optuna.Trial) -> SearchTrialOutcome:
        time.sleep(1)
        return plain(trial)

    search(place, 1).work(objective, wait=False)
