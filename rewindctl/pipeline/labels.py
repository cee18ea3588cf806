"""What people read of a run: its name, its tags, its note and the command that makes it again."""

import hashlib
import re
from collections.abc import Sequence

from rewindctl.commands import asked_for, dense_command, prune_command, replay_command, retrain_command
from rewindctl.counting import count_of
from rewindctl.pruning import PruneResult
from rewindctl.registry import RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.models import dense_model, iterations_of
from rewindctl.rewinding.methods import OPTIONS
from rewindctl.specs import DenseSpec, PruneSpec, ReplaySpec, RetrainSpec, Spec
from rewindctl.system.safe_text import markdown

LINE = 90  # characters
LONGEST_COMMAND = 4_000  # of the 8,000 that MLflow keeps of a note
MOST_POINTS = 50
MOST_OF_LAYERS = 60  # characters: a bundle takes names of 250
INHERITED = (tag.MODEL, tag.DATASET, tag.SEED, tag.STRUCTURE, tag.SCOPE, tag.SPARSITY)


def label_tag(name: str, seed: str) -> dict[str, str]:
    """The name without the seed, which the UI shows for the mean over seeds."""
    return {tag.LABEL: name.replace(f" s{seed} ", " ", 1)}


def dense_tags(spec: DenseSpec) -> dict[str, str]:
    return {tag.MODEL: spec.model, tag.DATASET: spec.dataset, tag.SEED: str(spec.seed)}


def prune_tags(spec: PruneSpec) -> dict[str, str]:
    return {tag.STRUCTURE: spec.structure, tag.SCOPE: spec.scope}


def inherited(parent: RunRecord) -> dict[str, str]:
    """The tags that every descendant carries, so that a run can be read without its parents."""
    return {key: parent.tags[key] for key in INHERITED if key in parent.tags}


def sparsity_tag(sparsity: float) -> dict[str, str]:
    return {tag.SPARSITY: f"{sparsity:.6g}"}


def dense_name(spec: DenseSpec) -> str:
    return f"dense s{spec.seed} {spec.model}-{spec.dataset}"


def prune_name(spec: PruneSpec, tags: dict[str, str]) -> str:
    structured = " structured" if spec.structure == "structured" else ""
    return f"prune {1 / (1 - spec.sparsity):.4g}x{structured}{_unusual_pruning(spec)} {_subject(tags)}"


def retrain_name(spec: RetrainSpec, tags: dict[str, str], mask: RunRecord) -> str:
    return f"{method_label(spec)} {_mask_name(mask)} {_subject(tags)}"


def replay_name(spec: ReplaySpec, training: RunRecord, mask: RunRecord | None) -> str:
    """`mask`: the prune run that was retrained, None where a dense run is replayed."""
    of = training.tags.get(tag.METHOD, "dense") + (_unusual_pruning(mask.spec) if mask else "")
    return f"replay {of} to {spec.iteration} {_subject(training.tags)}"


def replay_text(spec: ReplaySpec, training: RunRecord) -> str:
    """The message before a replay, with its cost in iterations."""
    cost = count_of(spec.iteration - spec.from_iteration, "iteration")
    return (
        f"iteration {spec.iteration:,} of {training.short} is not recorded: replays {cost} from {spec.from_iteration:,}"
    )


def replay_note(spec: ReplaySpec, training: RunRecord, accuracy: float) -> str:
    return (
        f"**Replay** of {_link(training)} from its iteration {spec.from_iteration:,} to {spec.iteration:,}, which it "
        f"did not record: the same bytes, {accuracy:.2%} test accuracy there."
        + _command(replay_command(spec, training.run_id))
    )


def tune_name(method: str, mask: RunRecord) -> str:
    return f"tune {method} {_mask_name(mask)} {_subject(mask.tags)}"


def _mask_name(mask: RunRecord) -> str:
    return f"{mask.metric('compression'):.4g}x{_unusual_pruning(mask.spec)}"


def method_label(spec: RetrainSpec) -> str:
    """The method with the settings that distinguish two retrainings by it."""
    return " ".join([spec.method, *_unusual(spec, whole=True)])


def stage_label(specs: Sequence[Spec]) -> str:
    """A stage of a plan in words, from the specs of its lineage, its own last."""
    dense, last = specs[0], specs[-1]
    assert isinstance(dense, DenseSpec)
    mask = next((spec for spec in reversed(specs) if isinstance(spec, PruneSpec)), None)
    if mask is None:
        return dense_name(dense)
    what = retrain_label(last) if isinstance(last, RetrainSpec) else "prune"
    level = f", level {len(specs) // 2}" if len(specs) > 3 else ""
    return f"{what} {1 / (1 - mask.sparsity):.4g}x{_unusual_pruning(mask)} {_subject(dense_tags(dense))}{level}"


