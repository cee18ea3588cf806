"""rewindctl registry export | import | relocate"""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rewindctl.cli import complete, parse
from rewindctl.cli.session import Session, command
from rewindctl.console import Console
from rewindctl.counting import count_of
from rewindctl.errors import UsageError

if TYPE_CHECKING:
    from rewindctl.registry.bundle import Exported
    from rewindctl.registry.roots.relocation import Relocated

EVERY = 25  # runs between two lines of progress

app = typer.Typer(
    help="Copy runs between registries; repair a registry that was moved or copied.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Kind(StrEnum):  # Typer takes no list of literals
    DENSE = "dense"
    PRUNE = "prune"
    RETRAIN = "retrain"


@app.command("export")
@command(
    kept="no bundle was written",
    panels={"Runs": ("kind", "tag", "study", "scale", "run", "descendants")},
)
def export_runs(
    session: Session,
    bundle: Annotated[Path, typer.Argument(help="File to write.")],
    kind: Annotated[list[Kind] | None, typer.Option(help="Runs of this kind; may be repeated.")] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(help="Runs with this tag, as method=lr_rewind; if repeated, with all of the tags."),
    ] = None,
    study: Annotated[
        list[str] | None,
        typer.Option(help="Runs of this study: fig1, all, a YAML file.", autocompletion=complete.names("study")),
    ] = None,
    scale: Annotated[float, typer.Option(help="The --scale that the study was reproduced with.")] = 1.0,
    run: Annotated[
        list[str] | None,
        typer.Option(help="This run: ID, prefix, models:/NAME@alias; repeatable.", autocompletion=complete.runs),
    ] = None,
    descendants: Annotated[
        bool, typer.Option("--descendants", help="Also all descendants of the chosen runs.")
    ] = False,
    checkpoints: Annotated[bool, typer.Option(help="Include the networks, or only masks, metrics and specs.")] = True,
    max_size: Annotated[str | None, typer.Option(help="Split into BUNDLE.001, .002, ... of this size, as 16M.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Write finished runs, with their ancestors, to one file: those chosen, or all of the experiment except searches.

    Examples:
        rewindctl registry export all.bundle
        rewindctl registry export seed0.bundle --tag seed=0 --kind retrain --max-size 1G
        rewindctl registry export fig1.bundle --study fig1 --no-checkpoints --overwrite
    """
    from rewindctl.registry.bundle import export_bundle, matching, select
    from rewindctl.registry.bundle.index import SMALLEST_PART

    part_bytes = None if max_size is None else parse.size("max-size", max_size, SMALLEST_PART)
    tags = [parse.tag(text) for text in tag or ()]
    groups = _groups(session, study or [], scale)
    registry = session.registry(make=False)
    named = [registry.resolve(reference) for reference in run or ()]
    for one in named:
        if not one.finished:
            raise UsageError(f"run {one.run_id} is {one.status}, not FINISHED", "only finished runs are exported")
    wanted = matching(kind or (), tags, {one.run_id for one in named}, groups)
    runs = select(registry, wanted, named, descendants=descendants)
    verified = _progress(session.console, "verified")
    _show(session, export_bundle(registry, runs, bundle, checkpoints, part_bytes, overwrite, verified))


def _groups(session: Session, studies: list[str], scale: float) -> set[str]:
    """What the runs of the studies have in common, whatever their seed."""
    from rewindctl.paper.request import planned, studies_of

    if not studies:
        return set()
    return set(planned(studies_of(tuple(studies)), session.facts, (0,), None, scale).groups.values())


def _show(session: Session, done: "Exported") -> None:
    """The path of each file written, or one JSON object."""
    if session.json:
        facts = {"paths": [str(path) for path in done.paths], "bytes": done.size, "files": done.files}
        session.console.json(facts | {"runs": [run.run_id for run in done.runs]})
        return
    for path in done.paths:
        session.console.data(str(path))
    session.console.say(f"{count_of(len(done.runs), 'run')}, {count_of(done.files, 'file')}, {done.size:,} bytes")


@app.command("import")
@command(kept="the import is undone")
def import_runs(
    session: Session,
    bundle: Annotated[list[Path], typer.Argument(help="The bundle, its first part, or all of its parts.")],
) -> None:
    """Merge a bundle into the registry: existing runs are kept and reused, new ones are added, all or nothing.

    Examples:
        rewindctl registry import all.bundle
        rewindctl registry import seed0.bundle.001 --experiment theirs --json
    """
    from rewindctl.registry.bundle import import_bundle

    merged = import_bundle(session.registry, bundle, _progress(session.console, "imported"))
    reused = len(merged.runs) - len(merged.imported)
    for note in merged.notes:
        session.console.say(f"note: {note}")
    if session.json:
        counts = {"imported": len(merged.imported), "reused": reused, "completed": len(merged.completed)}
        session.console.json({"bundle": merged.digest, **counts, "runs": merged.runs})
        return
    for run_id in dict.fromkeys(merged.runs.values()):
        session.console.data(run_id)
    completed = f", {len(merged.completed)} completed with checkpoints" if merged.completed else ""
    there = f"{reused} {'was' if reused == 1 else 'were'} there"
    session.console.say(f"{count_of(len(merged.imported), 'run')} imported, {there}{completed}")


@app.command("relocate")
@command(kept="the store is either unchanged or fully relocated")
def relocate_store(
    session: Session,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Verify, and say what would be done.")] = False,
    keep_damaged: Annotated[
        bool, typer.Option("--keep-damaged", help="Relocate even if files of finished runs are missing or damaged.")
    ] = False,
) -> None:
    """Give a moved or copied SQLite store its own artifact folders beside it, all or nothing; prints the folders.

    Artifacts beside the store are used in place; the others are copied from their recorded location. Every finished run
    is verified before the store points to the new location. In a copied store, unfinished runs become FAILED and start
    again: the original store keeps these runs, their resume points, and the studies that are in neither folder.

    Examples:
        rewindctl registry relocate --dry-run
        rewindctl registry relocate --tracking-uri sqlite:///copy/mlflow.db
    """
    from rewindctl.registry.roots.relocation import relocate

    verified = _progress(session.console, "verified")
    done = relocate(session.tracking_uri, dry_run=dry_run, keep_damaged=keep_damaged, progressed=verified)
    if session.json:
        session.console.json(_relocated(done) | {"dry_run": dry_run})
        return
    for folder in done.folders.values():
        session.console.data(folder)
    for run_id in done.damaged:
        session.console.say(f"damaged: run {run_id}, left unchanged; see rewindctl verify {run_id}")
    if not done.folders:
        session.console.say(f"{done.store} has its files in place: nothing was changed")
        return
    kind = f"a copy of {done.original}" if done.original else "moved"
    files = f"{count_of(done.copied, 'file')} {'to be copied' if dry_run else 'copied'}, {done.size:,} bytes"
    session.console.say(f"{done.store}, {kind}: {count_of(done.verified, 'finished run')} verified, {files}")


def _relocated(done: "Relocated") -> dict[str, object]:
    return {
        "store": done.store,
        "copy_of": done.original,
        "folders": done.folders,
        "verified": done.verified,
        "copied": done.copied,
        "bytes": done.size,
        "damaged": done.damaged,
    }


def _progress(console: Console, verb: str) -> Callable[[int, int], None]:
    def progressed(done: int, total: int) -> None:
        if done % EVERY == 0:
            console.say(f"{verb} {done} of {count_of(total, 'run')}")

    return progressed
