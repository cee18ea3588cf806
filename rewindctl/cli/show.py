"""rewindctl show"""

from typing import Annotated

import typer

from rewindctl.cli.session import Session, command, run_json


@command()
def show(
    session: Session,
    run: Annotated[str, typer.Argument(help="Run ID, prefix of 6 or more, or models:/NAME@alias.")],
) -> None:
    """Show one run: what it is, where it comes from, its metrics and artifacts.

    Example: rewindctl show models:/resnet8-digits-dense@seed-0
    """
    registry = session.registry()
    found = registry.resolve(run)
    if session.json:
        session.console.json(run_json(found))
        return
    lines = [f"{found.name}  {found.status}", f"run      {found.run_id}", f"parent   {found.parent_id or 'none'}"]
    lines += [f"{key:28} {value:.6g}" for key, value in sorted(found.metrics.items())]
    lines += [f"{key:28} {value}" for key, value in sorted(found.params.items())]
    if found.finished:
        omitted = registry.omitted(found)
        for path, entry in sorted(registry.manifest(found).items()):
            lines.append(f"{entry['size']:>12,} {path}{'  (left out at export)' if path in omitted else ''}")
    session.console.data("\n".join(lines))


def register(app: typer.Typer) -> None:
    app.command("show")(show)
