"""Runs to a bundle: each is verified against its manifest and digests before a byte of it is written."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rewindctl.errors import IntegrityError, RegistryError, UsageError
from rewindctl.registry import records as tag
from rewindctl.registry.bundle.archive import PART, archive_size, parts_of, write_archive
from rewindctl.registry.bundle.check import check_manifests, check_runs
from rewindctl.registry.bundle.index import CARRIED, FORMAT, VERSION, Index, RunEntry
from rewindctl.registry.records import RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.runs.manifest import MANIFEST_FILE, File
from rewindctl.registry.runs.paths import CHECKPOINTS
from rewindctl.registry.runs.record import Point
from rewindctl.specs import canonical_json, first_problem
from rewindctl.system.files import disk_hint, no_plain_file, sha256

ReportCount = Callable[[int, int], None]  # runs done, runs in all


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
        raise UsageError(f"{bundle} is the name of a part", "give the name of the whole: no number at its end")
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


def _histories(registry: Registry, run: RunRecord) -> dict[str, tuple[Point, ...]]:
    if (record := registry.record(run)) is not None:
        return record.metrics
    return {key: tuple(sorted(registry.shown_history(run, key))) for key in sorted(run.metrics)}
