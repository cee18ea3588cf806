"""rewindctl reproduce"""

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewindctl.cli import complete, parse
from rewindctl.cli import until_decided as until
from rewindctl.cli.at_once import print_plan, with_jobs
from rewindctl.cli.session import Session, command
from rewindctl.counting import count_of
from rewindctl.durations import Deadline, parse_duration
from rewindctl.engines.choose import EngineOptions, engines
from rewindctl.errors import LimitError, RewindError, UsageError

if TYPE_CHECKING:
    from rewindctl.engines.run import Finished
    from rewindctl.engines.schedule import Limit
    from rewindctl.paper.plan import StudyPlan
    from rewindctl.report.known import Known

SHOWN_FAILURES = 20
END_SECONDS = 10.0  # kept of a limit for the last points, tables and figures, with three times what one look takes
LARGEST_END = 0.25  # of the limit
PANELS = {
    "Instead of running": ("list_studies", "show", "plan", "power"),
    "Selection": ("trials", "seeds", "cells", "scale", "known"),
    "Trials where they decide": ("until_decided", "max_trials", "budget"),
    "Engine": ("engine", "jobs", "address", "gpus", "cpus", "lanes", "time_limit"),
}


@dataclass(frozen=True)
class _Means:
    """What runs the stages. `limited`: when the time began, by the monotonic clock, and the seconds that it is."""

    engine: str
    options: EngineOptions
    limited: tuple[float, int] | None


