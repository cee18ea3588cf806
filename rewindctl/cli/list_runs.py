"""rewindctl list"""

from typing import Annotated, Literal

import typer

from rewindctl.cli.session import Session, command, run_json


@command()
def list_runs(
    session: Session,
    kind: Annotated[
        Literal["dense", "prune", "retrain", "tune", "trial", "report"] | None,
        typer.Option(help="Only runs of this kind."),
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
            + trial_state(run.tags, run.metrics)
        )


def trial_state(tags: dict[str, str], metrics: dict[str, float]) -> str:
    """How a trial of a search ended; its accuracy is not one of the test set."""
    state, accuracy = tags.get("rewindctl.trial_state"), metrics.get("validation_accuracy")
    if state is None:
        return ""
    return f"  {state}" if accuracy is None else f"  {state}, {accuracy:.2%} of the held-out part"


def register(app: typer.Typer) -> None:
    app.command("list")(list_runs)
