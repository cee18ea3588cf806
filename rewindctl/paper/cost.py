"""What a plan has left to do and what that costs on this device."""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch

from rewindctl.arithmetic import AUTO
from rewindctl.counting import count_of
from rewindctl.models import kernels, models
from rewindctl.models.network import NetworkConfig
from rewindctl.paper.plan import StudyPlan
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.specs import DenseSpec, PruneSpec, ReplaySpec, RetrainSpec
from rewindctl.training.records import IN_LANE

KINDS = ("dense", "prune", "retrain")
MEASURED_SECONDS = 10.0
GIGABYTE = 1e9
RECORD_BYTES = 70_000  # spec, environment, manifest, layer table and plot of a run
Speeds = dict[tuple[str, str], float]


@dataclass(frozen=True)
class State:
    """The finished runs of a plan's stages, by fingerprint, and how fast this device trained which network and data.

    `points` are the iterations of each finished training whose states there are, recorded or replayed; `spared` the
    stages that need no run, because what they are for is known from elsewhere.
    """

    runs: dict[str, RunRecord] = field(default_factory=dict)
    speeds: Speeds = field(default_factory=dict)
    points: dict[str, frozenset[int]] = field(default_factory=dict)
    spared: frozenset[str] = frozenset()

    def of(self, key: str) -> str:
        """`done`, `known` or `todo`."""
        return "done" if key in self.runs else "known" if key in self.spared else "todo"