@command(runs=True, panels=PANELS)
def reproduce(
    session: Session,
    study: Annotated[
        list[str] | None,
        typer.Argument(
            help="fig1 ... fig6, table1 ... table5, all, or a study's YAML file.",
            autocompletion=complete.names("study"),
        ),
    ] = None,
    list_studies: Annotated[bool, typer.Option("--list", help="List the studies.")] = False,
    show: Annotated[
        str | None, typer.Option(help="Print this study as YAML.", autocompletion=complete.names("study"))
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what is done, what is to do and what it costs.")] = False,
    power: Annotated[
        float | None,
        typer.Option(
            help="Print how many trials are needed to show this difference in points, estimated from published trials."
        ),
    ] = None,
    until_decided: Annotated[
        bool,
        typer.Option(
            "--until-decided", help="Add trials one by one, each to the comparison that is nearest to a decision."
        ),
    ] = False,
    max_trials: Annotated[int | None, typer.Option(help="Most trials of a comparison, 7 to 100. [12]")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Start no trial beyond this budget: 9m, 2h, 200000it (updates). Exit code 3 when something is left."
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Seeds 0 to N - 1. [the study's]")] = None,
    seeds: Annotated[str | None, typer.Option(help="List of seeds: 0-4, or 0,2,5.")] = None,
    cells: Annotated[
        str | None,
        typer.Option(
            help="Only cells that match: method=lr_rewind,compression>5",
            autocompletion=complete.conditions("cell column"),
        ),
    ] = None,
    scale: Annotated[
        float, typer.Option(help="Multiply all iterations by this, for a quick test: its results are not the paper's.")
    ] = 1.0,
    known: Annotated[
        list[Path] | None,
        typer.Option(help="A runs.csv of trials that were run elsewhere; they are not run again; repeatable."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help=f"{'; '.join(f'{name}: {one.about}' for name, one in engines.loaded().items())}.",
            autocompletion=complete.engines,
        ),
    ] = "local",
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stages run in parallel. [local: one per GPU, else one; lanes: the fastest; ray: all that fit]"
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="ray: the cluster's address, or auto. [starts a local Ray]")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="ray: GPUs per process, or a stage's share, as 0.25.")
    ] = None,
    cpus: Annotated[float | None, typer.Option(min=0, help="ray: CPU cores per process. [1]")] = None,
    lanes: Annotated[
        int | None,
        typer.Option(min=1, help="ray: stages at once in each process. [a GPU with --update-step fused: 8, else 1]"),
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            help="Stop after this time, with what is done: 30s, 9m, 2h, 1h30m. Exit code 3 when something is left."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for tables and figures. [plots/STUDY]")] = None,
) -> None:
    """Plan, run and draw a table or figure of the paper, or a study of your own. What exists is reused.

    Examples:
        rewindctl reproduce --list
        rewindctl reproduce fig1 --cells 'method=lr_rewind,compression>5' --seeds 0-2 --time-limit 9m
        rewindctl reproduce all --engine ray --address auto
        rewindctl reproduce fig1 --until-decided --budget 2h
    """
    began = time.monotonic()  # what is imported now takes seconds
    from rewindctl.cli.until_decided import parse_budget
    from rewindctl.paper.request import planned, studies_of
    from rewindctl.pipeline.pipeline import UNTIL_DECIDED
    from rewindctl.report.known import known_of
    from rewindctl.report.rows import read_files

    engines[engine]  # a typing mistake is told at once
    if list_studies or show:
        _print_studies(session, show)
        return
    if session.force:
        raise UsageError("--force has no meaning for reproduce", "run everything anew with another --experiment")
    if not study:
        raise UsageError("no study is given", "list them: rewindctl reproduce --list")
    chosen = parse.trials(trials, seeds)
    seconds = None if time_limit is None else parse_duration(time_limit, "time-limit")
    most = until.check(until_decided, max_trials, budget, chosen)
    files = read_files(known or ())
    found = studies_of(tuple(study))
    made = planned(found, session.facts, tuple(range(most)) if until_decided else chosen, cells, scale)
    if power is not None:
        until.print_power(session, until.compared(made, found), power)
        return
    elsewhere = known_of(files, made, session.precision)
    for path in elsewhere.strangers:
        session.console.say(f"note: --known {path} has no row of the study")
    options = EngineOptions(jobs, address, cpus, gpus, lanes)
    if plan:
        print_plan(session, made, elsewhere.results, options if engines[engine].here else None)
        return
    _check(session, engine, options)
    means = _Means(engine, options, None if seconds is None else (began, seconds))
    if until_decided:
        spending = parse_budget(budget)
        collection = until.Collection(session, made, until.compared(made, found), elsewhere.results)
        ended = collection.collect(partial(_run, session, means=means, collected=UNTIL_DECIDED), spending)
        _print_results(session, tuple(study), made, ended.finished, output, elsewhere, ended)
        until.say_end(session, ended, budget, time_limit)
        return
    finished = _run(session, made, means, elsewhere.results)
    _print_results(session, tuple(study), made, finished, output, elsewhere)
    if finished.left:
        raise LimitError(f"--time-limit {time_limit} was reached: {_left_text(made, finished)}")


def _print_studies(session: Session, show: str | None) -> None:
    from rewindctl.paper.study import shipped, studies_json, studies_text, study_text

    studies = list(shipped().values())
    if show is not None:
        session.console.data(study_text(show).rstrip("\n"))
    elif session.json:
        session.console.json(studies_json(studies))
    else:
        session.console.data(studies_text(studies))


def _check(session: Session, engine: str, options: EngineOptions) -> None:
    """What can be refused before a store is opened. Raises: UsageError."""
    from rewindctl.training.device import resolve_device
    from rewindctl.training.step import choose_step

    engines[engine].check(options)
    if engines[engine].here:
        choose_step(session.arithmetic.step, resolve_device(session.device))


def _run(
    session: Session, plan: "StudyPlan", means: _Means, known: Collection[str] = (), collected: str = ""
) -> "Finished":
    """Run what is to do. `known`: stages of cells whose results are known from elsewhere."""
    from rewindctl.engines.run import Finished, run_plan
    from rewindctl.paper.allotment import telling_order
    from rewindctl.paper.cost import state_of

    registry = session.registry()
    looked = time.monotonic()
    state = state_of(plan, registry, "", session.precision, known)
    look_seconds = time.monotonic() - looked
    done = {key: run.run_id for key, run in state.runs.items()}
    left = [stage for key, stage in plan.stages.items() if state.of(key) == "todo"]
    spared = f", {len(state.spared)} known from elsewhere" if state.spared else ""
    session.console.say(f"{count_of(len(plan.stages), 'stage')}, {len(done)} of them done{spared}")
    if not left:
        return Finished(done, [], "")
    engine = engines[means.engine]
    denses = [plan.dense_of(stage) for stage in left]
    options = with_jobs(session, means.options, denses) if engine.here else means.options
    data = {dense.dataset: dense.data_digest for dense in denses}
    limit = (
        _limit(*means.limited, look_seconds, cold=not engine.here or (options.jobs or 1) > 1) if means.limited else None
    )
    site = session.site(registry, limit.deadline if limit else None, collected)
    with engine.open(site, data, options) as opened:
        part = plan.without(state.spared)
        return run_plan(part, done, opened, session.console, limit, telling_order(part) if limit else None)


def _limit(began: float, seconds: int, look_seconds: float, *, cold: bool) -> "Limit":
    """When to stop, so that what comes after it ends in time. `look_seconds`: what reading the registry took."""
    from rewindctl.engines.schedule import Limit

    end = min(END_SECONDS + 3 * look_seconds, LARGEST_END * seconds)
    return Limit(Deadline.at(began + seconds - end), cold)


def _left_text(plan: "StudyPlan", finished: "Finished") -> str:
    """What a limit left to do."""
    stages = [plan.stages[key] for key in finished.left]
    kinds = Counter(stage.spec.kind for stage in stages)
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in ("dense", "prune", "retrain") if kinds[kind])
    begun = f"; {len(finished.begun)} begun, to be resumed" if finished.begun else ""
    return (
        f"{len(stages)} of {count_of(len(plan.stages), 'stage')} are left ({counts}: "
        f"{sum(stage.iterations for stage in stages):,} iterations{begun})"
    )


