"""What the trainings of a plan take where several run at once, as trials of one set of kernels."""

from collections.abc import Iterator, Mapping

from rewindctl.checks.lane_speed import COUNTS, LaneCurve, best_lanes
from rewindctl.paper.cost import State, replay_iterations
from rewindctl.paper.plan import StudyPlan

Curves = Mapping[tuple[str, str], LaneCurve]  # by network and data set


def at_once(plan: StudyPlan, state: State, curves: Curves, most: int = COUNTS[-1]) -> tuple[int, float] | None:
    """The most trials that run at once, `most` at most, and the hours that what is left to do takes so, about.

    None where the speed of a network is not known.

    Trainings of one network and data set run together that wait for equally many others; of them as many at once as
    are fastest. What is replayed is counted one at a time.
    """
    seconds, lanes = 0.0, 1
    for pair, lengths in _waves(plan, state):
        if pair not in curves:
            return None
        count = best_lanes(curves[pair], min(most, len(lengths)))
        seconds += sum(lengths) / curves[pair].at(count)
        lanes = max(lanes, count)
    for pair, iterations in replay_iterations(plan, state).items():
        if pair not in curves:
            return None
        seconds += iterations / curves[pair].at(1)
    return lanes, seconds / 3600


def _waves(plan: StudyPlan, state: State) -> Iterator[tuple[tuple[str, str], list[int]]]:
    """Network and data set of the trainings that can run together, and the iterations of each."""
    waves: dict[tuple[str, str, int], list[int]] = {}
    for key, stage in plan.stages.items():
        if stage.iterations and state.of(key) == "todo":
            above = [plan.stages[link] for link in plan.lineage(key)[1:] if state.of(link) == "todo"]
            dense, depth = plan.dense_of(stage), sum(one.iterations > 0 for one in above)
            waves.setdefault((dense.model, dense.dataset, depth), []).append(stage.iterations)
    for (model, dataset, _), lengths in waves.items():
        yield (model, dataset), lengths
