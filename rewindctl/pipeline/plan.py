"""What is to be run: stages, each the child of another. Every command that makes runs makes such a plan.

Every spec that the command needs is made here, or refused before anything is run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from rewindctl.arithmetic import AUTO
from rewindctl.errors import UsageError
from rewindctl.pipeline.labels import dense_name, retrain_label, stage_label
from rewindctl.pipeline.pipeline import Pipeline
from rewindctl.pipeline.replays import replay_of, require_state
from rewindctl.pipeline.requests import (
    PruneOptions,
    dense_spec,
    plan_against,
    prune_child,
    prune_spec,
    require_kind,
    retrain_child,
    retrain_spec,
)
from rewindctl.registry import Registry, RunRecord
from rewindctl.rewinding.methods import RetrainOptions
from rewindctl.specs import AnyStage, DenseSpec, PruneSpec, ReplaySpec, RetrainSpec


@dataclass(frozen=True)
class Stage:
    """A stage of a plan under its key; `parent` is the key of the stage whose run is its parent."""

    key: str
    spec: AnyStage
    parent: str | None = None

    @property
    def iterations(self) -> int:
        """Number of training updates; 0 for a mask."""
        if isinstance(self.spec, ReplaySpec):
            return self.spec.iteration - self.spec.from_iteration
        return 0 if isinstance(self.spec, PruneSpec) else self.spec.iterations


@dataclass
class Plan:
    """Stages by key, parents before children.

    `given`: the runs that the request named, with ancestors where they are needed, which are stages too. `asked`: the
    stages whose runs are the answer, in order. `remarks`: what is said before a stage begins.
    """

    stages: dict[str, Stage] = field(default_factory=dict)
    given: dict[str, RunRecord] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    remarks: dict[str, str] = field(default_factory=dict)

    def add(self, spec: AnyStage, parent: str | None = None) -> str:
        """The key of a stage, which is added once; it records the rewind points that any of its users needs.

        It is the fingerprint, below a run that was given with the ID of that before it: reruns have equal fingerprints
        and are different parents.
        """
        run = next((above for above in self.lineage(parent) if above in self.given), None) if parent else None
        key = f"{run}/{spec.fingerprint()}" if run else spec.fingerprint()
        known = self.stages.setdefault(key, Stage(key, spec, parent))
        if isinstance(spec, DenseSpec | RetrainSpec) and isinstance(known.spec, DenseSpec | RetrainSpec):
            points = tuple(sorted({*known.spec.rewind_points, *spec.rewind_points}))
            self.stages[key] = replace(known, spec=known.spec.model_copy(update={"rewind_points": points}))
        return key

    def add_runs(self, lineage: Sequence[RunRecord]) -> str:
        """Add runs that are there, each the parent of the next; the key of the last, which is its ID."""
        parent = None
        for run in lineage:
            self.stages.setdefault(run.run_id, Stage(run.run_id, run.spec, parent))
            self.given[run.run_id] = run
            parent = run.run_id
        assert parent is not None
        return parent

    def lineage(self, key: str) -> list[str]:
        """The stage and its ancestors, itself first."""
        chain = [key]
        while (parent := self.stages[chain[-1]].parent) is not None:
            chain.append(parent)
        return chain

    def dense_of(self, stage: Stage) -> DenseSpec:
        """The dense baseline at the root of a stage."""
        spec = self.stages[self.lineage(stage.key)[-1]].spec
        assert isinstance(spec, DenseSpec)
        return spec

    def label(self, stage: Stage) -> str:
        """The stage in words; in those of the request where that named a run whose ancestors are not in the plan."""
        specs = [self.stages[key].spec for key in reversed(self.lineage(stage.key))]
        known = isinstance(specs[0], DenseSpec) and not isinstance(stage.spec, ReplaySpec)
        return stage_label(specs) if known else self.request_label(stage.key)

    def request_label(self, key: str) -> str:
        """A stage by the settings that distinguish it from the other stages of the request."""
        spec, *above = self.lineage(key)
        last = self.stages[spec].spec
        if isinstance(last, DenseSpec):
            return dense_name(last)
        what = retrain_label(last) if isinstance(last, RetrainSpec) else last.kind
        parent = next((self.given[link] for link in above if link in self.given), None)
        return f"{what} of {parent.short}" if parent else what


GRID_DECIMALS = 3
MOST_LEVELS = 200


def plan_dense(specs: Iterable[DenseSpec]) -> Plan:
    """The plan of dense baselines, one per spec."""
    plan = Plan()
    plan.asked = [plan.add(spec) for spec in specs]
    return plan


def plan_prune(parent: RunRecord, sparsity: float, pruning: PruneOptions) -> Plan:
    """A mask over a dense or a retrained run. Raises: UsageError, IntegrityError."""
    mask, plan = prune_spec(parent, sparsity, pruning), Plan()
    plan.asked = [plan.add(mask, plan.add_runs([parent]))]
    return plan


def plan_replay(pipeline: Pipeline, training: RunRecord, iteration: int) -> Plan:
    """The run that has the state of a finished training at an iteration: itself, or a replay, there or to be made.

    Raises: UsageError.
    """
    plan, made = Plan(), replay_of(pipeline, training, iteration)
    plan.asked = [plan.add_runs([made])] if isinstance(made, RunRecord) else [plan.add(made, plan.add_runs([training]))]
    return plan


def plan_retrain(
    pipeline: Pipeline,
    parents: Iterable[RunRecord],
    sparsity: float | None,
    pruning: PruneOptions,
    retraining: RetrainOptions,
) -> Plan:
    """Retrain prune runs; with a sparsity, the parents are dense or retrained runs that are pruned first.

    Raises: UsageError.
    """
    plan, registry = Plan(), pipeline.registry
    for parent in parents:
        if sparsity is None:
            pruning.refuse()
            require_kind(parent, "prune")
            spec = retrain_spec(parent, pipeline.dense_run(parent), retraining)
            plan.asked.append(plan.add(spec, plan.add_runs(registry.lineage(parent))))
            continue
        mask, dense = prune_spec(parent, sparsity, pruning), pipeline.dense_run(parent)
        spec = retrain_child(mask, pipeline.dense_of(dense), retraining)
        _require_weights(pipeline, dense, parent, [(mask, spec)])
        plan.asked.append(plan.add(spec, plan.add(mask, plan.add_runs(registry.lineage(parent)))))
    return plan


def plan_iterate(
    pipeline: Pipeline, dense: RunRecord, levels: Sequence[float], pruning: PruneOptions, retraining: RetrainOptions
) -> Plan:
    """A mask and a retraining per level, each level's parent the network retrained before it.

    Weight rewinding goes back to the original dense run's weights at every level. Raises: UsageError.
    """
    require_kind(dense, "dense")
    plan, baseline = Plan(), pipeline.dense_of(dense)
    parent, made = plan.add_runs([dense]), list[tuple[PruneSpec, RetrainSpec]]()
    for number, sparsity in enumerate(levels, start=1):
        mask = prune_child(plan.stages[parent].spec, sparsity, pruning)
        made.append((mask, retrain_child(mask, baseline, retraining)))
        key = plan.add(mask, parent)
        plan.remarks[key] = f"level {number} of {len(levels)}: sparsity {sparsity:.6g}"
        parent = plan.add(made[-1][1], key)
        plan.asked.append(parent)
    _require_weights(pipeline, dense, dense, made)
    return plan


def plan_grid(
    pipeline: Pipeline,
    model: str,
    dataset: str,
    seeds: Iterable[int],
    compressions: Sequence[float],
    retrainings: Sequence[RetrainOptions],
    iterations: int | None = None,
) -> Plan:
    """One-shot pruning of a baseline per seed to every compression, retrained in every way.

    Raises: UsageError when a retraining does not fit the baselines.
    """
    plan, data = Plan(), pipeline.dataset(dataset)
    usual = dense_spec(model, data, 0, iterations=iterations)
    points = {*usual.rewind_points, *(plan_against(usual, one).weights_iteration for one in retrainings)}
    for seed in seeds:
        dense = dense_spec(model, data, seed, iterations=iterations, points=tuple(points))
        root = plan.add(dense)
        for compression in compressions:
            mask = prune_child(dense, 1 - 1 / compression, PruneOptions())
            parent = plan.add(mask, root)
            plan.asked += [plan.add(retrain_child(mask, dense, retraining), parent) for retraining in retrainings]
    return plan


def known_runs(plan: Plan, registry: Registry, precision: str = AUTO, *, force: bool = False) -> dict[str, RunRecord]:
    """The runs of a plan's stages that are there: those given, and unless the stages are forced those found.

    Raises: IntegrityError for a damaged one.
    """
    known = dict(plan.given)
    for key, stage in plan.stages.items():
        above = known.get(stage.parent or "")
        if not force and key not in known and (stage.parent is None or above is not None):
            run = registry.find(stage.spec.fingerprint(), above, precision)
            known |= {key: run} if run else {}
    return known


def _require_weights(
    pipeline: Pipeline, dense: RunRecord, parent: RunRecord, levels: Sequence[tuple[PruneSpec, RetrainSpec]]
) -> None:
    """Refuse before a mask is made whose retraining could not start.

    Raises: UsageError when the weights that it starts from are neither recorded nor can be made again.
    """
    above: RunRecord | None = parent
    for mask, retraining in levels:
        above = above and pipeline.registry.find(mask.fingerprint(), above)
        if above is None:
            require_state(pipeline, dense, retraining.weights_iteration)
            return
        above = pipeline.registry.find(retraining.fingerprint(), above) if len(levels) > 1 else None


def sparsity_grid(step: float, until: float) -> tuple[float, ...]:
    """1 - (1 - step)^n for n = 1, 2, ..., up to and including the level that reaches `until`.

    Rounded to three decimals where neighbours stay apart, as in the paper (0.2, 0.36, 0.488, 0.59, ...).
    Raises: UsageError. Source: the paper, section 3, and its published configuration.
    """
    for option, value in (("step", step), ("until", until)):
        if not 0 < value < 1:
            raise UsageError(f"--{option} {value} is outside (0, 1)", "give a fraction, such as 0.2")
    if (1 - step) ** MOST_LEVELS > 1 - until:
        raise UsageError(f"--step {step} needs over {MOST_LEVELS} levels to reach {until}", "give a larger step")
    levels: list[float] = []
    while not levels or levels[-1] < until - 1e-9:
        exact = 1 - (1 - step) ** (len(levels) + 1)
        rounded = round(exact, GRID_DECIMALS)
        apart = step * (1 - exact) > 10**-GRID_DECIMALS  # rounding cannot swap neighbours
        levels.append(rounded if apart and abs(exact - rounded) < (1 - exact) / 4 else exact)
        if abs(levels[-1] - until) < 0.5 * 10**-GRID_DECIMALS:
            break
    return tuple(levels)
