"""rewindctl reproduce"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from rewindctl.cli import parse
from rewindctl.cli.session import Session, command
from rewindctl.errors import UsageError


@command(runs=True)
def reproduce(
    session: Session,
    study: Annotated[
        list[str] | None, typer.Argument(help="fig1 ... fig6, table1 ... table5, all, or a study's YAML file.")
    ] = None,
    list_studies: Annotated[bool, typer.Option("--list", help="List the studies and their cells.")] = False,
    show: Annotated[str | None, typer.Option(help="Print this study as YAML.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what is done, what is to do and what it costs.")] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="Seeds 0 to N - 1. [the study's, 3]")] = None,
    seeds: Annotated[str | None, typer.Option(help="The seeds themselves: 0-4, or 0,2,5.")] = None,
    cells: Annotated[str | None, typer.Option(help="Only these: method=lr_rewind,compression>5")] = None,
    scale: Annotated[float, typer.Option(help="All iterations times this: a trial run, never the paper's.")] = 1.0,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="Processes here, or a Ray cluster.")] = "local",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Stages at once. [local: one a GPU, else one; ray: all that fit]")
    ] = None,
    address: Annotated[str | None, typer.Option(help="ray: address of the cluster, or auto.")] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="ray: GPUs a stage, as 0.25. [1 where there are any]")] = None,
    cpus: Annotated[float | None, typer.Option(min=0, help="ray: CPU cores a stage. [1]")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for tables and figures. [plots/STUDY]")] = None,
) -> None:
    """Plan, run and draw a table or figure of the report, or a study of your own. What exists is reused.

    Example: rewindctl reproduce fig1 --trials 3 --plan
    """
    from rewindctl.cli.studies import Reproduction, print_study, print_studies

    if list_studies or show:
        print_study(session, show) if show else print_studies(session)
        return
    if not study:
        raise UsageError("no study is given", "list them: rewindctl reproduce --list")
    if trials is not None and seeds is not None:
        raise UsageError(f"both --trials {trials} and --seeds {seeds} are given", "give one of the two")
    chosen = parse.one_or_more_seeds(None, seeds) if seeds else None
    reproduction = Reproduction.of(session, tuple(study), trials, chosen, cells, scale)
    if plan:
        reproduction.show_plan()
        return
    reproduction.run(engine, jobs, address, gpus, cpus)
    reproduction.show_results(output)


def register(app: typer.Typer) -> None:
    app.command("reproduce")(reproduce)