def state_of(
    plan: StudyPlan, registry: Registry, device: str, precision: str = AUTO, known: Collection[str] = ()
) -> State:
    """Look once per network and data set for what the registry has: the run that the pipeline would reuse.

    `known`: stages of cells whose results are known from elsewhere.
    """
    pairs = {(spec.model, spec.dataset) for stage in plan.stages.values() if isinstance(spec := stage.spec, DenseSpec)}
    finished: dict[str, list[RunRecord]] = {}
    replays: dict[str, set[int]] = {}
    speeds: Speeds = {}
    for model, dataset in sorted(pairs):
        same = [run for run in registry.search(model=model, dataset=dataset) if tag.trained_in(run, precision)]
        found = [run for run in same if run.finished]
        for run in found:
            finished.setdefault(run.fingerprint, []).append(run)
            if run.kind == "replay" and isinstance(run.spec, ReplaySpec):
                replays.setdefault(run.parent_id or "", set()).add(run.spec.iteration)
        rates = [run.metrics["iterations_per_second"] for run in found if _timed(run, device)]
        if rates:
            speeds[model, dataset] = sorted(rates)[len(rates) // 2]
    runs: dict[str, RunRecord] = {}
    for key, stage in plan.stages.items():
        parent = runs[stage.parent].run_id if stage.parent in runs else None
        if stage.parent is None or parent is not None:
            same = [run for run in finished.get(key, []) if parent is None or run.parent_id == parent]
            runs |= {key: same[-1]} if same else {}
    points = {key: frozenset(_recorded(run) | replays.get(run.run_id, set())) for key, run in runs.items()}
    return State(runs, speeds, points, plan.spared(known, runs))


def _recorded(run: RunRecord) -> set[int]:
    """The iterations that a run recorded, if its checkpoints were not left out at export."""
    spec = run.spec
    if tag.OMITTED in run.tags or not isinstance(spec, DenseSpec | RetrainSpec):
        return set()
    return {*spec.rewind_points, spec.iterations}


def replay_iterations(plan: StudyPlan, state: State) -> Counter[tuple[str, str]]:
    """Updates that make states again which stages to do start from and finished trainings lack, by network and data."""
    needed: dict[str, set[int]] = {}
    for key, stage in plan.stages.items():
        if state.of(key) != "todo":
            continue
        if isinstance(stage.spec, PruneSpec) and stage.spec.iteration is not None and stage.parent:
            needed.setdefault(stage.parent, set()).add(stage.spec.iteration)
        elif isinstance(stage.spec, RetrainSpec):
            needed.setdefault(plan.lineage(key)[-1], set()).add(stage.spec.weights_iteration)
    counts: Counter[tuple[str, str]] = Counter()
    for key in needed.keys() & state.points.keys():
        dense, there = plan.dense_of(plan.stages[key]), {0, *state.points[key]}
        for iteration in sorted(needed[key] - there - {plan.stages[key].iterations}):
            counts[dense.model, dense.dataset] += iteration - max(known for known in there if known < iteration)
            there.add(iteration)
    return counts


def _timed(run: RunRecord, device: str) -> bool:
    """Whether its speed is that of one training alone on the device."""
    if run.tags.get(tag.UPDATES) == IN_LANE:
        return False
    return run.tags.get(tag.DEVICE) == device and run.metrics.get("iterations_per_second", 0) > 0


def plan_json(
    plan: StudyPlan,
    state: State,
    speeds: Speeds,
    device: str,
    missing: list[str],
    at_once: tuple[int, float] | None = None,
) -> dict[str, Any]:
    """The plan with its costs: `stages` (each once), `totals`, and for each kind the stages done, known, to do, shared.

    `hours` are those of the training iterations to do, at the speeds known; None when one is not known. A stage is
    shared when more than one cell needs it. `missing`: data sets that the stages to do need and that are not here.
    `at_once`: how many would run together as trials of one set of kernels, and the hours then.
    """
    uses = plan.uses()
    rows = [
        {
            "kind": stage.spec.kind,
            "fingerprint": key,
            "parent": stage.parent,
            "state": state.of(key),
            "run_id": state.runs[key].run_id if key in state.runs else None,
            "iterations": stage.iterations,
            "cells": uses[key],
            "spec": stage.spec.fields(),
        }
        for key, stage in plan.stages.items()
    ]
    kinds = {kind: _counts([row for row in rows if row["kind"] == kind]) for kind in KINDS}
    todo = {pair: iterations for pair, iterations in iterations_to_do(plan, state).items() if iterations}
    known = all(pair in speeds for pair in todo)
    totals = _counts(rows) | {
        "cells": len(plan.cells),
        "trials": len(plan.seeds),
        "scale": plan.scale,
        "iterations": sum(stage.iterations for stage in plan.stages.values()),
        "iterations_todo": sum(todo.values()),
        "iterations_replayed": sum(replay_iterations(plan, state).values()),
        "hours": sum(count / speeds[pair] for pair, count in todo.items()) / 3600 if known else None,
        "bytes": sum(_bytes(plan, key) for key in plan.stages if state.of(key) == "todo"),
        "device": device,
        "missing_data": missing,
        "lanes": at_once and at_once[0],
        "hours_at_once": at_once and at_once[1],
    }
    networks = [
        {"model": model, "dataset": dataset, "iterations_todo": count, "iterations_per_second": speeds.get(pair)}
        for pair, count in todo.items()
        for model, dataset in [pair]
    ]
    return {"stages": rows, "kinds": kinds, "networks": networks, "totals": totals}


def plan_text(plan: dict[str, Any]) -> str:
    """The plan that `plan_json` made, without its single stages."""
    totals = plan["totals"]
    scale = "" if totals["scale"] == 1 else f", all iterations times {totals['scale']:g}: not the paper's results"
    columns = ["stages", "done", *(["known"] if totals["known"] else []), "todo", "shared"]
    lines = [
        f"{count_of(totals['cells'], 'cell')}, trials: {totals['trials']}{scale}",
        "",
        f"{'':8}" + "".join(f"{'to do' if name == 'todo' else name:>8}" for name in columns),
    ]
    for kind, counts in [*plan["kinds"].items(), ("all", totals)]:
        lines.append(f"{kind:8}" + "".join(f"{counts[key]:>8,}" for key in columns))
    lines.append("")
    for network in plan["networks"]:
        speed = network["iterations_per_second"]
        left = network["iterations_todo"]
        pace = "a speed not known" if speed is None else f"{speed:.4g} it/s, {time_text(left / speed)}"
        lines.append(f"{network['model']} on {network['dataset']}: {left:,} iterations at {pace}")
    time = "a time not known" if totals["hours"] is None else time_text(3600 * totals["hours"])
    lines.append(
        f"to do: {totals['iterations_todo']:,} of {totals['iterations']:,} iterations, {time} on {totals['device']} "
        f"one at a time, {totals['bytes'] / GIGABYTE:.2f} GB of artifacts"
    )
    if totals["lanes"]:
        together = time_text(3600 * totals["hours_at_once"])
        lines.append(f"about {together} with up to {totals['lanes']} at once, as lanes of one step")
    if replayed := totals["iterations_replayed"]:
        lines.append(f"of these {count_of(replayed, 'iteration')} replay points that finished trainings did not record")
    if totals["missing_data"]:
        lines.append(f"missing data: {', '.join(totals['missing_data'])}; see: rewindctl data list")
    return "\n".join(lines)


def time_text(seconds: float) -> str:
    """`40 s`, `25 min`, `3.5 h`, `1,540 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.0f} h" if seconds >= 36_000 else f"{seconds / 3600:.1f} h"


def iterations_to_do(plan: StudyPlan, state: State) -> Counter[tuple[str, str]]:
    """Updates still to make, by network and data set, replays among them."""
    counts = replay_iterations(plan, state)
    for key, stage in plan.stages.items():
        dense = plan.dense_of(stage)
        counts[dense.model, dense.dataset] += stage.iterations if state.of(key) == "todo" else 0
    return counts


def all_speeds(
    plan: StudyPlan, state: State, measure: Callable[[DenseSpec], float], said: Callable[[str], None]
) -> Speeds:
    """The speeds that the registry has, and the others measured now."""
    speeds = dict(state.speeds)
    for key, stage in plan.stages.items():
        dense = plan.dense_of(stage)
        if state.of(key) == "todo" and stage.iterations and (dense.model, dense.dataset) not in speeds:
            said(f"measuring {dense.model} on {dense.dataset} ...")
            speeds[dense.model, dense.dataset] = measure(dense)
    return speeds


def missing_data(plan: StudyPlan, state: State, present: Callable[[str], bool]) -> list[str]:
    """Data sets of stages to do that are not here."""
    names = {dataset for (_, dataset), count in iterations_to_do(plan, state).items() if count}
    return sorted(name for name in names if not present(name))


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    states = Counter(row["state"] for row in rows)
    return {
        "stages": len(rows),
        **{state: states[state] for state in ("done", "known", "todo")},
        "shared": sum(row["cells"] > 1 for row in rows),
    }


def _bytes(plan: StudyPlan, key: str) -> int:
    """About what a stage writes: parameters and momentum in 32 bits a weight that is kept, a bit a weight of a mask."""
    stage = plan.stages[key]
    weights, kernel_weights, buffers = _network_size(plan.dense_of(stage))
    bits = kernel_weights // 8
    if isinstance(stage.spec, PruneSpec):
        return bits + RECORD_BYTES
    if isinstance(stage.spec, DenseSpec):
        points = len(stage.spec.rewind_points)
        return points * 4 * (2 * weights + buffers) - 4 * weights * (0 in stage.spec.rewind_points) + RECORD_BYTES
    mask = plan.stages[stage.parent or ""].spec
    removed = round(mask.sparsity * kernel_weights) if isinstance(mask, PruneSpec) else 0
    return 4 * (2 * (weights - removed) + buffers) + bits + RECORD_BYTES


_SIZES: dict[tuple[str, str], tuple[int, int, int]] = {}


def _network_size(dense: DenseSpec) -> tuple[int, int, int]:
    """Weights, those of kernels among them, and buffers."""
    key = (dense.model, dense.dataset)
    if key not in _SIZES:
        classes = 100 if dense.dataset == "cifar100" else 10
        with torch.device("meta"):
            network = models[dense.model](NetworkConfig(3, classes, dense.norm_momentum, dense.norm_epsilon))
        tensors = network.parameters(), kernels(network).values(), network.buffers()
        weights, kernel_weights, buffers = (sum(tensor.numel() for tensor in group) for group in tensors)
        _SIZES[key] = (weights, kernel_weights, buffers)
    return _SIZES[key]
