"""The tidy frame: one row per result, joined to its mask and its dense baseline by lineage, never by name."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from rewindctl.errors import UsageError
from rewindctl.paper.plan import step_of
from rewindctl.pipeline.labels import retrain_label
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.report.columns import TYPES
from rewindctl.specs import DenseSpec, PruneSpec, RetrainSpec
from rewindctl.training.recipes import recipes

COLUMNS = tuple(TYPES)
ORDER = [
    "model",
    "dataset",
    "iterations",
    "structure",
    "schedule",
    "step",
    "label",
    "compression",
    "precision",
    "seed",
    "run_id",
]
OF_RECIPE = (
    "batch_size",
    "learning_rate",
    "lr_factor",
    "momentum",
    "nesterov",
    "weight_decay",
    "norm_epsilon",
    "crop_padding",
    "horizontal_flip",
)


Network = tuple[str | None, str | None]  # a model and a data set, None: any


def tidy_frame(registry: Registry, networks: Collection[Network] = ((None, None),)) -> pd.DataFrame:
    """Finished retrainings (and dense runs, method `none`) of the experiment, the newest of equal fingerprint.

    Only runs of `networks` are read. A network reached through several levels of pruning is `iterative`; so is, once
    more, each earlier level of such a chain, whose first level is also a one-shot result. Runs whose lineage is
    broken are left out, and stand in the way of no older one; a damaged one is an error. A run in fp32 and one in bf16
    are two results.

    `precision` is that of the retraining's updates (of a chain of several, each in its order: `fp32+bf16`),
    `dense_precision` that of its baseline. Both are empty in rows of files that older versions wrote: what they were
    trained in is not known, and unknown is a precision of its own. `recipe` names the baseline's recipe and what of
    it was changed, likewise empty there. `prune_run_id` is the mask. `origin` is the file that a row was read from,
    empty for a row of the registry.
    """
    finished = [run for network in networks for run in registry.search(**_tags(network)) if run.finished]
    finished.sort(key=lambda run: run.age)
    by_id = {run.run_id: run for run in finished}
    chains: dict[tuple[str, ...], list[RunRecord]] = {}
    for run in finished:
        chain = _chain(run, by_id, registry) if run.kind in ("dense", "retrain") else None
        if chain is not None:
            chains[run.fingerprint, _precision(chain), _precision(chain[:1])] = chain
    rows: list[dict[str, Any]] = []
    chained: set[tuple[str, float]] = set()
    for chain in chains.values():
        levels = len(chain) // 2
        if levels < 2:
            rows.append(_row(chain, "one_shot" if levels else "dense", None))
            continue
        last = chain[-2].spec
        assert isinstance(last, PruneSpec)
        step = step_of(last.sparsity, levels)
        for level in range(1, levels + 1):
            to_level = chain[: 2 * level + 1]
            if (to_level[-1].run_id, step) not in chained:
                chained.add((to_level[-1].run_id, step))
                rows.append(_row(to_level, "iterative", step))
    return in_order(pd.DataFrame(rows, columns=list(COLUMNS)))


def _tags(network: Network) -> dict[str, str]:
    return {name: value for name, value in zip(("model", "dataset"), network, strict=True) if value is not None}


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows by specification, never by time; numbers that may be missing are numbers even where all are."""
    missing = dict.fromkeys(("step", "pruned_at", "iterations_per_second"), float)
    return frame.astype(missing).sort_values(ORDER, ignore_index=True)


