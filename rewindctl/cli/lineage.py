"""rewindctl lineage"""

from typing import Annotated, Literal

import typer

from rewindctl.cli import complete
from rewindctl.cli.session import Session, command, run_json
from rewindctl.console import OutputStyle


@command()
def lineage(
    session: Session,
    run: Annotated[
        str, typer.Argument(help="Run ID, prefix of 6 or more, or models:/NAME@alias.", autocompletion=complete.runs)
    ],
    format: Annotated[Literal["text", "mermaid", "dot", "json"] | None, typer.Option(help="[text]")] = None,
) -> None:
    """Show the lineage of a run: its ancestors, the dense run first, and its descendants.

    JSON is a list of the runs of the tree in its order, parents before children: what `list --json` gives of a run,
    with `relation` (ancestor, self or descendant) and `depth`, the steps from the dense run.

    Examples:
        rewindctl lineage 3f2a9c
        rewindctl lineage models:/resnet8-digits-dense@seed-0 --format mermaid
    """
    from rewindctl.report.lineage import family_of, forms

    chosen = session.form(format)
    registry = session.registry(make=False)
    family = family_of(registry, registry.resolve(run))
    if chosen == "json":
        rows = [run_json(one.run) | {"relation": one.relation, "depth": one.depth} for one in family.nodes()]
        session.console.json(rows)
        return
    session.console.data(forms[chosen](family, OutputStyle.of_stdout()))
