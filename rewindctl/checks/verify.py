"""Whether what the registry holds of a run is what was written: files, numbers, lineage, mask against weights."""

from collections.abc import Iterator
from itertools import chain

from rewindctl.errors import IntegrityError, RewindError
from rewindctl.pipeline.networks import fitting_config, load_mask
from rewindctl.pipeline.starts import weights_source
from rewindctl.pruning import Mask, excluded_layers
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry.deleting.disk import find_run
from rewindctl.registry.records import PARENT_KINDS, RECORD, REPORT, WEIGHTS_FROM, spec_text
from rewindctl.registry.runs.manifest import CHECKPOINTS, FINAL, checkpoint_path
from rewindctl.registry.runs.opening import params_of
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import DenseSpec, PruneSpec, ReplaySpec, RetrainSpec, Spec, canonical_json, parse_tuning_spec

TUNING_PARENTS = {"tune": ("prune",), "trial": ("tune",)}  # no stages: nothing is made from them


def verify(registry: Registry, run: RunRecord) -> list[str]:
    """One line for each thing wrong with a run; an intact run has none.

    Checkpoints that were left out when the run was exported are not wrong: `Artifacts.omitted` names them.
    """
    if run.kind not in (*PARENT_KINDS, *TUNING_PARENTS, REPORT):
        return [f"is not a dense, prune or retrain run, a search, a trial or a report, but {run.kind or 'foreign'}"]
    if not run.finished:
        return [f"is {run.status}, not FINISHED"]
    problems: list[str] = []
    stage = () if run.kind == REPORT else (_spec, _lineage)
    content = (_content,) if run.kind in PARENT_KINDS else ()
    for check in (*stage, _files, _edits, *content):
        try:
            problems += check(registry, run)
        except RewindError as error:
            problems.append(error.message)
    return list(dict.fromkeys(problems))


def _spec(registry: Registry, run: RunRecord) -> Iterator[str]:
    """The spec has the fingerprint of the tag, and `spec.json` and the params say the same."""
    spec = _spec_of(run)
    if canonical_json(registry.artifacts.read_json(run, "spec.json")) != spec.canonical():
        yield "spec.json differs from the spec of the run's fingerprint"
    for key, value in params_of(spec).items():
        if run.params.get(key) != value:
            yield f"param {key} is {run.params.get(key)!r}, the spec says {value!r}"


def _spec_of(run: RunRecord) -> Spec:
    """The spec, which must have the fingerprint of the tag. Raises: IntegrityError."""
    if run.kind not in TUNING_PARENTS:
        return run.recorded
    spec = parse_tuning_spec(spec_text(run.tags), f"the spec of run {run.run_id}")
    if spec.fingerprint() != run.fingerprint:
        raise IntegrityError(
            f"the spec of run {run.run_id} does not match the run's fingerprint: one of the two was edited"
        )
    return spec


def _lineage(registry: Registry, run: RunRecord) -> Iterator[str]:
    """The parent is there, of the right kind, and is the one that the fingerprint names."""
    if run.kind == "dense":
        if run.recorded.group(None) != run.recorded_group:
            yield "its group tag was edited"
        return
    parent, spec = registry.parent(run), _spec_of(run)
    if parent.kind not in (PARENT_KINDS | TUNING_PARENTS)[run.kind]:
        yield f"its parent {parent.run_id} is a {parent.kind or 'foreign'} run"
    if not parent.finished and run.kind != "trial":  # a search is finished after its trials
        yield f"its parent {parent.run_id} is {parent.status}, not FINISHED"
    if getattr(spec, "parent_fingerprint", None) not in (parent.fingerprint, parent.recorded_fingerprint):
        yield f"its parent {parent.run_id} does not match its fingerprint"
    if run.dense_run_id != parent.dense_run_id:
        yield f"its dense run tag {run.dense_run_id} is not that of its parent, {parent.dense_run_id}"
    if run.recorded_group not in (spec.group(parent.group), spec.group(parent.recorded_group)):
        yield "its group tag was edited"


def _files(registry: Registry, run: RunRecord) -> Iterator[str]:
    """Every artifact is there with its digest, and there is no other."""
    manifest = registry.manifest(run)
    for path in sorted(set(manifest) - registry.artifacts.omitted(run)):
        try:
            registry.artifact(run, path)
        except RewindError as error:
            yield error.message
    for path in sorted(set(registry.artifacts.paths(run)) - set(manifest) - {"manifest.json"}):
        yield f"{path} of run {run.run_id} is not in the manifest: it was added later"


def _edits(registry: Registry, run: RunRecord) -> Iterator[str]:
    """MLflow lets anyone edit a finished run: tags and metrics are those that it was sealed with.

    Of a run from before there were records, metrics from after its end show.
    """
    record = registry.record(run)
    if record is None:
        for key in sorted(run.metrics):
            if run.ended and any(time > run.ended for _, time, _ in registry.shown_history(run, key)):
                yield f"metric {key} was written after the run had ended"
        return
    if RECORD not in run.tags:
        yield f"tag {RECORD} was removed"
    yield from dict.fromkeys([*run.edits, *record.edits(run.tags, run.metrics)])
    for key, history in record.metrics.items():
        shown = sorted(registry.shown_history(run, key))
        if other := sorted(set(shown).symmetric_difference(history)):
            yield f"metric {key} at step {other[0][0]:,} is not what was recorded"


