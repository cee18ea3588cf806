"""rewindctl list"""

from typing import Annotated, Literal

import typer

from rewindctl.cli import complete
from rewindctl.cli.session import Session, command, run_json


@command(panels={"Runs": ("kind", "method", "where"), "Order": ("sort", "reverse", "limit", "page")})
def list_runs(
    session: Session,
    kind: Annotated[
        Literal["dense", "prune", "retrain", "replay", "tune", "trial", "report"] | None,
        typer.Option(help="Only runs of this kind."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Only retrainings by this method.", autocompletion=complete.methods)
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            help="Only runs whose metrics, params, tags fit: compression>5,test_accuracy>=0.9",
            autocompletion=complete.conditions("column"),
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option(help="spec, accuracy, compression, started or name.", autocompletion=complete.names("order"))
    ] = "spec",
    reverse: Annotated[bool, typer.Option("--reverse", help="Reverse the order.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Runs per page.")] = 50,
    page: Annotated[int, typer.Option(min=1, help="Page, from 1.")] = 1,
) -> None:
    """List the runs of the experiment, grouped by network, data set and method; stderr says how many.

    Examples:
        rewindctl list --kind dense
        rewindctl list --where status=KILLED
        rewindctl list --method lr_rewind --where 'compression>5' --sort accuracy --reverse
        rewindctl list --where 'model=resnet20,seed<3' --sort started --limit 20 --page 2
    """
    from rewindctl.conditions import parse_conditions
    from rewindctl.report import runs as found
    from rewindctl.rewinding.methods import methods

    if method is not None:
        methods[method]  # unknown: refused before a store is opened
    found.orders[sort]
    conditions = [] if where is None else parse_conditions(where, "--where")
    tags = {key: value for key, value in (("kind", kind), ("method", method)) if value is not None}
    shown = found.page_of(found.select(session.registry(make=False), tags, conditions), sort, reverse, limit, page)
    if session.json:
        session.console.json([run_json(run) for run in shown.runs])
    for run in shown.runs if not session.json else ():
        session.console.data(found.line(run))
    session.console.say(str(shown))
