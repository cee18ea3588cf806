"""rewindctl compare"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from rewindctl.cli.session import Session, command


@command()
def compare(
    session: Session,
    table: Annotated[str, typer.Option(help="table5 (the report's form) or cells (every number).")] = "table5",
    claims: Annotated[
        bool, typer.Option("--claims", help="The report's claims with a verdict each, instead of a table.")
    ] = False,
    margin: Annotated[float, typer.Option(min=0, help="With --claims: points that 'as good as' may be worse.")] = 0.1,
    figure: Annotated[str | None, typer.Option(help="Also draw this figure: fig1.")] = None,
    format: Annotated[str | None, typer.Option(help="text, markdown, latex, csv or json. [text]")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the figure and the tables' files. [plots]")] = None,
    accuracy: Annotated[
        Literal["final", "best"], typer.Option(help="After the last iteration, or the best seen on the test set.")
    ] = "final",
    delta: Annotated[
        Literal["relative", "points"], typer.Option(help="Axis of figures: % of the dense accuracy, or points.")
    ] = "relative",
    model: Annotated[str | None, typer.Option(help="Only this network.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this data set.")] = None,
) -> None:
    """Medians, spreads and differences of the finished runs, as a table and a figure.

    Example: rewindctl compare --figure fig1 --output plots --format markdown
    """
    from rewindctl.report.compare import compare as summarise
    from rewindctl.report.figures import figures
    from rewindctl.report.tables import formats, tables

    chosen = format or ("json" if session.json else "text")
    for catalog, name in ((tables, table), (formats, chosen), (figures, figure)):
        if name is not None:
            catalog[name]  # unknown: refused before a store is opened
    result = summarise(session.registry(), table, chosen, accuracy, model, dataset, figure, margin if claims else None)
    paths = result.write(output, figure, delta)
    session.console.data(result.text)
    for path in paths:
        session.console.say(f"wrote {path}")


def register(app: typer.Typer) -> None:
    app.command("compare")(compare)
