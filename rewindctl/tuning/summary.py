"""The end of a search: its best point, the command for a full run, plots, and the paper's rate on the same parent."""

import csv
import warnings
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from rewindctl.commands import retrain_command
from rewindctl.counting import count_of
from rewindctl.errors import DivergedError
from rewindctl.registry import RunWriter
from rewindctl.registry import records as tag
from rewindctl.rewinding.methods import FINETUNE_RATE, RetrainOptions
from rewindctl.system.safe_text import drawn
from rewindctl.tuning.sampling import counted
from rewindctl.tuning.storage import REPEATS, shown
from rewindctl.tuning.trial import RUN_ID, SearchTrialListeners, SearchTrials

BEST = "best.json"


def conclude(
    study: optuna.Study, trials: SearchTrials, writer: RunWriter, seeds: tuple[int, ...], storage: str
) -> dict[str, Any]:
    """Write every artifact and metric of the end, and return what `best.json` holds."""
    ended = counted(study)
    best = best_of(ended)
    options = trials.options(best.params)
    counts = {state: sum(name_of(trial) == state for trial in ended) for state in ("complete", "pruned", "failed")}
    result: dict[str, Any] = {
        "study": trials.spec.study,
        "storage": shown(storage),
        "method": trials.spec.method,
        "trials": counts,
        "best": {
            "trial": best.number,
            "run_id": best.user_attrs.get(RUN_ID),
            "validation_accuracy": best.value,
            "params": best.params,
        },
        "command": retrain_command(trials.retrain_spec(options), trials.parent.run_id),
        "holdout": {
            "fraction": trials.spec.holdout_fraction,
            "seed": trials.spec.holdout_seed,
            "images": len(trials.data.test_labels),
            "training_images": len(trials.data.train_labels),
        },
        "comparison": compare(trials, options, seeds) if seeds else None,
    }
    _write(study, ended, writer, result)
    return result


def best_of(ended: list[FrozenTrial]) -> FrozenTrial:
    """The complete search trial of the highest value, the first of equal ones."""
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    return max(complete, key=lambda trial: (trial.value or 0.0, -trial.number))


def compare(trials: SearchTrials, best: RetrainOptions, seeds: tuple[int, ...]) -> dict[str, Any]:
    """The best point and the paper's fine-tuning (a constant 0.001) on the same parent and held-out part.

    What the search does not vary is the same for both; what it varies has the paper's value. Each seed trains both;
    no search trial was chosen by these seeds. A training that diverges has no accuracy; its pair is left out.
    """
    reference = RetrainOptions(method="finetune", lr=FINETUNE_RATE, iterations=_reference_length(trials))
    found = {"best": best, "reference": reference}
    values = {name: [_measure(trials, name, options, seed) for seed in seeds] for name, options in found.items()}
    pairs = [
        (a, b) for a, b in zip(values["best"], values["reference"], strict=True) if a is not None and b is not None
    ]
    return {
        "seeds": list(seeds),
        **values,
        "n": len(pairs),
        "best_median": median(a for a, _ in pairs) if pairs else None,
        "reference_median": median(b for _, b in pairs) if pairs else None,
        "difference": median(a - b for a, b in pairs) if pairs else None,
        "better": sum(a > b for a, b in pairs),
        "reference_command": retrain_command(trials.retrain_spec(reference), trials.parent.run_id),
    }


def _reference_length(trials: SearchTrials) -> int | None:
    return trials.spec.iterations if trials.spec.method == "finetune" else None


def _measure(trials: SearchTrials, name: str, options: RetrainOptions, seed: int) -> float | None:
    spec = trials.trial_spec(options, (seed,))
    try:
        return trials.measure(spec, f"{name} s{seed}", {tag.TRIAL: name}, SearchTrialListeners()).value
    except DivergedError:
        return None


def _write(study: optuna.Study, ended: list[FrozenTrial], writer: RunWriter, result: dict[str, Any]) -> None:
    writer.write_json(BEST, result)
    with writer.artifact("trials.csv") as path:
        write_table(ended, path)
    with writer.artifact("plots/history.png") as path:
        plot_history(ended, path, study.study_name)
    with writer.artifact("plots/slices.png") as path:
        plot_slices(ended, path, study.study_name)
    if importances := importance(study):
        with writer.artifact("plots/importance.png") as path:
            plot_importance(importances, path, study.study_name)
    comparison = result["comparison"] or {}
    metrics = {f"trials_{state}": float(count) for state, count in result["trials"].items()} | {
        "best_validation_accuracy": result["best"]["validation_accuracy"],
        "compared_best_accuracy": comparison.get("best_median"),
        "compared_reference_accuracy": comparison.get("reference_median"),
        "compared_difference": comparison.get("difference"),
    }
    writer.log_metrics(metrics)


def importance(study: optuna.Study) -> dict[str, float]:
    """How much of the value each setting explains; empty where the search trials are too few or all alike."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # how it says that the search trials are too few
        try:
            return optuna.importance.get_param_importances(study)
        except (ValueError, RuntimeError, UserWarning):
            return {}


def write_table(ended: Iterable[FrozenTrial], path: Path) -> None:
    """A row per search trial: state, value, settings, how far it came, its run."""
    rows = [_row(trial) for trial in ended]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _row(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": name_of(trial),
        "validation_accuracy": trial.value,
        "last_step": trial.last_step,
        "run_id": trial.user_attrs.get(RUN_ID),
        "repeats_trial": trial.user_attrs.get(REPEATS),
        **{name: trial.params[name] for name in sorted(trial.params)},
    }


def name_of(trial: FrozenTrial) -> str:
    """`complete`, `pruned`, `failed`."""
    return {TrialState.FAIL: "failed"}.get(trial.state, trial.state.name.lower())


def summary_lines(best: dict[str, Any]) -> list[str]:
    """The conclusions for people."""
    counts, part = best["trials"], best["holdout"]
    params = " ".join(f"{name}={value:.6g}" for name, value in sorted(best["best"]["params"].items()))
    lines = [
        f"{count_of(counts['complete'], 'search trial')} complete, {counts['pruned']} stopped early, "
        f"{counts['failed']} diverged",
        f"best: {best['best']['validation_accuracy']:.2%} of {count_of(part['images'], 'held-out training image')}, "
        f"search trial {best['best']['trial']}: {params}",
        *comparison_lines(best["comparison"]),
        "the dense run was trained on the held-out images too: compare these accuracies with each other only",
        f"full run: {best['command']}",
    ]
    if "://" not in best["storage"] or best["storage"].startswith("sqlite"):
        lines.append(f"every search trial: optuna-dashboard {best['storage']}")
    return lines


def comparison_lines(comparison: dict[str, Any] | None) -> list[str]:
    if comparison is None:
        return []
    if not comparison["n"]:
        return [f"against fine-tuning at {FINETUNE_RATE}: no pair of trainings finished"]
    return [
        f"against fine-tuning at {FINETUNE_RATE} on the same mask: {comparison['best_median']:.2%} to "
        f"{comparison['reference_median']:.2%}, {100 * comparison['difference']:+.2f} points "
        f"(medians over n = {count_of(comparison['n'], 'seed')}, better in {comparison['better']})"
    ]


def note(best: dict[str, Any]) -> str:
    """The conclusions as Markdown, for the run's page."""
    *lines, _ = [line for line in summary_lines(best) if not line.startswith("every search trial")]
    return "\n".join(f"- {line}" for line in lines) + f"\n\n```\n{best['command']}\n```\n"


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
    axes.set_xlabel("search trial")
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
