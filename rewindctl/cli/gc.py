"""rewindctl gc"""

from typing import TYPE_CHECKING, Annotated

import typer

from rewindctl.cli.session import Session, command
from rewindctl.errors import UsageError

if TYPE_CHECKING:
    from rewindctl.registry import Registry
    from rewindctl.registry.deleting.garbage import Survey


@command()
def gc(
    session: Session,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed; without it, only list.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list (the default).")] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also unfinished runs that the same command could resume.")
    ] = False,
    unreferenced: Annotated[
        bool, typer.Option("--unreferenced", help="Also folders of runs that the store does not have.")
    ] = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Also runs whose parent or dense run is gone, including their results.")
    ] = False,
) -> None:
    """List leftovers of the experiment's runs, by class and with bytes; with --yes, remove them.

    By default it lists four classes. superseded: unfinished runs of stages that another run finished. deleted: files of
    runs deleted through MLflow, which then cannot be restored; files of runs with existing descendants are kept.
    resume: resume points of finished, failed and deleted runs, here or in the store. temporary: files and locks of
    dead processes.

    --unreferenced adds folders of runs that the store does not have (not on a server); first check that no other store
    uses them. --unfinished adds the other RUNNING, FAILED and KILLED runs whose process is dead, with the resume points
    that the same command could use. --orphans adds runs whose parent or dense run is deleted or missing, including
    their results; restoring the parent in MLflow repairs them.

    Runs of living processes, runs of other programs, and files outside the artifact root are never touched.

    Examples:
        rewindctl gc
        rewindctl gc --unfinished --yes
    """
    from rewindctl.registry.deleting.garbage import Survey

    if yes and dry_run:
        raise UsageError("both --yes and --dry-run are given", "give one of the two")
    registry = session.registry(make=False)
    given = {"unreferenced": unreferenced, "unfinished": unfinished, "orphans": orphans}
    survey = Survey(registry, {sort for sort, wanted in given.items() if wanted})
    _show(session, survey, yes)
    if yes:
        _clear(session, registry, survey)


def _clear(session: Session, registry: "Registry", survey: "Survey") -> None:
    from rewindctl.registry.deleting.garbage import clear
    from rewindctl.tuning.storage import forget_study

    console = session.console
    with console.steps("removed", len(survey.chosen)) as stepped:
        clear(registry, survey.chosen, lambda run: forget_study(registry, run, console), stepped)
    if session.json:
        console.json(_facts(survey, removed=True))
    console.say(f"removed {len(survey.chosen):,}, {_size(survey):,} bytes")


def _show(session: Session, survey: "Survey", yes: bool) -> None:
    """A line for each item, and for each class what becomes of it."""
    from rewindctl.registry.deleting.garbage import OPTIONAL, SORTS

    items, console = survey.items, session.console
    if session.json and not yes:
        console.json(_facts(survey, removed=False))
    for item in items if not session.json else ():
        console.data(f"{item.sort:12}  {item.size:>13,}  {item.what}  {item.name}")
    for sort, text in SORTS.items():
        sizes = [item.size for item in items if item.sort == sort]
        kept = f" (kept: add --{sort})" if sort in OPTIONAL and sort not in survey.asked else ""
        if sizes:
            console.say(f"{sort}: {len(sizes):,} ({text}), {sum(sizes):,} bytes{kept}")
    for note in survey.notes:
        console.say(f"note: {note}")
    if not yes:
        hint = "; --yes removes it" if survey.chosen else ""
        console.say(f"{_size(survey):,} bytes can be freed{hint}")


def _size(survey: "Survey") -> int:
    return sum(item.size for item in survey.chosen)


def _facts(survey: "Survey", *, removed: bool) -> dict[str, object]:
    from rewindctl.registry.deleting.garbage import SORTS

    chosen = {item.sort for item in survey.chosen}
    classes = {}
    for sort in SORTS:
        items = [{"what": i.what, "name": i.name, "bytes": i.size} for i in survey.items if i.sort == sort]
        size = sum(i.size for i in survey.items if i.sort == sort)
        classes[sort] = {"items": items, "bytes": size, "removed": removed and sort in chosen}
    return {"removed": removed, "bytes": _size(survey), "classes": classes, "notes": survey.notes}
