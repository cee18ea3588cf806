"""How many stages of a study run at once on this machine, and what a plan costs, one at a time and so."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rewindctl.cli.session import Session
from rewindctl.engines.choose import EngineOptions

if TYPE_CHECKING:
    from rewindctl.paper.cost import State
    from rewindctl.paper.plan import StudyPlan
    from rewindctl.specs import DenseSpec


def with_jobs(session: Session, options: EngineOptions, left: "Sequence[DenseSpec]") -> EngineOptions:
    """How many at once on this machine: as asked, if there is room; lanes of one step unasked too.

    `left`: the baseline of each stage to do. Raises: UsageError.
    """
    from rewindctl.engines.capacity import choose_jobs, lanes_of, need_of
    from rewindctl.engines.choose import at_once_text

    facts, device, say, asked = session.facts, session.device, session.console.say, options.jobs
    lanes = None if asked == 1 else lanes_of(left, facts, device, session.arithmetic, say)
    if asked == 1 or (asked is None and lanes is None):
        return options
    fit = choose_jobs(asked, len(left), device, need_of(left, facts), say, lanes=lanes)
    jobs = asked or fit  # as asked: the threads of each, which decide its bytes, do not hang on what is left to do
    if min(jobs, fit) > 1:
        say(at_once_text(jobs, device, lanes=lanes is not None))
    return replace(options, jobs=jobs)


def print_plan(session: Session, plan: "StudyPlan", known: Collection[str], options: EngineOptions | None) -> None:
    """What there is to do; networks whose speed here the registry does not know are measured for seconds.

    `options`: those of the engine of this machine; None for another one.
    """
    from rewindctl.checks.speed import measured_speed
    from rewindctl.paper import cost
    from rewindctl.training.device import device_name, resolve_device

    device = resolve_device(session.device)
    name = device_name(device)
    state = cost.state_of(plan, session.registry(), name, session.precision, known)
    together = _together(session, plan, state, options) if options else None
    speeds = cost.all_speeds(
        plan,
        state,
        lambda spec: (
            measured_speed(
                spec, session.facts(spec.dataset), device, cost.MEASURED_SECONDS, session.arithmetic
            ).iterations_per_second
        ),
        session.console.say,
    )
    made = cost.plan_json(plan, state, speeds, name, cost.missing_data(plan, state, session.has_data), together)
    if session.json:
        session.console.json(made)
    else:
        session.console.data(cost.plan_text(made))


def _together(session: Session, plan: "StudyPlan", state: "State", options: EngineOptions) -> tuple[int, float] | None:
    """How many would run at once, and the hours then; None where stages would not be lanes of one step.

    Raises: UsageError where what was asked for does not fit.
    """
    from rewindctl.engines.capacity import choose_jobs, lanes_of, need_of
    from rewindctl.paper.at_once import at_once

    left = [plan.dense_of(stage) for key, stage in plan.stages.items() if state.of(key) == "todo"]
    if not left or options.jobs == 1:
        return None
    facts, device, say = session.facts, session.device, session.console.say
    lanes = lanes_of(left, facts, device, session.arithmetic, say)
    if lanes is None:
        return None
    most = choose_jobs(options.jobs, len(left), device, need_of(left, facts), say, lanes=lanes)
    return at_once(plan, state, lanes.curves(), most)
