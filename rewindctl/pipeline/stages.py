"""A stage is found in the registry, or run, linked to its parent, and closed; its failure is recorded."""

import csv
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewindctl.arithmetic import AUTO
from rewindctl.console import Console
from rewindctl.datasets import Dataset, load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import DivergedError, RegistryError, UsageError
from rewindctl.models import Network, kernels
from rewindctl.pipeline import inputs, labels
from rewindctl.pipeline.networks import holder_of, load_file, load_mask, load_state, require_layers
from rewindctl.pipeline.policy import RunPolicy
from rewindctl.pipeline.replays import States, compare, difference, threads_of
from rewindctl.pipeline.requests import require_kind
from rewindctl.pipeline.settings import dense_settings, retrain_settings
from rewindctl.pipeline.starts import Prepared, fresh_network, pruned_source, retrain_start, weights_source
from rewindctl.pipeline.train_run import train_run, write_result
from rewindctl.pipeline.waiting import bring_kept, find_or_start
from rewindctl.pruning import Mask, PruneResult, prune
from rewindctl.pruning.density import plot_density
from rewindctl.registry import Machine, Registry, RunRecord, RunWriter, Watch
from rewindctl.registry import records as tag
from rewindctl.registry.models import unregistered_text
from rewindctl.registry.paths import LAYERS, MASK, checkpoint_path
from rewindctl.registry.writer import resume_file
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.safe_text import finite
from rewindctl.specs import DenseSpec, PruneSpec, ReplaySpec, RetrainSpec, Spec
from rewindctl.training.device import deciding, device_name, environment, resolve_device
from rewindctl.training.gradients import TrainedNetwork
from rewindctl.training.loop import evaluate
from rewindctl.training.records import ResumePoint, TrainResult
from rewindctl.training.steppers import choose_step

FAILED_RUN = "rewindctl_run_id"


@dataclass(frozen=True)
class Outcome:
    """A finished stage; `reused` when it was found and not run."""

    run: RunRecord
    reused: bool


