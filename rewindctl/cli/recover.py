"""rewindctl recover"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewindctl.cli.session import Session, command
from rewindctl.errors import RegistryError, RewindError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from rewindctl.registry.delivery.recovery import Recovered


@command()
def recover(
    session: Session,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check what is kept, and change nothing.")] = False,
) -> None:
    """Upload results kept on this machine while their store was unreachable or locked; prints the finished runs.

    Finished baselines of the experiment without a model version are registered too, also those of other users.

    Each run is finished only once, even if this is called several times. Altered results are refused. Results of a
    stage that another machine has finished are dropped. A run that is not fully trained is resumed by the command that
    made it. Results go to the store that they belong to; if its address has credentials, give --tracking-uri.

    Examples:
        rewindctl recover --dry-run
        rewindctl recover
    """
    from rewindctl.registry.delivery.recovery import recover as upload

    found = upload(session.tracking_uri, dry_run=dry_run)
    _tell(session, found)
    rest, unasked = [], None
    try:
        rest = _register_rest(session, {one.run_id for one in found}, dry_run)
    except RewindError as error:
        error.message = f"unregistered baselines were not searched for: {error.message}"
        unasked = error
    _tell(session, rest)
    found += rest
    if session.json:
        session.console.json([_row(one) for one in found])
    if not found:
        session.console.say("no results are kept here")
    failed = [one for one in found if one.state == "failed"]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise RegistryError(f"run {failed[0].run_id} was not recovered{more}: {failed[0].text}", failed[0].hint)
    if unasked is not None and (not dry_run or isinstance(unasked, UsageError)):
        raise unasked
    if unasked is not None:  # what is kept here can be looked at without its store
        session.console.say(f"note: {unasked.message}")


def _register_rest(session: Session, told: set[str], dry_run: bool) -> "list[Recovered]":
    """Of the experiment, where there is one: nothing is made. Raises: RegistryError, UnknownNameError."""
    from rewindctl.registry.delivery.recovery import register_rest
    from rewindctl.registry.store.address import absolute_uri, is_there

    if not is_there(absolute_uri(session.tracking_uri)):
        return []
    try:
        registry = session.registry(make=False, make_default=False)
    except UnknownNameError:
        if session.experiment is None:  # the first run makes it
            return []
        raise
    return [one for one in register_rest(registry, dry_run=dry_run) if one.run_id not in told]


def _tell(session: Session, found: "list[Recovered]") -> None:
    for one in found:
        if not session.json and one.state in ("uploaded", "there", "registered"):
            session.console.data(one.run_id)
        session.console.say(f"{one.run_id} ({one.name or 'unknown'}): {one.text}")


def _row(one: "Recovered") -> dict[str, Any]:
    return {
        "run_id": one.run_id,
        "name": one.name,
        "tracking_uri": one.uri,
        "folder": one.folder,
        "state": one.state,
        "text": one.text,
    }
