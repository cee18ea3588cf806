"""Asking and telling: exactly the search trials asked for, whatever the number of workers and however often they die.

Knows nothing of networks: an objective measures a search trial. Every worker runs the same loop on the same storage.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna import Study, Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from rewindctl.counting import count_of
from rewindctl.errors import DivergedError
from rewindctl.registry.claiming.ownership import is_gone, this_process
from rewindctl.tuning.sampling import DIVERGED, counted, place_of
from rewindctl.tuning.storage import BEAT, OWNER, REPEATS, fits

BEAT_SECONDS = 30.0
SILENT_SECONDS = 600.0  # a worker of another machine that says nothing for so long is gone
NAMELESS_SECONDS = 30.0  # a worker that died between asking and giving its name
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class SearchTrialOutcome:
    """What a search trial came to: a value to maximise, or none where it was stopped early."""

    value: float | None
    pruned: bool = False


Objective = Callable[[Trial], SearchTrialOutcome]


@dataclass(frozen=True)
class Search:
    """A study, what it varies and how many search trials it is to have; `say` is told what happens."""

    study: Study
    space: dict[str, BaseDistribution]
    target: int
    say: Callable[[str], None]

    def work(self, objective: Objective, *, wait: bool) -> None:
        """Run search trials until there are `target` of them; with `wait`, until those of other workers have ended too.

        A search trial whose training diverges is a failed one. Any other error ends the work, and it is repeated.
        """
        while True:
            try:
                trial = self._next(wait)
                if trial is None:
                    return
                self._attempt(trial, objective)
            except UpdateFinishedTrialError as error:
                self.say(f"a search trial was declared dead meanwhile and is repeated: {error}")

    def repeat_stale(self) -> None:
        """Give up the search trials whose workers are gone, and put their parameters in the queue again."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if is_stale(trial) and self._give_up(trial):
                self.say(
                    f"search trial {trial.number} of {trial.user_attrs.get(OWNER)} is repeated: its worker is gone"
                )

    def _next(self, wait: bool) -> Trial | None:
        told = False
        while True:
            self.repeat_stale()
            trials = counted(self.study)
            if any(trial.state == TrialState.RUNNING and OWNER not in trial.user_attrs for trial in trials):
                time.sleep(POLL_SECONDS / 10)  # just asked for, or its worker died at once: soon it shows which
                continue
            if sum(trial.state != TrialState.WAITING for trial in trials) < self.target:
                if (trial := self._ask()) is not None:
                    return trial
                continue
            running = [trial for trial in trials if trial.state == TrialState.RUNNING]
            if not (wait and running):
                return None
            if not told:
                owners = ", ".join(sorted({str(trial.user_attrs.get(OWNER)) for trial in running}))
                self.say(f"waiting for {count_of(len(running), 'search trial')} of {owners}")
                told = True
            time.sleep(POLL_SECONDS)

    def _ask(self) -> Trial | None:
        """A search trial of ours; None when other workers asked at the same moment and have the last places."""
        trial = self.study.ask()
        trial.set_user_attr(OWNER, this_process())  # before anything else: without it nobody knows who died
        beat(trial)
        for name, distribution in self.space.items():
            suggest(trial, name, distribution)
        if place_of(self.study, trial.number) < self.target:
            return trial
        self.study.tell(trial, state=TrialState.FAIL)
        return None

    def _attempt(self, trial: Trial, objective: Objective) -> None:
        try:
            result = objective(trial)
        except DivergedError as error:
            trial.set_user_attr(DIVERGED, error.message)
            self.study.tell(trial, state=TrialState.FAIL)
            self.say(f"search trial {trial.number} {shown(trial.params)}: diverged")
            return
        except BaseException:
            self._give_up(self.study.trials[trial.number])
            raise
        state = TrialState.PRUNED if result.pruned else TrialState.COMPLETE
        told = self.study.tell(trial, result.value, state=state, skip_if_finished=True)
        value = "-" if told.value is None else f"{told.value:.2%}"
        self.say(
            f"search trial {trial.number} {shown(trial.params)}: {value}{', stopped early' if result.pruned else ''}"
        )

    def _give_up(self, trial: FrozenTrial) -> bool:
        """Mark a search trial failed and queue its parameters; False when another worker did so, or it has ended."""
        try:
            self.study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, UpdateFinishedTrialError):
            return False
        # Of a search trial killed before, the next one draws the same point. A journal may say anything.
        whole = set(trial.params) == set(self.space)
        if whole and all(fits(value, self.space[name]) for name, value in trial.params.items()):
            self.study.enqueue_trial(trial.params, user_attrs={REPEATS: trial.number})
        return True


def suggest(trial: Trial, name: str, among: BaseDistribution) -> None:
    """Choose one setting of a search trial."""
    if isinstance(among, FloatDistribution):
        trial.suggest_float(name, among.low, among.high, step=among.step, log=among.log)
    elif isinstance(among, IntDistribution):
        trial.suggest_int(name, among.low, among.high, step=among.step, log=among.log)
    elif isinstance(among, CategoricalDistribution):
        trial.suggest_categorical(name, among.choices)


def beat(trial: Trial) -> None:
    """Say that the worker of a search trial lives."""
    trial.set_user_attr(BEAT, time.time())


def is_stale(trial: FrozenTrial) -> bool:
    """Whether the worker of a running search trial is gone: a dead process of this machine, or one long silent."""
    started = trial.datetime_start or datetime.now()
    sign = float(trial.user_attrs.get(BEAT, started.timestamp()))
    if is_gone(str(trial.user_attrs.get(OWNER, "")), sign):
        return True
    silent = time.time() - sign
    return silent > (SILENT_SECONDS if OWNER in trial.user_attrs else NAMELESS_SECONDS)


def shown(params: dict[str, Any]) -> str:
    """`lr=0.00123 k=2000`."""
    return " ".join(f"{name}={value:.4g}" for name, value in sorted(params.items()))