def _unusual_pruning(spec: Spec) -> str:
    """The criterion where it is not magnitude, and the layers that are excluded; empty for what is no mask."""
    if not isinstance(spec, PruneSpec):
        return ""
    criterion = f" {spec.criterion}" if spec.criterion != "magnitude" else ""
    layers = " ".join(spec.exclude)
    if len(layers) > MOST_OF_LAYERS:  # and yet no other's: the UI averages what has one label
        layers = f"{layers[: MOST_OF_LAYERS - 12]}... {hashlib.sha256(layers.encode()).hexdigest()[:8]}"
    return criterion + (f" without {layers}" if layers else "")


def retrain_label(spec: RetrainSpec) -> str:
    """The method with every setting that is not the default."""
    return " ".join([method_label(spec), *_unusual(spec, whole=False)])


def _unusual(spec: RetrainSpec, *, whole: bool) -> list[str]:
    """The options that do not go without saying, in words: whole numbers, or the others."""
    given = [(OPTIONS[name], value) for name, value in asked_for(spec).items()]
    return [one.label.format(value) for one, value in given if one.whole == whole and value != one.usual(spec)]


def dense_note(spec: DenseSpec, accuracy: float, parameters: int, kernel_parameters: int) -> str:
    return (
        f"**Dense baseline**: `{spec.model}` on `{spec.dataset}`, seed {spec.seed}. {accuracy:.2%} test accuracy after "
        f"{count_of(spec.iterations, 'iteration')}; {parameters:,} parameters, {kernel_parameters:,} of them kernels. "
        f"Its `checkpoints` can be rewound to: iterations {_points(spec.rewind_points)}."
        + _command(dense_command(spec))
    )


def alias_note(spec: DenseSpec, longer: RunRecord) -> str:
    """The note that a new baseline does not get the alias of its seed."""
    name = f"models:/{dense_model(spec.model, spec.dataset)}@seed-{spec.seed}"
    length = count_of(iterations_of(longer), "iteration")
    return f"note: {name} stays with run {longer.run_id}, which is longer ({length})"


def prune_note(spec: PruneSpec, parent: RunRecord, result: PruneResult, accuracy: float) -> str:
    mask = result.mask
    spared = f" In this mask {spared_text(spec, result)}." if result.spared_layers else ""
    unusual = f",{_unusual_pruning(spec)}" if _unusual_pruning(spec) else ""
    return (
        f"**Mask** over the weights of {_link(parent)}. Kept {mask.kept:,} of {mask.total:,} kernel weights "
        f"({mask.compression:.4g}x, {spec.structure}, {spec.scope}{unusual}); {accuracy:.2%} test accuracy before "
        f"retraining.{spared} What is left of each layer: `mask/layers.csv` and `plots/density.png` under *Artifacts*."
        + _command(prune_command(spec, parent.run_id))
    )


def spared_text(spec: PruneSpec, result: PruneResult) -> str:
    """The layers that the ranking would have emptied, and the unit that was left in each."""
    unit = "channel" if spec.structure == "structured" else "weight"
    which = "a layer" if len(result.spared_layers) == 1 else "each of the layers"
    layers = ", ".join(result.spared_layers)
    return f"one {unit} was left in {which} that would have become empty: {layers}" if layers else ""


def retrain_note(
    spec: RetrainSpec, parent: RunRecord, source: RunRecord, compression: float, accuracy: float, delta: float
) -> str:
    rate = "the schedule" if spec.constant_lr is None else f"a constant rate of {spec.constant_lr:g}"
    return (
        f"**Retraining** with `{method_label(spec)}` and the mask of {_link(parent)}, {compression:.4g}x: "
        f"{accuracy:.2%} test accuracy, {100 * delta:+.2f} points against its dense run. Weights from iteration "
        f"{spec.weights_iteration:,} of {_link(source)}, {count_of(spec.iterations, 'iteration')} at {rate}."
        + _command(retrain_command(spec, parent.run_id))
    )


def _subject(tags: dict[str, str]) -> str:
    """What names end with: the UI cuts them off, and what tells runs apart must come first."""
    return f"s{tags[tag.SEED]} {tags[tag.MODEL]}-{tags[tag.DATASET]}"


def _link(run: RunRecord) -> str:
    """Markdown that the MLflow UI makes a link of, whichever experiment the run is in."""
    return f"[{markdown(run.name)}](#/runs/{run.run_id})"


def _points(points: Sequence[int]) -> str:
    some = ", ".join(map(str, points[:MOST_POINTS]))
    return some if len(points) <= MOST_POINTS else f"{some}, ... ({len(points):,} in all)"


def _command(line: str) -> str:
    """A block to copy into a shell, its lines short enough for a page of the UI."""
    lines = [""]
    for part in re.split(r" (?=--)", line):
        if lines[-1] and len(lines[-1]) + len(part) > LINE:
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}" if lines[-1] else part
    block = " \\\n".join(lines)
    return (
        f" Made by:\n\n```\n{block}\n```\n" if len(block) <= LONGEST_COMMAND else " `rewindctl show` has the command."
    )
