"""rewindctl recover"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewindctl.cli.session import Session, command
from rewindctl.errors import RegistryError

if TYPE_CHECKING:
    from rewindctl.registry.recovery import Recovered


@command()
def recover(
    session: Session,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check what is kept, and change nothing.")] = False,
) -> None:
    """Upload results that were kept on this machine when their store was away or locked; prints the finished runs.

    Finished baselines of the experiment that are no versions of their model, whoever trained them, are registered too.

    Each run is finished once, however often this is called. Results that were altered are refused. Those of a stage
    that another machine finished meanwhile are dropped; a run that is not trained to its end is gone on with by the
    command that made it. Every store gets its own; --tracking-uri is needed where it has credentials.

    Examples:
        rewindctl recover --dry-run
        rewindctl recover
    """
    from rewindctl.registry.address import absolute_uri, is_there
    from rewindctl.registry.recovery import recover as upload
    from rewindctl.registry.recovery import register_rest

    found = upload(session.tracking_uri, dry_run=dry_run)
    if is_there(absolute_uri(session.tracking_uri)):
        told = {one.run_id for one in found}
        rest = register_rest(session.registry(make=False), dry_run=dry_run)
        found += [one for one in rest if one.run_id not in told]
    if session.json:
        session.console.json([_row(one) for one in found])
    for one in found:
        if not session.json and one.state in ("uploaded", "there", "registered"):
            session.console.data(one.run_id)
        session.console.say(f"{one.run_id} ({one.name or 'unknown'}): {one.text}")
    if not found:
        session.console.say("no results are kept here")
    failed = [one for one in found if one.state == "failed"]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise RegistryError(f"run {failed[0].run_id} was not recovered{more}: {failed[0].text}", failed[0].hint)


def _row(one: "Recovered") -> dict[str, Any]:
    return {
        "run_id": one.run_id,
        "name": one.name,
        "tracking_uri": one.uri,
        "folder": one.folder,
        "state": one.state,
        "text": one.text,
    }


def register(app: typer.Typer) -> None:
    app.command("recover")(recover)
