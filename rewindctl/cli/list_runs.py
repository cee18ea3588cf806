"""rewindctl list"""

from typing import Annotated, Literal

import typer

from rewindctl.cli.session import Session, command, run_json


@command()
def list_runs(
    session: Session,
    kind: Annotated[
        Literal["dense", "prune", "retrain", "report"] | None, typer.Option(help="Only runs of this kind.")
    ] = None,
) -> None:
    """List the runs of the experiment, oldest first.

    Example: rewindctl list --kind dense
    """
    runs = session.registry().search(**({"kind": kind} if kind else {}))
    if session.json:
        session.console.json([run_json(run) for run in runs])
        return
    for run in runs:
        accuracy = run.metrics.get("test_accuracy")
        session.console.data(
            f"{run.run_id}  {run.status:8}  {f'{accuracy:.2%}' if accuracy is not None else '-':>7}  {run.name}"
        )


def register(app: typer.Typer) -> None:
    app.command("list")(list_runs)
