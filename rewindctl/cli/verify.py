"""rewindctl verify"""

from typing import Annotated

import typer

from rewindctl.cli import complete
from rewindctl.cli.session import Session, command
from rewindctl.counting import count_of
from rewindctl.errors import IntegrityError, UsageError


@command()
def verify(
    session: Session,
    run: Annotated[
        str | None,
        typer.Argument(help="Run ID, prefix of 6 or more, or models:/NAME@alias.", autocompletion=complete.runs),
    ] = None,
    all_runs: Annotated[bool, typer.Option("--all", help="Every finished run of the experiment.")] = False,
) -> None:
    """Check runs against their manifests, specs, parents and masks; exit code 1 when one is not intact.

    Examples:
        rewindctl verify 3f2a9c
        rewindctl verify --all --json
    """
    from rewindctl.checks.verify import verify as problems_of
    from rewindctl.registry.roots.binding import MEND

    if (run is None) != all_runs:
        raise UsageError(
            "give a run, or --all" if run is None else f"both {run} and --all are given", "give one of them"
        )
    registry = session.registry(make=False)
    chosen = [registry.resolve(run)] if run else [found for found in registry.search() if found.finished]
    found = {one.run_id: problems_of(registry, one) for one in chosen}
    for one in chosen:
        for line in found[one.run_id] if not session.json else ():
            session.console.data(f"{one.run_id}  {line}")
    damaged = sum(bool(problems) for problems in found.values())
    partial = {one.run_id for one in chosen if not found[one.run_id] and registry.artifacts.omitted(one)}
    if session.json:
        rows = [{"run_id": run_id, "problems": problems} for run_id, problems in found.items()]
        session.console.json([row | {"omitted": row["run_id"] in partial} for row in rows])
    session.console.say(f"{_of(len(chosen) - damaged, len(chosen))} intact")
    if partial:
        are = "is" if len(partial) == 1 else "are"
        session.console.say(f"{len(partial)} of them {are} without checkpoints, which were left out at export")
    if damaged:
        raise IntegrityError(
            f"{_of(damaged, len(chosen))} damaged",
            MEND if registry.client.is_misplaced() else "restore missing files, or run their stages again with --force",
        )


def _of(some: int, all_of_them: int) -> str:
    return f"{some} of {count_of(all_of_them, 'run')} {'is' if some == 1 else 'are'}"