def _content(registry: Registry, run: RunRecord) -> Iterator[str]:
    """Checkpoints fit the network of the spec; the mask fits its counts; removed weights are 0."""
    root = registry.lineage(run)[0]
    dense = root.spec
    assert isinstance(dense, DenseSpec)
    omitted = registry.artifacts.omitted(run)
    for path in sorted(path for path in set(registry.manifest(run)) - omitted if path.startswith(CHECKPOINTS)):
        state = TrainState.load(registry.artifact(run, path))
        try:
            fitting_config(dense, state)
        except IntegrityError as error:
            yield f"{path} of run {run.run_id}: {error.message}"
    yield from _curve(registry, run)
    if run.kind == "dense":
        yield from _missing_points(registry, run, dense)
        return
    yield from _weights(registry, run)
    if isinstance(run.spec, ReplaySpec):
        if checkpoint_path(run.spec.iteration) not in registry.manifest(run):
            yield f"the state of iteration {run.spec.iteration} is not in its manifest"
        return
    mask = load_mask(registry, run)
    assert mask is not None
    if mask.kept != run.metric("nonzero_kernel_parameters"):
        yield f"the mask keeps {mask.kept} weights, the run says {run.metrics['nonzero_kernel_parameters']:.0f}"
    if isinstance(run.spec, PruneSpec):
        yield from _removed(registry, run, run.spec, mask)
    if isinstance(run.spec, RetrainSpec):
        yield from _missing_points(registry, run, run.spec)
    if isinstance(run.spec, RetrainSpec) and FINAL not in omitted:
        yield from _nonzero(TrainState.load(registry.artifact(run, FINAL)), mask)


def _removed(registry: Registry, run: RunRecord, spec: PruneSpec, mask: Mask) -> Iterator[str]:
    """The mask removes as much as its spec asks for, and nothing of the layers that it excludes."""
    wanted = round(spec.sparsity * mask.total)
    if spec.structure == "unstructured" and mask.removed != wanted:
        yield f"the mask removes {mask.removed} of {mask.total} weights, its sparsity asks for {wanted}"
    before = load_mask(registry, registry.parent(run)) or Mask.ones(mask.kernels)
    for name in sorted(excluded_layers(mask.kernels, spec.exclude)):
        if bool((before.kernels[name] & ~mask.kernels[name]).any()):
            yield f"the mask removes weights of {name}, which its spec excludes"


def _curve(registry: Registry, run: RunRecord) -> Iterator[str]:
    """A training was evaluated every so many iterations, as its spec says, and at its last."""
    spec = run.spec
    if isinstance(spec, PruneSpec):
        return
    first, last = 0, spec.iteration if isinstance(spec, ReplaySpec) else spec.iterations
    if isinstance(spec, ReplaySpec):  # where it went on from is its training's
        first = spec.from_iteration // spec.evaluate_every + 1
    steps = registry.curve(run, "test_accuracy").keys()
    wanted = chain(range(first * spec.evaluate_every, last, spec.evaluate_every), (last,))
    if (missing := next((step for step in wanted if step not in steps), None)) is not None:
        yield f"metric test_accuracy has no value at iteration {missing:,}"
    odd = [step for step in steps if step > last or (step % spec.evaluate_every and step != last)]
    if odd:
        yield f"metric test_accuracy has a value at iteration {odd[0]:,}, which its spec does not evaluate"


def _weights(registry: Registry, run: RunRecord) -> Iterator[str]:
    """The tag says what the run started from: a training of its lineage, or what was made again of it."""
    told, spec = run.tags.get(WEIGHTS_FROM, ""), run.spec
    if isinstance(spec, RetrainSpec):
        training, iteration = weights_source(registry, spec, registry.parent(run), registry.root(run))
    elif isinstance(spec, PruneSpec) and spec.iteration is not None:
        training, iteration = registry.parent(run), spec.iteration
    else:
        return
    assert isinstance(training.spec, DenseSpec | RetrainSpec)
    at = training.spec.iterations if iteration is None else iteration
    source = told.removesuffix(f"@{at}")
    if told == source or not _is_holder(registry, training, source):
        yield f"its tag {WEIGHTS_FROM} is {told!r}, it started from iteration {at:,} of run {training.run_id}"


def _is_holder(registry: Registry, training: RunRecord, run_id: str) -> bool:
    """Whether a run is a training, or was made again of it, though it may be deleted since."""
    if run_id == training.run_id:
        return True
    run = find_run(registry, run_id)
    return run is not None and run.kind == "replay" and run.parent_id == training.run_id


def _missing_points(registry: Registry, run: RunRecord, spec: DenseSpec | RetrainSpec) -> Iterator[str]:
    """A training has a checkpoint for each of its rewind points, and its last."""
    names = [*(checkpoint_path(point) for point in spec.rewind_points if point != spec.iterations), FINAL]
    for name in sorted(set(names) - set(registry.manifest(run))):
        yield f"{name} of run {run.run_id} is not in its manifest"


def _nonzero(state: TrainState, mask: Mask) -> Iterator[str]:
    """Weights and momentum are exactly 0 where the mask removes."""
    for name, kept in mask.tensors().items():
        for part, tensors in (("weights", state.parameters), ("momentum", state.momentum)):
            if name not in tensors or tensors[name].shape != kept.shape:
                yield f"the mask has {name} {tuple(kept.shape)}, which the {part} lack"
            elif (count := int(tensors[name][~kept].count_nonzero())) > 0:
                yield f"{count} removed {part} of {name} are not 0"
