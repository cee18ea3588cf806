"""The index of a bundle: its files by digest, its runs with everything but their files; and whether it is sound."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Annotated, Final, Literal

from pydantic import Field

from rewindctl.errors import IntegrityError
from rewindctl.registry import records as tag
from rewindctl.registry.runs.manifest import (
    CHECKPOINTS,
    MANIFEST_FILE,
    MOST_JSON_BYTES,
    MOST_RECORD_BYTES,
    RECORD_FILE,
    ArtifactPath,
    Digest,
    File,
    History,
    Manifest,
    MetricName,
    Millis,
    Strict,
    parse_manifest,
    parse_record,
    parse_strict,
    recorded,
)
from rewindctl.specs import SCHEMA_VERSION, AnyStage, DenseSpec, Kind, PruneSpec, RetrainSpec, parse_spec, upgraded

FORMAT: Final = "rewindctl-bundle"
VERSION: Final = 1
HINT = "get the bundle again from where it was exported"
SMALLEST_PART = 1 << 16

# What travels as it is. The other tags follow from spec and parent, and are made anew; foreign ones stay behind.
CARRIED = (
    tag.MODEL,
    tag.DATASET,
    tag.SEED,
    tag.STRUCTURE,
    tag.SCOPE,
    tag.SPARSITY,
    tag.METHOD,
    tag.DEVICE,
    tag.PRECISION,
    tag.COLLECTED,
    tag.DETERMINISTIC,
    tag.STEP,
    tag.COMPILED,
    tag.UPDATES,
    tag.SPARED,
    tag.LABEL,
    tag.NOTE,
    tag.USER,
    tag.RECORD,
    tag.TICKET,
)

RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Name = Annotated[str, Field(min_length=1, max_length=250, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, Field(max_length=8_000, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")]  # MLflow's limit for a tag
LARGEST = {MANIFEST_FILE: MOST_JSON_BYTES, "spec.json": MOST_JSON_BYTES, RECORD_FILE: MOST_RECORD_BYTES}
MOST_ANCESTORS = 1_000
MOST_COPIES = 100  # how much larger than the bundle its runs may be, which share files

# What reports and verification read of every run of a kind.
METRICS = {
    "dense": {"sparsity", "compression", "nonzero_kernel_parameters", "test_accuracy", "test_accuracy_best"},
    "prune": {"sparsity", "compression", "nonzero_kernel_parameters", "test_accuracy"},
    "retrain": {"sparsity", "compression", "nonzero_kernel_parameters", "test_accuracy", "test_accuracy_best"},
    "replay": {"test_accuracy"},
}


class RunEntry(Strict):
    """A finished run; `artifacts` are its files in the bundle, `omitted` those that its manifest has beyond them."""

    run_id: RunId
    name: Name
    kind: Kind
    fingerprint: Digest
    group: Digest
    spec: Annotated[str, Field(max_length=1_000_000)]
    parent: RunId | None
    weights_from: Annotated[str, Field(pattern=r"^[0-9a-f]{32}@[0-9]{1,12}$")] | None
    started: Annotated[Millis, Field(gt=0)]  # 0 is now to MLflow
    ended: Millis
    tags: dict[Text, Text]
    metrics: dict[MetricName, History]
    artifacts: Annotated[dict[ArtifactPath, Digest], Field(max_length=10_000)]
    omitted: Annotated[tuple[ArtifactPath, ...], Field(max_length=10_000)]

    def last(self, metric: str) -> float:
        """The value that the store shows of a metric: that of the last step."""
        return max(self.metrics[metric])[2]


class Index(Strict):
    """Runs, parents before their children, and files, each once."""

    format: Literal["rewindctl-bundle"]
    version: Literal[1]
    part_bytes: Annotated[int, Field(ge=SMALLEST_PART)] | None
    files: Annotated[tuple[File, ...], Field(max_length=1_000_000)]
    runs: Annotated[tuple[RunEntry, ...], Field(min_length=1, max_length=100_000)]


def parse_index(data: bytes, where: str) -> Index:
    """Raises: IntegrityError naming `where` and the first wrong field."""
    return parse_strict(Index, data, f"the index of {where}", HINT)


def check_runs(index: Index, where: str) -> None:
    """Specs, lineage, tags and times fit together, and every file belongs to a run. Raises: IntegrityError."""
    seen: dict[str, RunEntry] = {}
    for entry in index.runs:
        try:
            problem = next((line for check in CHECKS for line in check(entry, seen)), None)
        except IntegrityError as error:  # its spec cannot be read
            raise IntegrityError(f"{where}: {error.message}", HINT) from None
        if problem is not None:
            raise IntegrityError(f"{where}: run {entry.run_id} {problem}", HINT)
        seen[entry.run_id] = entry
    listed = [file.sha256 for file in index.files]
    used = {digest for entry in index.runs for digest in entry.artifacts.values()}
    if listed != sorted(used):
        raise IntegrityError(f"{where}: the files of its index are not those of its runs, each once, in order", HINT)
    sizes = {file.sha256: file.size for file in index.files}
    copied = sum(sizes[digest] for entry in index.runs for digest in entry.artifacts.values())
    if copied > MOST_COPIES * sum(sizes.values()):
        raise IntegrityError(f"{where}: its runs are more than {MOST_COPIES} times as large as their files", HINT)


def check_manifests(index: Index, read: Callable[[str], bytes], where: str) -> dict[str, Manifest]:
    """The manifest of each run, which names its files, those left out and no others. Raises: IntegrityError."""
    sizes = {file.sha256: file.size for file in index.files}
    manifests: dict[str, Manifest] = {}
    for entry in index.runs:
        run = f"run {entry.run_id} of {where}"
        for path, most in LARGEST.items():
            if sizes.get(entry.artifacts.get(path, ""), 0) > most:
                raise IntegrityError(f"{run}: {path} is larger than {most:,} bytes", HINT)
        manifest = parse_manifest(read(entry.artifacts[MANIFEST_FILE]), run, HINT)
        here = {path: digest for path, digest in entry.artifacts.items() if path != MANIFEST_FILE}
        if sorted([*here, *entry.omitted]) != sorted(manifest.artifacts):
            raise IntegrityError(f"{run}: its files do not match its manifest", HINT)
        for path, digest in here.items():
            if (digest, sizes[digest]) != (manifest.artifacts[path].sha256, manifest.artifacts[path].size):
                raise IntegrityError(f"{run}: {path} does not match its manifest", HINT)
        if not _is_spec(read(here["spec.json"]), entry):
            raise IntegrityError(f"{run}: spec.json differs from the spec of its fingerprint", HINT)
        if not _is_recorded(entry, read(here[RECORD_FILE]) if RECORD_FILE in here else None, run):
            raise IntegrityError(f"{run}: {RECORD_FILE} contradicts its index", HINT)
        manifests[entry.run_id] = manifest
    return manifests


def _is_spec(data: bytes, entry: RunEntry) -> bool:
    try:
        return parse_spec(data.decode(), "spec.json").canonical() == entry.spec
    except (IntegrityError, UnicodeDecodeError):
        return False


def _is_recorded(entry: RunEntry, data: bytes | None, run: str) -> bool:
    """Whether tags and metrics are those that the run was sealed with; runs of earlier versions have no record."""
    if data is None:
        return tag.RECORD not in entry.tags
    record = parse_record(data, run, HINT)
    own = {tag.KIND: entry.kind, tag.SCHEMA: str(spec_of(entry).schema_version), **tag.spec_tags(entry.spec)}
    own |= {tag.FINGERPRINT: entry.fingerprint, tag.GROUP: entry.group}
    is_same = record.tags == recorded(own | entry.tags) and record.metrics == entry.metrics
    return is_same and entry.tags.get(tag.RECORD) == record.digest()


def spec_of(entry: RunEntry) -> AnyStage:
    """Raises: IntegrityError."""
    return parse_spec(entry.spec, f"the spec of run {entry.run_id}")


def _identity(entry: RunEntry, seen: dict[str, RunEntry]) -> Iterator[str]:
    spec = spec_of(entry)
    if entry.run_id in seen:
        yield "appears twice"
    if spec.canonical() != entry.spec or spec.fingerprint() != entry.fingerprint:
        yield "has a spec that does not match its fingerprint"
    if spec.kind != entry.kind:
        yield f"has kind {entry.kind}, but the spec of a {spec.kind} run"


def _lineage(entry: RunEntry, seen: dict[str, RunEntry]) -> Iterator[str]:
    """The parent comes earlier, so no run is its own ancestor and none is without one."""
    spec = spec_of(entry)
    parent = seen.get(entry.parent or "")
    if entry.kind == "dense":
        if entry.parent is not None or entry.weights_from is not None:
            yield "is a dense run with a parent"
    elif parent is None:
        yield f"has the parent {entry.parent}, which does not come before it"
    elif parent.kind not in tag.PARENT_KINDS[entry.kind]:
        yield f"is a {entry.kind} run with a {parent.kind} run as parent"
    elif getattr(spec, "parent_fingerprint", None) != _named_by(spec, parent, seen)[0]:
        yield f"has another parent fingerprint than its parent {parent.run_id}"
    if entry.group != spec.group(_named_by(spec, parent, seen)[1] if parent else None):
        yield "has a group that does not match its spec"
    ancestors = list(islice(_ancestors(entry, seen), MOST_ANCESTORS + 1))
    if len(ancestors) > MOST_ANCESTORS:
        yield f"has more than {MOST_ANCESTORS:,} ancestors"
    origin = (entry.weights_from or "").partition("@")[0]
    may = {"retrain": (True,), "prune": (True, False)}.get(entry.kind, (False,))  # a mask only of an earlier iteration
    if bool(origin) not in may or (origin and not _is_source(origin, ancestors, seen)):
        yield f"has its weights from {entry.weights_from}, which is no ancestor nor a replay of one"


def _is_source(origin: str, ancestors: list[str], seen: dict[str, RunEntry]) -> bool:
    """Whether a retraining can have its weights from a run: from an ancestor, or from what was replayed of one."""
    replayed = origin in seen and seen[origin].kind == "replay" and seen[origin].parent in ancestors
    return origin in ancestors or replayed


def _named_by(spec: AnyStage, parent: RunEntry, seen: dict[str, RunEntry]) -> tuple[str, str]:
    """The fingerprint and group by which a child of the schema of `spec` names its parent.

    A child of today names a parent of an older schema by what that is today, not by what it recorded.
    """
    if spec.schema_version == SCHEMA_VERSION != spec_of(parent).schema_version:
        today = _upgrade_of(parent, seen)
        return today.fingerprint, today.group
    return parent.fingerprint, parent.group


def _upgrade_of(entry: RunEntry, seen: dict[str, RunEntry]) -> tag.Upgrade:
    """What a run of a bundle is today; `seen` has its ancestors. Raises: IntegrityError."""
    chain = [entry, *(seen[run_id] for run_id in islice(_ancestors(entry, seen), MOST_ANCESTORS))]
    above: tag.Upgrade | None = None
    for link in reversed(chain):
        above = upgrade_below(link, above)
    assert above is not None
    return above


def upgrade_below(entry: RunEntry, above: tag.Upgrade | None) -> tag.Upgrade:
    """What a run is today, from what its parent is (None: a baseline has none). Raises: IntegrityError."""
    spec = upgraded(spec_of(entry), above.fingerprint if above else None)
    return tag.Upgrade(spec, spec.group(above.group if above else None))


def _ancestors(entry: RunEntry, seen: dict[str, RunEntry]) -> Iterator[str]:
    while entry.parent in seen:
        yield entry.parent
        entry = seen[entry.parent]


def _tags(entry: RunEntry, seen: dict[str, RunEntry]) -> Iterator[str]:
    """Tags are ours, and say what the spec and the parent say."""
    if foreign := sorted(set(entry.tags) - set(CARRIED)):
        yield f"has the tag {foreign[0][:100]!r}, which no bundle carries"
    parent = seen.get(entry.parent or "")
    own = _own_labels(entry)
    labels = (tag.MODEL, tag.DATASET, tag.SEED, tag.STRUCTURE, tag.SCOPE, tag.SPARSITY)
    inherited = {key: parent.tags[key] for key in labels if parent and key in parent.tags}
    for key, value in (inherited | own).items():
        if entry.tags.get(key) != value:
            yield f"has the tag {key} = {entry.tags.get(key, '')[:100]!r} where its lineage says {value!r}"


def _own_labels(entry: RunEntry) -> dict[str, str]:
    spec = spec_of(entry)
    if isinstance(spec, DenseSpec):
        return {tag.MODEL: spec.model, tag.DATASET: spec.dataset, tag.SEED: str(spec.seed)}
    if isinstance(spec, RetrainSpec):
        return {tag.METHOD: spec.method}
    if not isinstance(spec, PruneSpec):
        return {}
    sparsity = {tag.SPARSITY: f"{entry.last('sparsity'):.6g}"} if "sparsity" in entry.metrics else {}
    return {tag.STRUCTURE: spec.structure, tag.SCOPE: spec.scope, **sparsity}


def _metrics(entry: RunEntry, seen: dict[str, RunEntry]) -> Iterator[str]:
    if entry.ended < entry.started:
        yield "ended before it started"
    if missing := sorted(METRICS[entry.kind] - set(entry.metrics)):
        yield f"has no metric {missing[0]}"
    for key, points in entry.metrics.items():
        if max(time for _, time, _ in points) > entry.ended:
            yield f"has a value of metric {key} from after its end"


def _paths(entry: RunEntry, seen: dict[str, RunEntry]) -> Iterator[str]:
    """A manifest and a spec are there, no path is a folder of another, and only checkpoints are left out."""
    for path in (MANIFEST_FILE, "spec.json"):
        if path not in entry.artifacts:
            yield f"has no {path}"
    paths = [*entry.artifacts, *entry.omitted]
    folders = {path[:end] for path in paths for end, sign in enumerate(path) if sign == "/"}
    if len(set(paths)) < len(paths) or folders & set(paths):
        yield "has an artifact twice, or one inside another"
    for path in entry.omitted:
        if not path.startswith(CHECKPOINTS):
            yield f"leaves out {path}, which is no checkpoint"


CHECKS = (_identity, _lineage, _tags, _metrics, _paths)