def _chain(run: RunRecord, by_id: dict[str, RunRecord], registry: Registry) -> list[RunRecord] | None:
    """Dense, prune, retrain, prune, ..., `run`; None when an ancestor is missing or the kinds do not alternate."""
    chain = [run]
    while chain[0].kind != "dense":
        parent = by_id.get(chain[0].parent_id or "") or _elsewhere(chain[0].parent_id, by_id, registry)
        if parent is None or parent in chain or not chain[0].is_child_of(parent):
            return None
        chain.insert(0, parent)
    kinds = [link.kind for link in chain[1:]]
    return chain if kinds == ["prune", "retrain"] * (len(kinds) // 2) or len(chain) == 1 else None


def _elsewhere(run_id: str | None, by_id: dict[str, RunRecord], registry: Registry) -> RunRecord | None:
    """A finished ancestor in another experiment, noted in `by_id`; None where there is none."""
    if run_id is None:
        return None
    try:
        found = registry.get(run_id)
    except UsageError:
        return None
    if not found.finished:
        return None
    by_id[run_id] = found
    return found


def _precision(chain: list[RunRecord]) -> str:
    """Of the retrainings of a chain, or of its dense run where it has none."""
    trained = [run for run in chain[1:] if run.kind == "retrain"] or chain[:1]
    return "+".join(dict.fromkeys(run.tags.get(tag.PRECISION, "fp32") for run in trained))


def _row(chain: list[RunRecord], schedule: str, step: float | None) -> dict[str, Any]:
    """The result at the end of a chain from its dense run."""
    dense, run = chain[0], chain[-1]
    spec, dense_spec = run.spec, dense.spec
    assert isinstance(dense_spec, DenseSpec)
    masks = [link.spec for link in chain if link.kind == "prune" and isinstance(link.spec, PruneSpec)]
    pruning = masks[-1] if masks else None
    return {
        "run_id": run.run_id,
        "model": dense_spec.model,
        "dataset": dense_spec.dataset,
        "iterations": dense_spec.iterations,
        "scale": scale_of(dense_spec),
        "recipe": recipe_of(dense_spec),
        **mask_columns(pruning),
        "sparsity_asked": pruning.sparsity if pruning else 0.0,
        "pruned_at": masks[0].iteration if masks else None,
        "schedule": schedule,
        "step": step,
        "level": len(masks),
        "method": spec.method if isinstance(spec, RetrainSpec) else "none",
        "label": retrain_label(spec) if isinstance(spec, RetrainSpec) else "none",
        "group": run.group,
        "seed": dense_spec.seed,
        "sparsity": run.metric("sparsity"),
        "compression": run.metric("compression"),
        "test_accuracy": run.metric("test_accuracy"),
        "test_accuracy_best": run.metric("test_accuracy_best"),
        "prune_run_id": chain[-2].run_id if masks else "",
        "dense_run_id": dense.run_id,
        "dense_group": dense.group,
        "dense_accuracy": dense.metric("test_accuracy"),
        "dense_accuracy_best": dense.metric("test_accuracy_best"),
        "device": run.tags.get(tag.DEVICE, ""),
        "precision": _precision(chain),
        "dense_precision": _precision(chain[:1]),
        "deterministic": run.tags.get(tag.DETERMINISTIC, ""),
        "collected": run.tags.get(tag.COLLECTED, ""),
        "data_digest": dense_spec.data_digest,
        "iterations_per_second": run.metrics.get("iterations_per_second"),
        "ended": datetime.fromtimestamp(run.ended / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "origin": "",
    }


def scale_of(dense: DenseSpec) -> float:
    """The length of a baseline over its recipe's: 1 for the paper's own, less for a scaled-down one."""
    return dense.iterations / recipes[dense.recipe].iterations if dense.recipe in recipes else 1.0


def recipe_of(dense: DenseSpec) -> str:
    """The recipe's name, and what was changed of it but its length: `resnet learning_rate=0.05`."""
    if dense.recipe not in recipes:
        return dense.recipe
    changed = [name for name in OF_RECIPE if getattr(dense, name) != getattr(recipes[dense.recipe], name)]
    return " ".join([dense.recipe, *(f"{name}={getattr(dense, name)}" for name in changed)])


def mask_columns(spec: PruneSpec | None) -> dict[str, Any]:
    """The settings of a mask; those of a dense network are empty."""
    names = ("structure", "scope", "criterion", "channel_norm")
    columns = {name: getattr(spec, name) if spec else "" for name in names}
    return columns | {"exclude": " ".join(spec.exclude) if spec else ""}
