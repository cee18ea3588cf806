"""Which stages to run first where time may not do for all: those of the most telling cells."""

from rewindctl.paper.claims import CLAIMS
from rewindctl.paper.plan import Cell, StudyPlan

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
