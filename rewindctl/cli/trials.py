"""What train-dense and retrain share: one trial as it is, several with a line for each that fails."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from rewindctl.cli.session import Session
from rewindctl.console import Console
from rewindctl.errors import RewindError

if TYPE_CHECKING:
    from rewindctl.engines.run import Finished
    from rewindctl.pipeline import Pipeline
    from rewindctl.pipeline.plan import Plan
    from rewindctl.registry import RunRecord

Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Trials run in parallel. [a CPU: 1; a GPU: as many as fit; several GPUs: one each]"),
]


def show_trials(session: Session, pipeline: "Pipeline", plan: "Plan", jobs: int | None) -> None:
    """Run a plan and print the run of each trial that it is asked for, in their order.

    Raises: RewindError at the end when one of several failed.
    """
    from rewindctl.engines.in_turn import run_in_turn

    if len(plan.asked) == 1:
        session.show_outcome(*run_in_turn(pipeline, plan))
        return
    shown = _Shown(session, pipeline, plan)
    shown.ended(_run(shown, jobs), all_are=True)
    if shown.failed:
        raise RewindError(f"{shown.failed} of {len(plan.asked)} trials failed", "the same command runs what is missing")


def _run(shown: "_Shown", jobs: int | None) -> "Finished":
    """In turn, each shown when it has ended, or at once on an engine."""
    from rewindctl.engines.capacity import choose_jobs, lanes_of, need_of
    from rewindctl.engines.choose import at_once_text, local_engine
    from rewindctl.engines.in_turn import InTurn
    from rewindctl.engines.run import run_plan
    from rewindctl.pipeline.plan import known_runs

    session, pipeline, plan, count = shown.session, shown.pipeline, shown.plan, 1
    registry = pipeline.registry
    if jobs != 1 and (jobs is not None or pipeline.device.type != "cpu"):
        known = known_runs(plan, registry, session.precision, force=session.force)
        trials = len(set(plan.asked) - known.keys())
        if trials > 1:
            denses = [plan.dense_of(stage) for key, stage in plan.stages.items() if key not in known]
            facts, device, say = session.facts, session.device, session.console.say
            lanes = lanes_of(denses, facts, device, session.arithmetic, say)
            count = choose_jobs(jobs, trials, device, need_of(denses, facts), say, lanes=lanes)
            if count > 1:
                say(at_once_text(count, device, lanes=lanes is not None))
    if count == 1:
        engine = InTurn(pipeline, strict=False)
        shown.run_of = engine.run_of
        return run_plan(plan, {}, engine, Console(quiet=True), ended=shown.ended)
    done = {key: run.run_id for key, run in known.items()}
    return run_plan(plan, done, local_engine(session.site(registry), count), session.console)


class _Shown:
    """Prints what became of each trial, in the order asked, when it and all before it are known."""

    def __init__(self, session: Session, pipeline: "Pipeline", plan: "Plan") -> None:
        self.session, self.pipeline, self.plan = session, pipeline, plan
        self.run_of: Callable[[str], RunRecord] = pipeline.registry.get
        self.failed = self._place = 0

    def ended(self, finished: "Finished", *, all_are: bool = False) -> None:
        """Print what is known now; where `all_are`, the others were not tried."""
        from rewindctl.engines.in_turn import NOT_TRIED, result_at

        while self._place < len(self.plan.asked):
            result = result_at(self._place, self.plan, finished, self.run_of) or (NOT_TRIED if all_are else None)
            if result is None:
                return
            if isinstance(result, RewindError):
                self.failed += 1
                label = self.plan.request_label(self.plan.asked[self._place])
                self.session.console.error(RewindError(f"{label}: {result.message}", result.hint))
            else:
                self.session.show_outcome(result)
            self._place += 1