@dataclass
class Pipeline:
    """Runs stages against one registry on one device.

    The registry is opened when it is first needed, so that a request refused before leaves no store behind; data
    sets are read once. Raises: UsageError for a device that is not there, or that has no such step as is asked for.
    """

    open_registry: Callable[[], Registry]
    console: Console
    device_name: str = "auto"
    data_dir: Path | None = None
    policy: RunPolicy = field(default_factory=RunPolicy)
    _datasets: dict[str, Dataset] = field(default_factory=dict)
    _on_device: dict[str, DeviceData] = field(default_factory=dict)
    _reading: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.device = resolve_device(self.device_name)
        choose_step(self.policy.arithmetic.step, self.device)

    @cached_property
    def registry(self) -> Registry:
        return self.open_registry()

    def run_dense(self, spec: DenseSpec) -> Outcome:
        """Train a baseline, with checkpoints at its rewind points; the finished run becomes a model version."""
        return self._find_or_run(spec, None, labels.dense_name(spec), labels.dense_tags(spec), self._dense)

    def run_prune(self, spec: PruneSpec, parent: RunRecord) -> Outcome:
        """Make a mask over the weights of `parent`, a dense or a retrained run."""
        tags = {**labels.inherited(parent), **labels.prune_tags(spec)}
        name, needed = labels.prune_name(spec, tags), [(parent, spec.iteration)] if spec.iteration is not None else []
        return self._find_or_run(spec, parent, name, tags, partial(self._prune, parent), needed)

    def run_retrain(self, spec: RetrainSpec, parent: RunRecord) -> Outcome:
        """Retrain the network that the prune run `parent` left."""
        tags = {**labels.inherited(parent), tag.METHOD: spec.method}
        name = labels.retrain_name(spec, tags, parent)
        return self._find_or_run(spec, parent, name, tags, partial(self._retrain, parent), self._needed(spec, parent))

    def _needed(self, spec: RetrainSpec, parent: RunRecord) -> list[tuple[RunRecord, int | None]]:
        """The states that a retraining starts from, that of its weights first."""
        weights = weights_source(self.registry, spec, parent, self.dense_run(parent))
        return [weights, *([pruned_source(self.registry, parent)] if spec.data_order == "continued" else [])]

    def state(self, training: RunRecord, iteration: int) -> Outcome:
        """The run that has the state of a finished training at an iteration: itself, or a replay, found or made.

        Raises: UsageError.
        """
        require_kind(training, "dense", "retrain")
        states = States.of(self.registry, training)
        if not 0 <= iteration <= states.iterations:
            raise UsageError(
                f"--iteration {iteration} is outside the {states.iterations} iterations of run {training.run_id}",
                f"give an iteration from 0 to {states.iterations}",
            )
        if iteration in states.runs:
            return Outcome(states.runs[iteration], reused=True)
        return self.run_replay(training, iteration)

    def run_replay(self, training: RunRecord, iteration: int) -> Outcome:
        """Make the state of a finished training at an iteration again, from the nearest earlier one that there is.

        Raises: UsageError where its bytes cannot be made here.
        """
        states = States.of(self.registry, training)
        self._require_replayable(states, iteration)
        spec = ReplaySpec(
            parent_fingerprint=training.spec.fingerprint(),
            iteration=iteration,
            from_iteration=states.nearest(iteration) or 0,
            evaluate_every=training.spec.evaluate_every,  # type: ignore[union-attr]  # a training's has it
        )
        self.console.say(labels.replay_text(spec, training))
        name, tags = labels.replay_name(spec, training), labels.inherited(training)
        with threads_of(self.registry, training, self.device):
            return self._find_or_run(spec, training, name, tags, partial(self._replay, states))

    def require_state(self, training: RunRecord, iteration: int | None) -> None:
        """Raises: UsageError when a training has no state of an iteration, and it is not made again either."""
        states = None if iteration is None else States.of(self.registry, training)
        if states is not None and iteration not in (None, states.iterations, *states.runs):
            assert iteration is not None
            self._require_replayable(states, iteration)

    def prepared(self, spec: RetrainSpec, parent: RunRecord) -> Prepared:
        """What a retraining of the prune run `parent` starts with. Raises: UsageError, IntegrityError."""
        root = self.dense_run(parent)
        dense, mask = self.dense_of(root), load_mask(self.registry, parent)
        for state in self._needed(spec, parent):
            self._held(*state)
        start = retrain_start(spec, load_state(self.registry, *weights_source(self.registry, spec, parent, root)))
        if spec.data_order == "continued":
            pruned = load_state(self.registry, *pruned_source(self.registry, parent))
            start = replace(start, data_position=pruned.data_position)
        return Prepared(self._network(dense), start, mask, retrain_settings(spec, dense))

    def require_step(self, root: DenseSpec | RunRecord) -> None:
        """Raises: UsageError where the network of a baseline, or of a run below one, has no such step as asked for."""
        if (asked := self.policy.arithmetic.step) == "fused":
            dense = root if isinstance(root, DenseSpec) else self.dense_of(root)
            choose_step(asked, self.device, self._network(dense))

    def dataset(self, name: str) -> Dataset:
        """The data set, read once. Raises: UnknownNameError, DataError."""
        with self._reading:
            if name not in self._datasets:
                self._datasets[name] = load_dataset(name, self.data_dir)
            return self._datasets[name]

    def share_data(self, other: "Pipeline") -> None:
        """Use the data sets that `other`, on the same device, reads and has read, instead of copies of them."""
        self._datasets, self._on_device, self._reading = other._datasets, other._on_device, other._reading

    def dense_run(self, run: RunRecord) -> RunRecord:
        """The finished dense run at the root of `run`. Raises: UsageError."""
        root = run if run.kind == "dense" else self.registry.root(run)
        require_kind(root, "dense")
        return root

    def dense_of(self, run: RunRecord) -> DenseSpec:
        """The spec of the dense run at the root of `run`. Raises: UsageError, IntegrityError."""
        spec = self.dense_run(run).spec
        assert isinstance(spec, DenseSpec)
        return spec

    def _find_or_run(
        self,
        spec: Spec,
        parent: RunRecord | None,
        name: str,
        tags: dict[str, str],
        work: Callable[[Any, RunWriter], None],
        needed: Sequence[tuple[RunRecord, int | None]] = (),
    ) -> Outcome:
        """`needed` are the states that a stage to run starts from: those not recorded are made again before it."""
        force, precision = self.policy.force, self.policy.arithmetic.precision
        if isinstance(spec, ReplaySpec):  # another's bytes: in its arithmetic, and never anew for its own sake
            assert parent is not None
            force, precision = False, tag.precision_of(parent)
        if not force:
            bring_kept(self.registry, spec.fingerprint(), self.console)
        asked = {} if precision == AUTO or isinstance(spec, PruneSpec) else {tag.PRECISION: precision}

        def start(*, watch: Watch) -> RunWriter:
            if isinstance(spec, DenseSpec):
                self.require_step(spec)
            elif isinstance(spec, RetrainSpec) and parent is not None:
                self.require_step(parent)
            elif isinstance(spec, PruneSpec) and parent is not None and spec.exclude:
                dense = self.dense_of(parent)
                require_layers(dense, self.dataset(dense.dataset), spec.exclude)
            held = [self._held(*state) for state in needed]
            own = tags | asked | ({tag.WEIGHTS_FROM: held[0]} if held else {})
            how: dict[str, Any] = {"precision": precision, "machine": Machine(deciding(self.device), self.console.say)}
            return self.registry.start(spec, name, parent, own, resume=not force, watch=watch, **how)

        find = (lambda: None) if force else partial(self.registry.find, spec.fingerprint(), parent, precision)
        found = find_or_start(find, start, self.console, self.policy.wait, self.policy.deadline)
        if isinstance(found, RunRecord):
            with suppress(OSError):  # left by a process that was killed at the very end; gc finds it too
                resume_file(found.run_id).unlink()
            self.console.say(f"reused   {found.short}: test accuracy {found.metric('test_accuracy'):.2%}")
            self._register(found)
            return Outcome(found, reused=True)
        spec = found.own_spec(spec)
        run = self._run(found, spec, labels.label_tag(name, tags[tag.SEED]), partial(work, spec))
        self.console.say(f"finished {run.short}: test accuracy {run.metric('test_accuracy'):.2%}")
        if self._register(run):
            self._say_alias(spec)
        return Outcome(run, reused=False)

    def _run(
        self, writer: RunWriter, spec: Spec, label: dict[str, str], work: Callable[[RunWriter], None]
    ) -> RunRecord:
        """The run finished, or closed with what went wrong."""
        try:
            collected = {tag.COLLECTED: self.policy.collected} if self.policy.collected else {}
            writer.tag({tag.DEVICE: device_name(self.device), **label, **collected})
            writer.write_json("environment.json", environment(self.device))
            if isinstance(spec, DenseSpec):
                self._say_if_forbidden(spec)
            work(writer)
            writer.seal()
            return writer.finish(self.console.say)
        except BaseException as error:
            if isinstance(error, DivergedError):
                where = {tag.DIVERGED_ITERATION: str(error.iteration), tag.DIVERGED_RATE: f"{error.learning_rate:g}"}
                with suppress(RegistryError):  # the run is closed in any case
                    writer.tag(where)
                error.hint += f"; the FAILED run: rewindctl show {writer.run_id}"
            writer.fail(error)
            error.__dict__[FAILED_RUN] = writer.run_id
            raise

    def _register(self, run: RunRecord) -> bool:
        """Make a baseline a version of its model; it is finished, whatever keeps it from that. Whether it is one."""
        if isinstance(run.spec, DenseSpec):
            try:
                self.registry.register(run)
            except RegistryError as error:
                self.console.say(f"note: run {run.run_id} {unregistered_text(run.spec, error)}")
                return False
        return True

    def _say_if_forbidden(self, spec: DenseSpec) -> None:
        """Before work is done: that a baseline will be no version of its model."""
        with suppress(RegistryError):  # said when it matters
            if refusal := self.registry.may_not_register(spec):
                self.console.say(
                    f"note: {refusal.message}: the run will be finished, but not registered; {refusal.hint}"
                )

    def _say_alias(self, spec: Spec) -> None:
        """That a baseline was not given the name of its seed, which a longer one has."""
        if isinstance(spec, DenseSpec):
            with suppress(RegistryError):  # the run is finished in any case
                if longer := self.registry.longer_baseline(spec):
                    self.console.say(labels.alias_note(spec, longer))

    def _held(self, training: RunRecord, iteration: int | None) -> str:
        """`RUN@ITERATION` of the file that has a state of `training`, which is made again where there is none."""
        if iteration is None:
            return f"{training.run_id}@{training.params['iterations']}"
        states = States.of(self.registry, training)
        run = states.runs.get(iteration) or self.run_replay(training, iteration).run
        return f"{run.run_id}@{iteration}"

    def _require_replayable(self, states: States, iteration: int) -> None:
        if not self.policy.replay:
            raise states.refusal(iteration, "")
        if why := difference(self.registry, states.training, self.device):
            raise states.refusal(iteration, f", and cannot be made again here: {why}")

    def _dense(self, spec: DenseSpec, writer: RunWriter) -> None:
        writer.log_inputs(inputs.used(self.dataset(spec.dataset), "training", "testing"))
        ready = self._from_scratch(spec)
        network = ready.network
        result = self._train(writer, ready, spec.dataset, labels.dense_name(spec))
        write_result(writer, result, spec.iterations)
        count = sum(kernel.numel() for kernel in kernels(network).values())
        parameters = sum(parameter.numel() for parameter in network.parameters())
        writer.log_metrics(
            {"sparsity": 0.0, "compression": 1.0, "nonzero_kernel_parameters": count, "delta_accuracy": 0.0},
            spec.iterations,
        )
        writer.tag({tag.NOTE: labels.dense_note(spec, result.test_accuracy, parameters, count)})

    def _from_scratch(self, spec: DenseSpec) -> Prepared:
        network = self._network(spec)
        return Prepared(network, TrainState.initial(network), None, dense_settings(spec))

    def _replay(self, states: States, spec: ReplaySpec, writer: RunWriter) -> None:
        """The training itself, gone on with from an earlier state up to the iteration wanted."""
        training = states.training
        dense = self.dense_of(training)
        writer.log_inputs(inputs.used(self.dataset(dense.dataset), "training", "testing"), training)
        ready = self._of_training(training)
        ready = replace(ready, settings=replace(ready.settings, iterations=spec.iteration, checkpoint_at=()))
        source, begin = states.runs.get(spec.from_iteration), None
        if source is not None:
            begin = ResumePoint(load_file(self.registry, source, spec.from_iteration), (), 0.0)
        own = tag.arithmetic_of(training.tags)
        policy, title = replace(self.policy, arithmetic=own), labels.replay_name(spec, training)
        result = train_run(writer, ready, self._data(dense.dataset), title, policy, self.console, begin)
        compare(self.registry, training, result.evaluations)
        with writer.artifact(checkpoint_path(spec.iteration)) as path:
            result.state.save(path)
        writer.log_metrics({"duration_seconds": result.duration_seconds}, spec.iteration)
        writer.log_network(spec.iteration)
        writer.tag({tag.NOTE: labels.replay_note(spec, training, result.test_accuracy)})

    def _of_training(self, run: RunRecord) -> Prepared:
        """What a finished training started with."""
        if isinstance(run.spec, DenseSpec):
            return self._from_scratch(run.spec)
        assert isinstance(run.spec, RetrainSpec)
        return self.prepared(run.spec, self.registry.parent(run))

    def _prune(self, parent: RunRecord, spec: PruneSpec, writer: RunWriter) -> None:
        dense = self.dense_of(parent)
        network = self._network(dense)
        if spec.channel_norm == "remove" and not network.norm_after:
            raise UsageError(
                f"--channel-norm remove: model {dense.model!r} says of no batch norm which convolution it follows",
                "leave it out, or give the model norm_after",
            )
        load_state(self.registry, parent, spec.iteration).load_into(network)
        source = TrainedNetwork(network, self._data(dense.dataset), dense.seed)
        previous = load_mask(self.registry, parent)
        result = prune(_detached(kernels(network)), spec, previous, network.norm_after, source)
        contexts = ("training", "testing") if source.used_data else ("testing",)
        writer.log_inputs(inputs.used(self.dataset(dense.dataset), *contexts), parent)
        result.mask.apply_(dict(network.named_parameters()))
        network.to(self.device).to(memory_format=torch.channels_last)
        loss, accuracy = evaluate(network, self._data(dense.dataset))
        self._write_mask(writer, result, f"{dense.model} on {dense.dataset}, {spec.structure}")
        if spared := labels.spared_text(spec, result):
            self.console.say(f"note: {spared}")
        writer.log_metrics(
            {
                **mask_metrics(result.mask),
                "sparsity_asked": spec.sparsity,
                "test_loss": finite(loss),
                "test_accuracy": accuracy,
                "delta_accuracy": accuracy - self.dense_run(parent).metric("test_accuracy"),
            }
        )
        writer.tag({tag.NOTE: labels.prune_note(spec, parent, result, accuracy)})

    def _write_mask(self, writer: RunWriter, result: PruneResult, title: str) -> None:
        mask = result.mask
        with writer.artifact(MASK) as path:
            mask.save(path)
        with writer.artifact(LAYERS) as path, path.open("w", newline="") as file:
            rows = mask.layers()
            table = csv.DictWriter(file, rows[0], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        with writer.artifact("plots/density.png") as path:
            plot_density(mask, path, f"{title}: {mask.compression:.4g}x")
        writer.tag({**labels.sparsity_tag(mask.sparsity), tag.SPARED: ",".join(result.spared_layers)[:4000]})

    def _retrain(self, parent: RunRecord, spec: RetrainSpec, writer: RunWriter) -> None:
        root = self.dense_run(parent)
        dense = self.dense_of(root)
        source, iteration = weights_source(self.registry, spec, parent, root)
        source = holder_of(self.registry, source, iteration)
        writer.log_inputs(inputs.used(self.dataset(dense.dataset), "training", "testing"), source)
        ready = self.prepared(spec, parent)
        mask, baseline = ready.mask, root.metric("test_accuracy")
        assert mask is not None
        title = f"{labels.method_label(spec)} {mask.compression:.4g}x s{dense.seed}"
        result = self._train(writer, ready, dense.dataset, title)
        write_result(writer, result, spec.iterations)
        delta = result.test_accuracy - baseline
        writer.log_metrics({**mask_metrics(mask), "delta_accuracy": delta}, spec.iterations)
        note = labels.retrain_note(spec, parent, source, mask.compression, result.test_accuracy, delta)
        writer.tag({tag.NOTE: note})

    def _train(self, writer: RunWriter, ready: Prepared, dataset: str, title: str) -> TrainResult:
        return train_run(writer, ready, self._data(dataset), title, self.policy, self.console)

    def _network(self, spec: DenseSpec) -> Network:
        return fresh_network(spec, self.dataset(spec.dataset))

    def _data(self, name: str) -> DeviceData:
        with self._reading:
            if name not in self._on_device:
                self._on_device[name] = DeviceData.upload(self.dataset(name), self.device)
            return self._on_device[name]


def failed_run(error: BaseException) -> str | None:
    """The run that recorded `error`, None where there is none."""
    found = error.__dict__.get(FAILED_RUN)
    return found if isinstance(found, str) else None


def mask_metrics(mask: Mask) -> dict[str, float | None]:
    return {
        "sparsity": mask.sparsity,
        "compression": mask.compression,
        "nonzero_kernel_parameters": mask.kept,
    }


def _detached(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in parameters.items()}
