"""rewindctl show"""

from typing import Annotated

import typer

from rewindctl.cli import complete
from rewindctl.cli.session import Session, command, run_json
from rewindctl.console import OutputStyle


@command()
def show(
    session: Session,
    run: Annotated[
        str, typer.Argument(help="Run ID, prefix of 6 or more, or models:/NAME@alias.", autocompletion=complete.runs)
    ],
) -> None:
    """Show one run on one screen: numbers, curve, spec, layers, files, relatives, and the command that makes it again.

    Examples:
        rewindctl show 3f2a9c
        rewindctl show models:/resnet8-digits-dense@seed-0 --json
    """
    from rewindctl.report.facts import facts_of
    from rewindctl.report.screen import screen

    registry = session.registry(make=False)
    facts = facts_of(registry, registry.resolve(run))
    if session.json:
        session.console.json(run_json(facts.run) | facts.as_json())
        return
    session.console.data(screen(facts, OutputStyle.of_stdout()))
