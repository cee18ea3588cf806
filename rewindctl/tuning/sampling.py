"""Which point comes next, and which search trial is given up: Optuna's TPE and pruners, unmoved by interruptions."""

import warnings
from typing import Any, cast

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from rewindctl.specs import TuneSpec

DIVERGED = "diverged"  # a search trial's attribute: the training loss was no number
REDUCTION, RUNGS = 2, 2  # at a quarter and at half of the way the better half goes on; 20 search trials bear no more
SURE = 0.15  # three seeds of three worse than the best search trial's: p = 0.125


def abandoned(trial: FrozenTrial) -> bool:
    """Whether a search trial's worker died, was interrupted or came too late: it is no part of the search."""
    return trial.state == TrialState.FAIL and DIVERGED not in trial.user_attrs


def counted(study: Study) -> list[FrozenTrial]:
    """The search trials that take a place among those asked for, by number."""
    found = [trial for trial in study.get_trials(deepcopy=False) if not abandoned(trial)]
    return sorted(found, key=lambda trial: trial.number)


def place_of(study: Study, number: int) -> int:
    """How many search trials come before that of `number`: what its number would be without interruptions."""
    return sum(trial.number < number for trial in counted(study))


class ReseededTPE(BaseSampler):
    """TPE whose random numbers are a function of the seed and the place of the search trial, not of the process.

    So a study resumed in another process draws what the unbroken one would have drawn.
    """

    def __init__(self, seed: int, startup_trials: int) -> None:
        self._seed, self._startup = seed, startup_trials
        self._tpe = TPESampler(seed=seed, n_startup_trials=startup_trials)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        mixed = np.random.SeedSequence([self._seed, place_of(study, trial.number)]).generate_state(1)
        self._tpe = TPESampler(seed=int(mixed[0]), n_startup_trials=self._startup)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)


class LivingOnly(BasePruner):
    """A pruner that does not see abandoned search trials: their repetitions would compete against themselves."""

    def __init__(self, pruner: BasePruner) -> None:
        self._pruner = pruner

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        return self._pruner.prune(cast(Study, _Living(study)), trial)


class _Living:
    """A study without its abandoned search trials."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        return [trial for trial in self._study.get_trials(*args, **kwargs) if not abandoned(trial)]


def make_sampler(spec: TuneSpec) -> BaseSampler:
    return ReseededTPE(spec.sampler_seed, spec.startup_trials)


def make_pruner(spec: TuneSpec, longest: int) -> BasePruner:
    """`longest` is the length of the longest training of the space, in iterations.

    `halving`: asynchronous successive halving at a quarter and half of it. `wilcoxon`: between seeds, from the third.
    """
    if spec.pruner == "halving":
        first = -(-longest // REDUCTION**RUNGS)  # rounded up: the rung after the last is not just before the end
        return LivingOnly(SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION))
    if spec.pruner == "wilcoxon":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return WilcoxonPruner(p_threshold=SURE)
    return NopPruner()
