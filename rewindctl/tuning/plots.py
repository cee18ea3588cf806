"""Plots of a search: its course, what each setting did, how much each explains."""

from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from rewindctl.system.safe_text import drawn

BLUE, ORANGE, GREY, BLACK = "#0072B2", "#E69F00", "#999999", "#000000"
METADATA = {"Software": "rewindctl"}


def plot_history(ended: list[FrozenTrial], path: Path, title: str) -> None:
    """Every search trial by its number: complete, stopped early (its last value), diverged; a line for the best."""
    figure, axes = _figure(title)
    _scatter(axes, ended, [float(trial.number) for trial in ended])
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    best = [max(trial.value or 0.0 for trial in complete[: index + 1]) for index in range(len(complete))]
    places = [*(trial.number for trial in complete), ended[-1].number]
    axes.step(places, [*best, best[-1]], where="post", color=BLACK, linewidth=1, label="best so far")
    axes.set_xlabel("trial")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, metadata=METADATA)


def plot_slices(ended: list[FrozenTrial], path: Path, title: str) -> None:
    """Value against each setting, a panel each."""
    from matplotlib.figure import Figure
    from optuna.distributions import FloatDistribution, IntDistribution

    names = sorted({name for trial in ended for name in trial.params})
    figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
    for index, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), index + 1)
        chosen = [trial for trial in ended if name in trial.params]
        _scatter(axes, chosen, [float(trial.params[name]) for trial in chosen])
        distribution = chosen[0].distributions[name]
        if isinstance(distribution, FloatDistribution | IntDistribution) and distribution.log:
            axes.set_xscale("log")
        axes.set_xlabel(name)
        axes.set_ylabel("held-out accuracy")
    figure.suptitle(drawn(title), fontsize=9)
    figure.savefig(path, dpi=120, metadata=METADATA)


def plot_importance(importances: dict[str, float], path: Path, title: str) -> None:
    """A bar per setting: its share of what all settings explain."""
    figure, axes = _figure(title)
    names = sorted(importances, key=lambda name: importances[name])
    axes.barh(names, [importances[name] for name in names], color=BLUE, height=0.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(-1, len(names))
    axes.set_xlabel("importance")
    axes.set_ylabel("")
    figure.savefig(path, dpi=120, metadata=METADATA)


def _figure(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(drawn(title), fontsize=9)
    axes.set_ylabel("held-out accuracy")
    return figure, axes


def _scatter(axes: Any, trials: list[FrozenTrial], places: list[float]) -> None:
    looks = {
        TrialState.COMPLETE: ("complete", BLUE, "o"),
        TrialState.PRUNED: ("stopped early", ORANGE, "v"),
        TrialState.FAIL: ("diverged", GREY, "x"),
    }
    for state, (label, colour, marker) in looks.items():
        chosen = [
            (place, trial.value or 0.0) for place, trial in zip(places, trials, strict=True) if trial.state == state
        ]
        if chosen:
            axes.scatter(
                *zip(*chosen, strict=True), color=colour, marker=marker, s=22, label=f"{label} ({len(chosen)})"
            )
