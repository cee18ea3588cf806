"""From studies to stages: each stage once, however many cells, panels and studies use it."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rewindctl.datasets.inventory import DataFacts
from rewindctl.errors import UsageError
from rewindctl.paper.reference import at_end
from rewindctl.paper.study import MethodEntry, Panel, Study
from rewindctl.pipeline.labels import retrain_label
from rewindctl.pipeline.networks import require_layers
from rewindctl.pipeline.plan import Plan, Stage
from rewindctl.pipeline.requests import PruneOptions, dense_spec, prune_child, retrain_child
from rewindctl.rewinding.methods import WEIGHTS, RetrainOptions
from rewindctl.specs import AnyStage, DenseSpec, PruneSpec, RetrainSpec
from rewindctl.training.recipes import default_recipe, recipes, rewind_points

if TYPE_CHECKING:
    import pandas as pd

USUAL_PRUNING = {"structure": "unstructured", "scope": "global", "criterion": "magnitude"}


@dataclass(frozen=True)
class Cell:
    """A cell of a study: where it is drawn, what it is, and the stage of each trial that gives its number.

    `exclude`: patterns of the layers that lose nothing, with blanks between them. `pruned_at`: the iteration of the
    dense run whose weights the first mask was made over, None for the last. `group` is what its runs have in common:
    their fingerprint without the seed.
    """

    study: str
    panel: int
    model: str
    dataset: str
    structure: str
    scope: str
    criterion: str
    channel_norm: str
    exclude: str
    pruned_at: int | None
    schedule: str
    step: float | None
    sparsity: float
    method: str
    label: str
    k: int | None
    group: str
    stages: tuple[str, ...]

    @property
    def compression(self) -> float:
        return 1 / (1 - self.sparsity)


def pruning_name(cell: "pd.Series[Any] | dict[str, Any]") -> str:
    """`one-shot`, or `iterative (0.2)`, with every setting of pruning that is not the usual one.

    `cell`: the settings by name, of a `Cell` or of a row of a table.
    """
    if cell["schedule"] == "dense":
        return "-"
    name = "one-shot" if cell["schedule"] == "one_shot" else f"iterative ({cell['step']:g})"
    extra = [str(cell[key]) for key, usual in USUAL_PRUNING.items() if cell[key] not in (usual, "")]
    extra += [f"without {cell['exclude']}"] if cell["exclude"] else []
    extra += ["channel norm removed"] if cell["channel_norm"] == "remove" else []
    extra += [] if at_end(cell) else [f"of iteration {int(cell['pruned_at']):,}"]
    return " ".join([name, *extra])


@dataclass
class StudyPlan(Plan):
    """The stages of studies by fingerprint, and the cells that they are for; `groups`: of each stage."""

    _: KW_ONLY
    scale: float
    seeds: tuple[int, ...]
    cells: list[Cell] = field(default_factory=list)
    groups: dict[str, str] = field(default_factory=dict)

    def uses(self) -> dict[str, int]:
        """How many cells need each stage."""
        counts = dict.fromkeys(self.stages, 0)
        for cell in self.cells:
            for fingerprint in {link for stage in cell.stages for link in self.lineage(stage)}:
                counts[fingerprint] += 1
        return counts

    def only(self, cells: Iterable[Cell]) -> "StudyPlan":
        """The part of the plan that `cells` need."""
        kept = list(cells)
        needed = {link for cell in kept for stage in cell.stages for link in self.lineage(stage)}
        stages = {key: stage for key, stage in self.stages.items() if key in needed}
        return replace(self, stages=stages, cells=kept)

    def spared(self, known: Collection[str], done: Collection[str]) -> frozenset[str]:
        """The stages that need no run where the results of `known` stages are there, but only `done` ones' files are.

        What a cell that is not known descends from is needed, known or not.
        """
        unknown = {last for cell in self.cells for last in cell.stages if last not in known}
        needed = {link for last in unknown for link in self.lineage(last)}
        return frozenset(self.stages.keys() - needed - set(done))

    def without(self, spared: Collection[str]) -> "StudyPlan":
        """The plan without those stages, which no other is made from."""
        left = [replace(cell, stages=tuple(key for key in cell.stages if key not in spared)) for cell in self.cells]
        stages = {key: stage for key, stage in self.stages.items() if key not in spared}
        return replace(self, stages=stages, cells=[cell for cell in left if cell.stages])


def check_scale(scale: float) -> None:
    """Raises: UsageError for what is no part of a full length."""
    if not 0 < scale <= 1:
        raise UsageError(f"--scale {scale:g} is outside (0, 1]", "give a fraction, such as 0.01")


def make_plan(
    studies: Iterable[Study],
    facts: Callable[[str], DataFacts],
    seeds: tuple[int, ...] | None,
    scale: float = 1.0,
) -> StudyPlan:
    """The stages of all cells of `studies` for every seed (None: each study's own trials), iterations times `scale`.

    Trial by trial, so that whoever stops early has whole trials. Raises: UsageError, DataError.
    """
    check_scale(scale)
    studies = list(studies)
    most = max((study.trials for study in studies), default=1)
    plan = StudyPlan(scale=scale, seeds=tuple(range(most)) if seeds is None else seeds)
    found: dict[tuple[str, int, int], tuple[Panel, MethodEntry | None, float, list[str]]] = {}
    for seed in plan.seeds:
        for study in studies:
            if seeds is None and seed >= study.trials:
                continue
            for index, panel in enumerate(study.panels):
                planner = _PanelPlanner(plan, study, panel, facts, seed)
                for number, (method, sparsity, stage) in enumerate(planner.stages()):
                    entry = found.setdefault((study.name, index, number), (panel, method, sparsity, []))
                    entry[3].append(stage)
    plan.cells = [_cell(plan, key, *entry) for key, entry in found.items()]
    return plan


@dataclass
class _PanelPlanner:
    """The stages of one panel for one seed."""

    plan: StudyPlan
    study: Study
    panel: Panel
    facts: Callable[[str], DataFacts]
    seed: int

    def stages(self) -> Iterable[tuple[MethodEntry | None, float, str]]:
        """Method, sparsity and final stage of each cell, the stages before it added to the plan on the way."""
        try:
            dense = self._dense()
            require_layers(dense, self.facts(self.panel.dataset), self.panel.exclude)
            root = self._add(dense)
            if self.panel.schedule == "dense":
                yield None, 0.0, root.key
            for method in self.panel.methods:
                parent = root
                for sparsity in self.panel.sparsities:
                    level = self._level(parent, dense, sparsity, method)
                    yield method, sparsity, level.key
                    parent = level if self.panel.schedule == "iterative" else root
        except UsageError as error:
            raise UsageError(f"study {self.study.name!r}: {error.message}", error.hint) from None

    def _level(self, parent: Stage, dense: DenseSpec, sparsity: float, method: MethodEntry) -> Stage:
        panel = self.panel
        at = self._pruned_at(parent.spec)
        pruning = PruneOptions(
            panel.structure, panel.scope, panel.channel_norm, panel.criterion, at, exclude=panel.exclude
        )
        mask = self._add(prune_child(parent.spec, sparsity, pruning), parent)
        retrained = retrain_child(mask.spec, dense, _options(method, self.plan.scale))
        if panel.schedule == "iterative" and sparsity != panel.sparsities[-1]:
            at = self._pruned_at(retrained)
            points = () if at in (None, retrained.iterations) else (at,)
            retrained = retrained.model_copy(update={"rewind_points": points})
        return self._add(retrained, mask)

    def _pruned_at(self, parent: AnyStage) -> int | None:
        """The iteration of `parent` at which its clock stands at the panel's `pruned_at`; None: its last.

        A retraining's clock may start late: with weights and clock of iteration K, its update t is t + K there.
        Raises: UsageError where the clock of `parent` never stands there.
        """
        if self.panel.pruned_at is None:
            return None
        start = parent.clock_start if isinstance(parent, RetrainSpec) else 0
        assert isinstance(parent, DenseSpec | RetrainSpec)
        at = scaled(self.panel.pruned_at, self.plan.scale) - start
        if not 0 < at <= parent.iterations:
            what = retrain_label(parent) if isinstance(parent, RetrainSpec) else "the baseline"
            raise UsageError(
                f"pruned_at {self.panel.pruned_at} is not an iteration of {what}, whose clock runs from {start} to "
                f"{start + parent.iterations}",
                "give one within it",
            )
        return at

    def _dense(self) -> DenseSpec:
        panel = self.panel
        base = recipes[panel.recipe or default_recipe(panel.model, panel.dataset)]
        length = panel.iterations or base.iterations
        asked = [getattr(method, name) for method in panel.methods for name in WEIGHTS]
        needed = {*asked, panel.pruned_at if panel.methods else None}
        points = {*rewind_points(length, base.first_rewind_point), *(point for point in needed if point is not None)}
        return dense_spec(
            panel.model,
            self.facts(panel.dataset),
            self.seed,
            recipe=panel.recipe,
            iterations=scaled(length, self.plan.scale),
            points=sorted({scaled(point, self.plan.scale) for point in points}),
        )

    def _add(self, spec: AnyStage, parent: Stage | None = None) -> Stage:
        key = self.plan.add(spec, parent.key if parent else None)
        self.plan.groups.setdefault(key, spec.group(self.plan.groups[parent.key] if parent else None))
        return self.plan.stages[key]


def scaled(iteration: int | None, scale: float) -> int:
    """An iteration count of a full-length run in a scaled one; 0 for None. Raises: UsageError when nothing is left."""
    if not iteration:
        return 0
    number = round(iteration * scale)
    if number < 1:
        raise UsageError(f"--scale {scale:g} leaves nothing of iteration {iteration:,}", "give a larger scale")
    return number


def _options(method: MethodEntry, scale: float) -> RetrainOptions:
    """What an entry asks for in a run of `scale`: whole numbers count iterations of a full-length one."""
    asked: dict[str, Any] = method.model_dump()
    lengths = {name: scaled(value, scale) for name, value in asked.items() if isinstance(value, int)}
    return RetrainOptions(**asked | lengths)


def _cell(
    plan: StudyPlan,
    key: tuple[str, int, int],
    panel: Panel,
    method: MethodEntry | None,
    sparsity: float,
    stages: list[str],
) -> Cell:
    spec = plan.stages[stages[0]].spec
    chain = [plan.stages[key].spec for key in plan.lineage(stages[0])]
    mask = next((link for link in reversed(chain) if isinstance(link, PruneSpec)), None)
    return Cell(
        study=key[0],
        panel=key[1],
        model=panel.model,
        dataset=panel.dataset,
        structure=panel.structure,
        scope=panel.scope,
        criterion=panel.criterion,
        channel_norm=panel.channel_norm,
        exclude=" ".join(mask.exclude) if mask else "",
        pruned_at=mask.iteration if mask else None,
        schedule=panel.schedule,
        step=step_of(panel.sparsities[-1], len(panel.sparsities)) if panel.schedule == "iterative" else None,
        sparsity=sparsity,
        method=spec.method if isinstance(spec, RetrainSpec) else "none",
        label=retrain_label(spec) if isinstance(spec, RetrainSpec) else "none",
        k=_asked_k(method, spec),
        group=plan.groups[stages[0]],
        stages=tuple(stages),
    )


def _asked_k(method: MethodEntry | None, spec: AnyStage) -> int | None:
    """K of a full-length run, also of what is weight rewinding under another name."""
    if method is None or not isinstance(spec, RetrainSpec) or spec.k is None:
        return None
    return method.weights_k if method.k is None else method.k


def step_of(sparsity: float, levels: int) -> float:
    """The fraction of the remaining weights that each of `levels` levels is to remove, to two decimals.

    As asked for: whole channels reach less, and each level would seem to be of another step.
    """
    return float(round(1 - (1 - sparsity) ** (1 / levels), 2))
