"""What a user asks `tune` for, checked before anything is opened; the held-out part of the training set."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from rewindctl.counting import count_of
from rewindctl.datasets import Dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import UsageError
from rewindctl.pipeline.requests import plan_against, require_kind
from rewindctl.registry import RunRecord
from rewindctl.rewinding.methods import OPTIONS, RetrainOptions
from rewindctl.seeds import stream
from rewindctl.specs import DenseSpec, TuneSpec, make_spec
from rewindctl.tuning.space import Space, longest, on_points, read_space, searched, space_text, usual_space

EVALUATIONS = 20  # of the longest training: enough for a curve, and for the pruner's rungs
STARTUP_TRIALS = 6
COMPARED_FROM = 1_000  # seeds of the comparison at the end begin here: none that the search has chosen by


FIELDS = {name: {"lr": "learning_rate"}.get(name, name) for name, one in OPTIONS.items() if one.tune}  # of the spec


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """The options of one call, but for the parent. Raises: UnknownNameError, UsageError.

    `retraining` is what is not searched. `seeds` counts the trainings of a search trial, `compare_seeds` those of the
    comparison with the paper's rate.
    """

    retraining: RetrainOptions = field(default_factory=lambda: RetrainOptions(method="finetune"))
    trials: int = 20
    study: str | None = None
    storage: str | None = None
    space_file: Path | None = None
    seeds: int = 1
    holdout: float = 0.1
    holdout_seed: int = 0
    evaluate_every: int | None = None
    pruner: Literal["auto", "halving", "wilcoxon", "none"] = "auto"
    sampler_seed: int = 0
    compare_seeds: int = 3
    jobs: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.holdout < 1:
            raise UsageError(f"--holdout {self.holdout:g} is outside (0, 1)", "give a fraction such as 0.1")
        if self.pruner == "wilcoxon" and self.seeds < 3:
            raise UsageError(
                f"--pruner wilcoxon with --seeds {self.seeds} could never stop a search trial",
                "give --seeds 4 or more: it decides from the third on; or --pruner halving",
            )
        if self.pruner == "halving" and self.seeds > 1:
            raise UsageError(
                f"--pruner halving stops one training early, --seeds {self.seeds} trains several per search trial",
                "give --pruner wilcoxon or none, or --seeds 1",
            )
        self.space()

    def space(self) -> Space | None:
        """The space of the file, None where none is given. Raises: UsageError."""
        found = read_space(self.space_file, self.retraining.method) if self.space_file else None
        if found is not None and (given := [name for name in self.fixed if name in found]):
            raise UsageError(f"{self.options(given[0])} is fixed, and searched in {self.space_file}", "leave one out")
        return found

    @property
    def fixed(self) -> dict[str, float]:
        """The settings of a space that are given and not searched."""
        return {name: value for name, value in self.retraining.given.items() if OPTIONS[name].number}

    def options(self, *names: str) -> str:
        """What is fixed, or these of it, as it was given."""
        return " ".join(f"{OPTIONS[name].flag} {self.fixed[name]:g}" for name in names or self.fixed)

    @property
    def chosen_pruner(self) -> str:
        """Halving needs the curve of one training, Wilcoxon's test several trainings."""
        if self.pruner != "auto":
            return self.pruner
        return "halving" if self.seeds == 1 else "wilcoxon"


@dataclass(frozen=True)
class Asked:
    """A request against its parent: the spec of the search, and the length of its longest training."""

    spec: TuneSpec
    longest: int


