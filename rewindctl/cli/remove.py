"""rewindctl remove"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rewindctl.cli.session import Session, command
from rewindctl.console import Console
from rewindctl.counting import count_of
from rewindctl.errors import UsageError

if TYPE_CHECKING:
    from rewindctl.registry import Registry, RunRecord
    from rewindctl.registry.deleting import PlannedRemoval

MOST_LISTED = 40


@command()
def remove(
    session: Session,
    run: Annotated[list[str], typer.Argument(help="Run IDs, prefixes of 6 or more, or models:/NAME@alias.")],
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Also remove all their descendants; asks first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be removed, with bytes; change nothing.")
    ] = False,
) -> None:
    """Remove runs and all their files. This frees the disk space at once; the files cannot be restored.

    A run with descendants is removed only if these are named too or --recursive is given; a run of a living process is
    never removed. Removing a run also removes its artifacts, its resume point, its model version (the alias moves to
    the longest remaining run of the seed), and a search's study. MLflow keeps params and metrics, as for any deleted
    run, until `mlflow gc`. After an interruption, run the same command again.

    Examples:
        rewindctl remove 3f2a9c --recursive --dry-run
        rewindctl remove 3f2a9c 77b01d --yes
    """
    from rewindctl.registry.deleting.removal import HasDescendantsError, plan

    registry = session.registry(make=False)
    named = [registry.resolve(reference, deleted=True) for reference in run]
    try:
        doomed = plan(registry, named, recursive=recursive)
    except HasDescendantsError as error:
        _list(session.console, [_line(one) for one in error.descendants])
        raise
    if not dry_run:
        more = len(doomed) - len({one.run_id for one in named})
        if more and not yes:
            _ask(session.console, doomed)
        _carry_out(session, registry, doomed)
    _show(session, doomed, dry_run)


def _line(run: "RunRecord") -> str:
    return f"{run.run_id}  {run.kind:8}  {run.name}"


def _list(console: Console, lines: list[str]) -> None:
    for line in lines[:MOST_LISTED]:
        console.say(line)
    if len(lines) > MOST_LISTED:
        console.say(f"... and {len(lines) - MOST_LISTED:,} more")


def _ask(console: Console, doomed: "list[PlannedRemoval]") -> None:
    """Raises: UsageError where nobody can answer, typer.Abort for no."""
    total = f"{count_of(len(doomed), 'run')}, {sum(one.size for one in doomed):,} bytes"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{total} would be removed, and there is no terminal to ask", "add --yes, or --dry-run to see")
    _list(console, [f"{one.size:>13,}  {_line(one.run)}" for one in doomed])
    if not typer.confirm(f"Remove {total}, for good?", err=True):
        raise UsageError("nothing is removed: the answer was no", "to see what would go: --dry-run")


def _carry_out(session: Session, registry: "Registry", doomed: "list[PlannedRemoval]") -> None:
    from rewindctl.registry.deleting import remove as remove_runs
    from rewindctl.tuning.storage import forget_study

    console = session.console
    with console.steps("runs removed", len(doomed)) as stepped:
        gone = remove_runs(registry, [one.run for one in doomed], lambda run: forget_study(registry, run, console))
        for number, _ in enumerate(gone, start=1):
            stepped(number)


def _show(session: Session, doomed: "list[PlannedRemoval]", dry_run: bool) -> None:
    """The runs in the order in which they go, or one JSON object."""
    total = sum(one.size for one in doomed)
    if session.json:
        rows = [
            {"run_id": one.run.run_id, "kind": one.run.kind, "name": one.run.name, "bytes": one.size} for one in doomed
        ]
        session.console.json({"dry_run": dry_run, "runs": rows, "bytes": total})
        return
    for one in doomed:
        session.console.data(f"{_line(one.run)}  {one.size:,} bytes" if dry_run else one.run.run_id)
    would = "would be removed" if dry_run else "removed"
    session.console.say(f"{count_of(len(doomed), 'run')} {would}, {total:,} bytes")
