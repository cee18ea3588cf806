"""rewindctl compare"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from rewindctl.cli import complete
from rewindctl.cli.session import Session, command

PANELS = {
    "Runs": ("study", "model", "dataset", "scale", "source"),
    "Table": ("table", "claims", "margin", "pair", "against", "format", "accuracy"),
    "Figure and files": ("figure", "delta", "output", "report", "log"),
}


@command(panels=PANELS, kept="no run was changed; files already written are kept")
def compare(
    session: Session,
    study: Annotated[
        list[str] | None,
        typer.Option(
            help="A study of the paper (fig1, table5, ...) or a YAML file; repeatable.",
            autocompletion=complete.names("study"),
        ),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            help="results or cells (every number); of studies: table1 ... table5. [results]",
            autocompletion=complete.names("table"),
        ),
    ] = None,
    claims: Annotated[
        bool, typer.Option("--claims", help="The paper's claims, each with a verdict, instead of a table.")
    ] = False,
    margin: Annotated[
        float, typer.Option(min=0, help="With --claims: largest loss in points that counts as 'as good as'.")
    ] = 0.1,
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--pair",
            metavar="LABEL LABEL",
            help="Two labels or conditions (method=lr_rewind,step=0.2): the effect of the first minus the second.",
        ),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option(help="Also draw: curves, or fig1 ... fig6 of the paper.", autocompletion=complete.names("figure")),
    ] = None,
    against: Annotated[
        Literal["report", "renda", "none"],
        typer.Option(
            help="Published numbers to show beside a study's: the paper's (`report`), those of Renda et al., or none."
        ),
    ] = "report",
    scale: Annotated[float, typer.Option(help="The --scale that the study was reproduced with.")] = 1.0,
    source: Annotated[
        list[Path] | None, typer.Option("--from", help="Read runs from a runs.csv instead of the registry; repeatable.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="text, markdown, latex, csv or json. [text]", autocompletion=complete.names("format")),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the figures' and tables' files. [plots]")] = None,
    accuracy: Annotated[
        Literal["final", "best"], typer.Option(help="After the last iteration, or the best seen on the test set.")
    ] = "final",
    delta: Annotated[
        Literal["relative", "points"], typer.Option(help="Axis of figures: % of the dense accuracy, or points.")
    ] = "relative",
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.md and report.html with everything the runs recorded.")
    ] = False,
    log: Annotated[bool, typer.Option("--log", help="Log the report to MLflow as a separate run.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Only this network.", autocompletion=complete.names("model"))
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this data set.", autocompletion=complete.datasets)] = None,
) -> None:
    """Medians, spreads and differences of the finished runs, as tables and figures, published numbers beside them.

    Examples:
        rewindctl compare
        rewindctl compare --study fig1 --claims --output plots --format markdown
        rewindctl compare --pair 'weight_rewind k=8000' lr_rewind
        rewindctl compare --report --log --model resnet20 --dataset cifar10
    """
    from rewindctl.report.compare import Wanted
    from rewindctl.report.compare import compare as summarise
    from rewindctl.report.rows import read_files

    form = session.form(format)
    names = tuple(study or ())
    wanted = Wanted(
        names,
        table,
        figure,
        form,
        against,
        scale,
        None,
        accuracy,
        delta,
        model,
        dataset,
        report,
        claims,
        margin,
        pair=pair,
    )
    wanted.check()  # unknown names are refused before a store is opened
    result = summarise(read_files(source) if source else session.registry(make=False), wanted)
    paths = result.write(output)
    session.console.data(result.text)
    for path in paths:
        session.console.say(f"wrote {path}")
    if log:
        from rewindctl.pipeline.life import deliver_kept
        from rewindctl.report.page import log_report

        registry = session.registry(make=False)
        deliver_kept(registry, "", session.console)  # reports that an outage kept here
        session.console.say(f"logged report run {log_report(registry, result).run_id}")