def asked(request: TuneRequest, parent: RunRecord, dense: DenseSpec, dataset: Dataset) -> Asked:
    """Raises: UsageError."""
    require_kind(parent, "prune")
    space = _space(request, dense)
    length = _longest(request, space, dense)
    _check_data(request, dense, dataset)
    fields = {
        "parent_fingerprint": parent.recorded_fingerprint,
        "method": request.retraining.method,
        **{own: getattr(request.retraining, name) for name, own in FIELDS.items()},
        "space": space_text(space),
        "seeds": tuple(range(dense.seed, dense.seed + request.seeds)),
        "holdout_fraction": request.holdout,
        "holdout_seed": request.holdout_seed,
        "evaluate_every": request.evaluate_every or max(1, length // EVALUATIONS),
        "sampler_seed": request.sampler_seed,
        "startup_trials": STARTUP_TRIALS,
        "pruner": request.chosen_pruner,
    }
    unnamed: TuneSpec = make_spec(TuneSpec, study="unnamed", **fields)
    name = request.study or f"{parent.run_id[:8]}-{request.retraining.method}-{unnamed.fingerprint()[:8]}"
    spec: TuneSpec = make_spec(TuneSpec, study=name, **fields)
    return Asked(spec, length)


def comparison_seeds(spec: TuneSpec, count: int) -> tuple[int, ...]:
    """Seeds by which no search trial was chosen."""
    first = COMPARED_FROM if max(spec.seeds) < COMPARED_FROM else max(spec.seeds) + 1
    return tuple(range(first, first + count))


def _space(request: TuneRequest, dense: DenseSpec) -> Space:
    space, where = request.space(), str(request.space_file)
    if space is None:
        space, where = usual_space(request.retraining.method, dense), "the usual space"
        space = {name: one for name, one in space.items() if name not in request.fixed}
        if not space:
            raise UsageError(
                f"{request.options()} leaves nothing to search",
                f"give --space FILE with {' or '.join(searched(request.retraining.method))}",
            )
    return on_points(space, dense, where)


def _longest(request: TuneRequest, space: Space, dense: DenseSpec) -> int:
    """Iterations of the longest training of the space. Raises: UsageError when it does not fit the method."""
    earliest = {name: min(one.values) for name, one in space.items()}  # the earliest iteration trains the longest
    first: dict[str, Any] = {name: int(one) if OPTIONS[name].whole else one for name, one in earliest.items()}
    options = replace(request.retraining, **first | {"iterations": None})
    plan = plan_against(dense, options)
    length = request.retraining.iterations
    if length is not None or "iterations" in space:
        plan_against(dense, replace(options, iterations=length or 1))
        return longest(space, "iterations", length or plan.iterations)
    return plan.iterations


def _check_data(request: TuneRequest, dense: DenseSpec, dataset: Dataset) -> None:
    held = len(held_out(dataset.train_size, request.holdout, request.holdout_seed))
    if dataset.train_size - held < dense.batch_size:
        raise UsageError(
            f"--holdout {request.holdout:g} leaves {count_of(dataset.train_size - held, 'training image')}, "
            f"fewer than a batch of {dense.batch_size}",
            "hold less out",
        )


def held_out(size: int, fraction: float, seed: int) -> npt.NDArray[np.int64]:
    """The sorted indices of `fraction` of `size` training images, a pure function of the three. Raises: UsageError."""
    count = round(size * fraction)
    if not 0 < count < size:
        raise UsageError(
            f"--holdout {fraction:g} holds {count} of {size} training images out", "give a fraction such as 0.1"
        )
    chosen: npt.NDArray[np.int64] = np.sort(stream(seed, "holdout").permutation(size)[:count])
    return chosen


def tuning_data(dataset: Dataset, fraction: float, seed: int, device: torch.device) -> DeviceData:
    """The training set without the held-out part, which takes the place of the test set.

    Pixels are standardised as in a full training, by the statistics of the whole training set.
    """
    held = np.zeros(dataset.train_size, dtype=bool)
    held[held_out(dataset.train_size, fraction, seed)] = True
    images, labels = dataset.train_images, dataset.train_labels
    parts = replace(
        dataset,
        train_images=images[~held],
        train_labels=labels[~held],
        test_images=images[held],
        test_labels=labels[held],
    )
    return DeviceData.upload(parts, device)