def _print_results(
    session: Session,
    studies: tuple[str, ...],
    plan: "StudyPlan",
    finished: "Finished",
    output: Path | None,
    known: "Known",
    ended: "until.Ended | None" = None,
) -> None:
    """Tables to stdout, tables and figures to the folder; failures at the end. `ended`: of trials until a decision."""
    from rewindctl.report.compare import Wanted, compare

    form = "json" if session.json else "text"
    selected = frozenset(cell.group for cell in plan.cells)
    wanted = Wanted(
        studies,
        format=form,
        scale=plan.scale,
        trials=1 if ended else len(plan.seeds),
        report=True,
        selected=selected,
        data_dir=session.data_dir,
    )
    results = compare(session.registry(), wanted, known.files)
    names = [report.study.name for report in results.reports]
    name = names[0] if len(names) == 1 else "report"
    scaled = "" if plan.scale == 1 else f"-scaled-x{plan.scale:g}"  # beside the full-length ones, not over them
    files = results.write(output or Path("plots") / f"{name}{scaled}")
    if session.json:
        decisions = ended.as_json() if ended else {}
        result = _results_json(plan, finished) | {"known": len(plan.spared(known.results, finished.runs))}
        session.console.json(result | decisions | {"files": [str(path) for path in files]})
    else:
        session.console.data((ended.text() + "\n\n" if ended else "") + results.text)
    session.console.say(f"wrote {count_of(len(files), 'file')} to {files[0].parent}")
    for failure in finished.failures[:SHOWN_FAILURES]:
        session.console.say(failure.text)
    if len(finished.failures) > SHOWN_FAILURES:
        session.console.say(f"and {len(finished.failures) - SHOWN_FAILURES} more")
    if finished.failures:
        raise RewindError(
            f"{len(finished.failures)} of {count_of(len(plan.stages), 'stage')} failed, "
            + f"{finished.blocked} wait{'s' if finished.blocked == 1 else ''} for them"
            + (f"; stopped: {finished.stopped}" if finished.stopped else ""),
            "the same command runs what is missing",
        )


def _results_json(plan: "StudyPlan", finished: "Finished") -> dict[str, Any]:
    return {
        "stages": len(plan.stages),
        "done": len(finished.runs),
        "failed": [
            {"label": failure.label, "message": failure.message, "run_id": failure.run_id}
            for failure in finished.failures
        ],
        "blocked": finished.blocked,
        "left": len(finished.left),
        "stopped": finished.stopped or None,
        "scale": plan.scale,
    }
