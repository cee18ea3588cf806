"""What train-dense and retrain share: one trial as it is, several with a line for each that fails."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from rewindctl.cli.session import Session
from rewindctl.errors import RewindError

if TYPE_CHECKING:
    from rewindctl.engines.several import Result
    from rewindctl.pipeline import Pipeline
    from rewindctl.pipeline.trials import Trial

Jobs = Annotated[
    int | None, typer.Option(min=1, help="Trials at once. [a CPU: 1; a GPU: as many as fit; several GPUs: one each]")
]


def show_trials(session: Session, pipeline: "Pipeline", trials: "list[Trial]", jobs: int | None) -> None:
    """Run the trials and print the run of each, in their order.

    Raises: RewindError at the end when one of several failed.
    """
    from rewindctl.pipeline import Outcome
    from rewindctl.pipeline.trials import run_trial

    if len(trials) == 1:
        session.show_outcome(run_trial(pipeline, trials[0]))
        return
    failed = 0
    for trial, result in zip(trials, _results(session, pipeline, trials, jobs), strict=True):
        if isinstance(result, Outcome):
            session.show_outcome(result)
            continue
        failed += 1
        session.console.error(RewindError(f"{trial.label}: {result.message}", result.hint))
    if failed:
        raise RewindError(f"{failed} of {len(trials)} trials failed", "the same command runs what is missing")


def _results(session: Session, pipeline: "Pipeline", trials: "list[Trial]", jobs: int | None) -> "Iterator[Result]":
    from rewindctl.engines.choose import local_engine
    from rewindctl.engines.room import choose_jobs, need_of
    from rewindctl.engines.several import Work, in_turn

    registry = pipeline.registry
    if jobs == 1 or (jobs is None and pipeline.device.type == "cpu"):
        yield from in_turn(pipeline, trials)
        return
    work = Work(registry, session.force, session.precision)
    for trial in trials:
        work.add(trial)
    count = 1
    if work.trials_left > 1:
        need = need_of(work.denses(), session.facts)
        count = choose_jobs(jobs, work.trials_left, session.device, need, session.console.say)
    if count == 1:
        yield from in_turn(pipeline, trials)
        return
    yield from work.run(local_engine(session.site(registry), count), session.console)
