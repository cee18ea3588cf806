"""What of a plan is run first: the most telling cells, or the comparison that is nearest to a decision."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from rewindctl.paper.claims import CLAIMS
from rewindctl.paper.plan import Cell, StudyPlan, pruning_name

Direction = Literal["worse", "as_good", "either"]


@dataclass(frozen=True)
class PlannedComparison:
    """Two ways to retrain in one scenario of a study: `first` - `second`, level by level, against `bound` (points).

    `claim`: the paper's claim that makes it, None for one of a study's own; `direction`: the claim's, or `either`.
    """

    study: str
    panel: int
    first: tuple[Cell, ...]
    second: tuple[Cell, ...]
    claim: int | None
    direction: Direction
    bound: float

    @property
    def name(self) -> str:
        """The two, and where: the words of labels."""
        cell = self.first[0]
        return f"{cell.label} - {self.second[0].label}, {cell.model} on {cell.dataset}, {pruning_name(vars(cell))}"


def comparisons(plan: StudyPlan, margin: float, own: Collection[str]) -> list[PlannedComparison]:
    """What the studies of a plan compare, panel by panel, at the levels that both methods have.

    Two methods that a claim compares; in the studies named in `own`, those of open questions, also the first method
    of a panel against each other one. `margin`: points that `as_good` may be worse.
    """
    panels: dict[tuple[str, int], dict[str, list[Cell]]] = {}
    for cell in plan.cells:
        if cell.schedule != "dense":
            panels.setdefault((cell.study, cell.panel), {}).setdefault(cell.label, []).append(cell)
    found: dict[tuple[tuple[str, ...], ...], PlannedComparison] = {}
    for (study, _), methods in panels.items():
        first_of_panel = next(iter(methods.values()))
        for one, other in combinations(methods.values(), 2):
            made = _comparison(one, other, margin, study in own and one is first_of_panel)
            if made is not None:  # two studies may have the same one
                found.setdefault(tuple(cell.stages for cell in (*made.first, *made.second)), made)
    return list(found.values())


def _comparison(one: list[Cell], other: list[Cell], margin: float, own: bool) -> PlannedComparison | None:
    """Of two methods' cells of a panel, None where nothing compares them."""
    shared = {cell.sparsity for cell in one} & {cell.sparsity for cell in other}
    sides = [tuple(cell for cell in cells if cell.sparsity in shared) for cells in (one, other)]
    if not shared:
        return None
    for claim in CLAIMS:
        for first, second in (sides, reversed(sides)):
            cell = first[0]
            if cell.method == claim.method and second[0].method in claim.against and cell.schedule in claim.schedules:
                bound = 0.0 if claim.direction == "worse" else -margin
                return PlannedComparison(cell.study, cell.panel, first, second, claim.number, claim.direction, bound)
    return PlannedComparison(one[0].study, one[0].panel, sides[0], sides[1], None, "either", 0.0) if own else None


@dataclass(frozen=True)
class TrialResult:
    """What a comparison needs of a training, run here or elsewhere; the accuracy is a fraction."""

    dense_run_id: str
    test_accuracy: float
    precision: str


def effects(
    comparison: PlannedComparison, seeds: Sequence[int], results: Mapping[str, TrialResult]
) -> dict[int, float]:
    """The effect of each seed whose cells are all done, seeds in order: the mean difference over levels, in points.

    `results`: by the stage's fingerprint. They are a pair only if they descend from one dense run.
    """
    found: dict[int, float] = {}
    for place, seed in enumerate(seeds):
        keys = [[cell.stages[place] for cell in cells] for cells in (comparison.first, comparison.second)]
        if not all(key in results for side in keys for key in side):
            continue
        if len({results[key].dense_run_id for side in keys for key in side}) == 1:
            means = [sum(results[key].test_accuracy for key in side) / len(side) for side in keys]
            found[seed] = 100 * (means[0] - means[1])
    return found


def trial(plan: StudyPlan, comparison: PlannedComparison, place: int) -> StudyPlan:
    """The part of the plan that one trial of a comparison needs: of the seed at `place`."""
    cells = [
        replace(cell, stages=(cell.stages[place],)) for cells in (comparison.first, comparison.second) for cell in cells
    ]
    return replace(plan.only(cells), seeds=(plan.seeds[place],))


@dataclass(frozen=True)
class NextTrial:
    """A trial to run: of which comparison, the seed's place in the plan, and the updates that it takes.

    `more`: how many trials the comparison is away from a decision (infinite: it would not be decided), `total`: the
    updates of so many.
    """

    comparison: PlannedComparison
    place: int
    iterations: int
    more: float
    total: float


def choices(
    plan: StudyPlan,
    undecided: Iterable[tuple[PlannedComparison, float, Collection[int]]],
    done: Collection[str],
    failed: Collection[str],
) -> list[NextTrial]:
    """The next trial of each comparison, the nearest to a decision per iteration first, equals in the study's order.

    `undecided`: comparisons with how many trials more would decide them, and the seeds that they have; `done`,
    `failed`: stages. A stage that is done, of whatever comparison, costs nothing; a trial of which a stage failed is
    passed over.
    """
    found = []
    for comparison, more, seeds in undecided:
        parts = {place: trial(plan, comparison, place) for place in range(len(plan.seeds))}
        costs = {
            place: sum(stage.iterations for key, stage in part.stages.items() if key not in done)
            for place, part in parts.items()
            if plan.seeds[place] not in seeds and not any(key in failed for key in part.stages)
        }
        if costs:
            place, *_ = costs
            left = list(costs.values())
            total = sum(left[: int(more)]) if more <= len(left) else math.inf
            found.append(NextTrial(comparison, place, costs[place], more, total))
    return sorted(found, key=lambda choice: (choice.total, choice.iterations if math.isinf(choice.total) else 0))


COMPARED = {method for claim in CLAIMS for method in (claim.method, *claim.against)}


def telling_order(plan: StudyPlan) -> dict[str, int]:
    """The place of each stage, by its fingerprint.

    Trial by trial, as the plan is. Within a trial a stage goes with the most telling cell that needs it. Cells whose
    methods the claims compare come first. Of those, one-shot cells and first levels, then second levels and so on: a
    level is whole, in every method, before the next begins, for half of a comparison says nothing. Of those, the
    highest compression, where methods differ most. Equals go by how many cells need them, then as the plan has them.
    """
    telling: dict[str, tuple[bool, int, float]] = {}
    for cell in plan.cells:
        for last in cell.stages:
            chain = plan.lineage(last)
            rank = (cell.method not in COMPARED, _levels_before(cell, chain), -cell.compression)
            for key in chain:
                telling[key] = min(telling.get(key, rank), rank)
    uses, trial = plan.uses(), {seed: place for place, seed in enumerate(plan.seeds)}
    places = {key: place for place, key in enumerate(plan.stages)}

    def rank_of(key: str) -> tuple[int, tuple[bool, int, float], int, int]:
        return trial[plan.dense_of(plan.stages[key]).seed], telling[key], -uses[key], places[key]

    return {key: place for place, key in enumerate(sorted(plan.stages, key=rank_of))}


def _levels_before(cell: Cell, chain: list[str]) -> int:
    """How many levels of pruning and retraining there are before the one of the cell; a baseline has none."""
    return max(0, (len(chain) - 3) // 2) if cell.schedule == "iterative" else 0
