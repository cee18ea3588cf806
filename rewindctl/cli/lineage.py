"""rewindctl lineage"""

from typing import Annotated

import typer

from rewindctl.cli.session import Session, command, run_json


@command()
def lineage(
    session: Session,
    run: Annotated[str, typer.Argument(help="Run ID, prefix of 6 or more, or models:/NAME@alias.")],
) -> None:
    """Show a run's ancestors, the dense run first.

    Example: rewindctl lineage 3f2a9c
    """
    registry = session.registry()
    chain = registry.lineage(registry.resolve(run))
    if session.json:
        session.console.json([run_json(link) for link in chain])
        return
    for depth, link in enumerate(chain):
        accuracy = link.metrics.get("test_accuracy")
        shown = f"  {accuracy:.2%}" if accuracy is not None else ""
        session.console.data(f"{'  ' * depth}{link.run_id}  {link.name}{shown}")


def register(app: typer.Typer) -> None:
    app.command("lineage")(lineage)
