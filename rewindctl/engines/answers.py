"""What became of the stages that a plan is asked for."""

from rewindctl.console import Console
from rewindctl.engines.here import InTurn
from rewindctl.engines.run import Finished, run_plan
from rewindctl.errors import RewindError
from rewindctl.pipeline import Outcome, Pipeline
from rewindctl.pipeline.plan import Plan

NOT_TRIED = RewindError("it was not tried: the others before it failed, all in the same way")
Result = Outcome | RewindError


def run_in_turn(pipeline: Pipeline, plan: Plan) -> list[Outcome]:
    """The runs asked for, found or made one after the other. Raises: what the first failure raised."""
    finished = run_plan(plan, {}, InTurn(pipeline, strict=True), Console(quiet=True))
    results = (result_at(place, plan, finished, pipeline) for place in range(len(plan.asked)))
    return [result for result in results if isinstance(result, Outcome)]


def result_at(place: int, plan: Plan, finished: Finished, pipeline: Pipeline) -> Result | None:
    """What became of what was asked for there; None while it is under way or waits."""
    key = plan.asked[place]
    if key in finished.runs:
        reused = key in finished.reused or key in plan.asked[:place]
        return Outcome(pipeline.registry.get(finished.runs[key]), reused)
    chain = plan.lineage(key)
    failures = (failure for failure in finished.failures if failure.key in chain)
    return next((RewindError(failure.message, failure.hint) for failure in failures), None)
