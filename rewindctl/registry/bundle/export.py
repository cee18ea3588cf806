"""Runs to a bundle: the wanted ones with their ancestors, each verified before a byte of it is written."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rewindctl.errors import IntegrityError, RegistryError, UsageError
from rewindctl.registry import records as tag
from rewindctl.registry.bundle.archive import PART, archive_size, parts_of, write_archive
from rewindctl.registry.bundle.index import CARRIED, FORMAT, VERSION, Index, RunEntry, check_manifests, check_runs
from rewindctl.registry.records import PARENT_KINDS, WEIGHTS_FROM, RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.runs.manifest import CHECKPOINTS, MANIFEST_FILE, File, MetricPoint
from rewindctl.specs import canonical_json, first_problem
from rewindctl.system.files import disk_hint, no_plain_file, sha256

ReportCount = Callable[[int, int], None]  # runs done, runs in all


def matching(
    kinds: Collection[str] = (),
    tags: Iterable[tuple[str, str]] = (),
    run_ids: Collection[str] = (),
    groups: Collection[str] = (),
) -> Callable[[RunRecord], bool]:
    """Whether a run is of one of the kinds, has the tags, is one of the runs and of one of the groups (see
    `Spec.group`); what is empty asks for nothing.

    A tag key without a dot is one of ours: `model` is `rewindctl.model`. Of a key's several values one is enough.
    """
    wanted: dict[str, set[str]] = {}
    for key, value in tags:
        wanted.setdefault(key if "." in key else f"rewindctl.{key}", set()).add(value)

    def matches(run: RunRecord) -> bool:
        return (
            (not kinds or run.kind in kinds)
            and (not run_ids or run.run_id in run_ids)
            and (not groups or run.group in groups)
            and all(run.tags.get(key) in values for key, values in wanted.items())
        )

    return matches


def select(
    registry: Registry,
    wanted: Callable[[RunRecord], bool],
    extra: Iterable[RunRecord] = (),
    *,
    descendants: bool = False,
) -> list[RunRecord]:
    """The finished runs of the experiment, and of `extra` (from others), that are wanted, with their ancestors.

    With `descendants` also every finished run made from a wanted one. Raises: UsageError when there are none.
    """
    pool = {run.run_id: run for run in (*registry.search(), *extra) if run.finished and run.kind in PARENT_KINDS}
    chosen = {run_id: run for run_id, run in pool.items() if wanted(run)}
    if not chosen:
        raise UsageError("no finished run matches the options", "list the runs: rewindctl list")
    if descendants:
        chosen |= _descendants(chosen, pool)
    known = dict(pool)
    depth: dict[str, int] = {}
    for run in list(chosen.values()):
        _add_ancestors(registry, run, chosen, known, depth)
    for run in list(chosen.values()):
        source = run.tags.get(WEIGHTS_FROM, "").partition("@")[0]
        if source and source not in chosen:  # a replay whose state it started from, which is no ancestor of it
            _add_ancestors(registry, known.get(source) or registry.get(source), chosen, known, depth)
    return sorted(chosen.values(), key=lambda run: (depth[run.run_id], run.kind != "replay", run.started, run.run_id))


def _descendants(chosen: dict[str, RunRecord], pool: dict[str, RunRecord]) -> dict[str, RunRecord]:
    children: dict[str, list[RunRecord]] = {}
    for run in pool.values():
        children.setdefault(run.parent_id or "", []).append(run)
    found: dict[str, RunRecord] = {}
    stack = list(chosen)
    while stack:
        for child in children.get(stack.pop(), []):
            if child.run_id not in found:
                found[child.run_id] = child
                stack.append(child.run_id)
    return found


def _add_ancestors(
    registry: Registry,
    run: RunRecord,
    chosen: dict[str, RunRecord],
    known: dict[str, RunRecord],
    depth: dict[str, int],
) -> None:
    """Raises: RegistryError when the lineage leads nowhere, UsageError when an ancestor is not finished."""
    chain = registry.lineage(run, known)
    for level, link in enumerate(chain):
        if not link.finished:
            raise UsageError(f"run {link.run_id}, an ancestor of {run.run_id}, is {link.status}", "run it again first")
        chosen[link.run_id] = known[link.run_id] = link
        depth[link.run_id] = level


@dataclass(frozen=True)
class Exported:
    """What was written."""

    paths: tuple[Path, ...]
    runs: tuple[RunRecord, ...]
    files: int
    size: int


def export_bundle(
    registry: Registry,
    runs: Sequence[RunRecord],
    bundle: Path,
    checkpoints: bool = True,
    part_bytes: int | None = None,
    overwrite: bool = False,
    progressed: ReportCount = lambda done, total: None,
) -> Exported:
    """Write `runs`, parents first, to a bundle; equal runs make equal bytes.

    Raises: UsageError when a file is in the way, IntegrityError when a run is not intact, RegistryError.
    """
    with _plain_errors(bundle):
        old = _in_the_way(bundle, overwrite)
    entries: list[RunEntry] = []
    files: dict[str, Path] = {}
    for done, run in enumerate(runs, start=1):
        entry, local = _entry(registry, run, checkpoints)
        entries.append(entry)
        files = local | files
        progressed(done, len(runs))
    listed = [(File(sha256=digest, size=path.stat().st_size), path) for digest, path in sorted(files.items())]
    index = Index(
        format=FORMAT, version=VERSION, part_bytes=part_bytes, files=tuple(f for f, _ in listed), runs=tuple(entries)
    )
    check_runs(index, registry.display_uri)
    check_manifests(index, lambda digest: files[digest].read_bytes(), registry.display_uri)
    with _plain_errors(bundle):
        paths = _write(bundle, index, listed)
        for stale in set(old) - set(paths):
            stale.unlink()
    return Exported(tuple(paths), tuple(runs), len(listed), sum(path.stat().st_size for path in paths))


def _write(bundle: Path, index: Index, files: list[tuple[File, Path]]) -> list[Path]:
    """What fits into one part is written as one file."""
    data = _json(index)
    if index.part_bytes is not None and archive_size(len(data), index.files) <= index.part_bytes:
        index = index.model_copy(update={"part_bytes": None})
        data = _json(index)
    return write_archive(bundle, data, files, index.part_bytes)


@contextmanager
def _plain_errors(bundle: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = disk_hint(error, "give another path")
        raise RegistryError(f"{bundle} cannot be written: {error.strerror or error}", hint) from None


def _in_the_way(bundle: Path, overwrite: bool) -> list[Path]:
    """What is there under the names of a bundle and its parts. Raises: UsageError unless it may be replaced."""
    if PART.fullmatch(bundle.name):
        raise UsageError(f"{bundle} is the name of a part", "give the bundle's name, without a number at its end")
    for path in (bundle, *parts_of(bundle).values()):
        if odd := no_plain_file(path):
            raise UsageError(f"{path} is {odd}", "give the path of a file")
    found = [path for path in (bundle, *parts_of(bundle).values()) if path.exists()]
    if found and not overwrite:
        raise UsageError(f"{found[0]} exists", "give another path, or --overwrite")
    return found


def _json(index: Index) -> bytes:
    return canonical_json(index.model_dump(mode="json", by_alias=True)).encode()


def _entry(registry: Registry, run: RunRecord, checkpoints: bool) -> tuple[RunEntry, dict[str, Path]]:
    """A run as the index has it, and its files by digest, their bytes verified. Raises: IntegrityError."""
    run.require_sound()
    if run.edits:
        raise IntegrityError(f"run {run.run_id} cannot be exported: {run.edits[0]}", _verify(run))
    manifest = registry.manifest(run)
    omitted = registry.artifacts.omitted(run)
    if not checkpoints:
        omitted |= {path for path in manifest if path.startswith(CHECKPOINTS)}
    local = {path: registry.artifact(run, path) for path in manifest if path not in omitted}
    digests = {path: manifest[path]["sha256"] for path in local}
    local[MANIFEST_FILE] = registry.artifacts.manifest_file(run)
    digests[MANIFEST_FILE] = sha256(local[MANIFEST_FILE])
    try:
        entry = RunEntry(
            run_id=run.run_id,
            name=run.name,
            kind=run.kind,  # type: ignore[arg-type]  # the model checks it
            fingerprint=run.recorded_fingerprint,
            group=run.recorded_group,
            spec=tag.spec_text(run.tags),
            parent=run.parent_id,
            weights_from=run.tags.get(tag.WEIGHTS_FROM),
            started=run.started,
            ended=run.ended,
            tags={key: run.tags[key] for key in CARRIED if key in run.tags},
            metrics=_histories(registry, run),
            artifacts=digests,
            omitted=tuple(sorted(omitted)),
        )
    except ValueError as error:
        reason = first_problem(error) if hasattr(error, "errors") else str(error)  # type: ignore[arg-type]
        raise IntegrityError(f"run {run.run_id} cannot be exported: {reason[:300]}", _verify(run)) from None
    return entry, {digests[path]: file for path, file in local.items()}


def _verify(run: RunRecord) -> str:
    return f"see what is wrong: rewindctl verify {run.run_id}"


def _histories(registry: Registry, run: RunRecord) -> dict[str, tuple[MetricPoint, ...]]:
    if (record := registry.record(run)) is not None:
        return record.metrics
    return {key: tuple(sorted(registry.shown_history(run, key))) for key in sorted(run.metrics)}
