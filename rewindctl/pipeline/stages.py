"""A stage is found in the registry, or run, linked to its parent, and closed; its failure is recorded."""

import csv
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from rewindctl.arithmetic import AUTO, Arithmetic
from rewindctl.console import Console
from rewindctl.datasets import Dataset, load_dataset
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import DivergedError, RegistryError, UsageError
from rewindctl.models import Network, build_network, kernels
from rewindctl.models.build import require_logits
from rewindctl.models.network import NetworkConfig
from rewindctl.pipeline import inputs, labels
from rewindctl.pipeline.background import Background
from rewindctl.pipeline.networks import load_mask
from rewindctl.pipeline.requests import require_kind
from rewindctl.pipeline.resume import load_point, save_point
from rewindctl.pipeline.settings import dense_settings, retrain_settings
from rewindctl.pipeline.waiting import bring_kept, find_or_start
from rewindctl.pruning import Mask, PruneResult, prune
from rewindctl.pruning.density import plot_density
from rewindctl.registry import Registry, RunRecord, RunWriter
from rewindctl.registry import records as tag
from rewindctl.registry.paths import FINAL, LAYERS, MASK, checkpoint_path
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.safe_text import finite
from rewindctl.seeds import derived_seed
from rewindctl.specs import DenseSpec, PruneSpec, RetrainSpec, Spec
from rewindctl.training.device import device_name, environment, resolve_device
from rewindctl.training.loop import evaluate, train
from rewindctl.training.precision import choose_for
from rewindctl.training.records import Evaluation, ResumePoint, TrainResult, TrainSettings
from rewindctl.training.usage import Usage

FAILED_RUN = "rewindctl_run_id"


@dataclass(frozen=True)
class Outcome:
    """A finished stage; `reused` when it was found and not run."""

    run: RunRecord
    reused: bool


@dataclass(frozen=True)
class Prepared:
    """What a retraining starts with, on the CPU."""

    network: Network
    start: TrainState
    mask: Mask
    settings: TrainSettings


@dataclass
class Pipeline:
    """Runs stages against one registry on one device.

    The registry is opened when it is first needed, so that a request refused before leaves no store behind; data
    sets are read once.
    """

    open_registry: Callable[[], Registry]
    console: Console
    device_name: str = "auto"
    data_dir: Path | None = None
    force: bool = False
    checkpoint_seconds: float = 60.0
    wait: bool = True
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    _datasets: dict[str, Dataset] = field(default_factory=dict)
    _on_device: dict[str, DeviceData] = field(default_factory=dict)
    _reading: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.device = resolve_device(self.device_name)

    @cached_property
    def registry(self) -> Registry:
        return self.open_registry()

    def run_dense(self, spec: DenseSpec) -> Outcome:
        """Train a baseline, with checkpoints at its rewind points, and register it as a model version."""
        return self._find_or_run(
            spec, None, labels.dense_name(spec), labels.dense_tags(spec), partial(self._dense, spec)
        )

    def run_prune(self, spec: PruneSpec, parent: RunRecord) -> Outcome:
        """Make a mask over the weights of `parent`, a dense or a retrained run."""
        tags = {**labels.inherited(parent), **labels.prune_tags(spec)}
        return self._find_or_run(spec, parent, labels.prune_name(spec, tags), tags, partial(self._prune, spec, parent))

    def run_retrain(self, spec: RetrainSpec, parent: RunRecord) -> Outcome:
        """Retrain the network that the prune run `parent` left."""
        source, iteration = self._weights_source(spec, parent)
        origin = f"{source.run_id}@{source.params['iterations'] if iteration is None else iteration}"
        tags = {**labels.inherited(parent), tag.METHOD: spec.method, tag.WEIGHTS_FROM: origin}
        name = labels.retrain_name(spec, tags, parent.metric("compression"))
        return self._find_or_run(spec, parent, name, tags, partial(self._retrain, spec, parent, source, iteration))

    def prepared(self, spec: RetrainSpec, parent: RunRecord) -> "Prepared":
        """What a retraining of the prune run `parent` starts with. Raises: UsageError, IntegrityError."""
        dense, mask = self.dense_of(parent), self.mask_of(parent)
        source, iteration = self._weights_source(spec, parent)
        assert mask is not None
        start = self._start(spec, source, iteration)
        return Prepared(self._network(dense), start, mask, retrain_settings(spec, dense))

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

    def mask_of(self, run: RunRecord) -> Mask | None:
        """The mask in force in `run`: its own, that of the prune run it retrained, none for a dense run."""
        return load_mask(self.registry, run)

    def _find_or_run(
        self,
        spec: Spec,
        parent: RunRecord | None,
        name: str,
        tags: dict[str, str],
        work: Callable[[RunWriter], None],
    ) -> Outcome:
        if not self.force:
            bring_kept(self.registry, spec.fingerprint(), self.console)
        precision = self.arithmetic.precision
        asked = {} if precision == AUTO or isinstance(spec, PruneSpec) else {tag.PRECISION: precision}
        start = partial(
            self.registry.start, spec, name, parent, tags | asked, resume=not self.force, precision=precision
        )
        find = (lambda: None) if self.force else partial(self.registry.find, spec.fingerprint(), parent, precision)
        found = find_or_start(find, start, self.console, self.wait)
        if isinstance(found, RunRecord):
            self.console.say(f"reused   {found.short}: test accuracy {found.metrics['test_accuracy']:.2%}")
            return Outcome(found, reused=True)
        writer: RunWriter = found
        try:
            writer.tag({tag.DEVICE: device_name(self.device), **labels.label_tag(name, tags[tag.SEED])})
            writer.write_json("environment.json", environment(self.device))
            work(writer)
            writer.seal()
            if isinstance(spec, DenseSpec):
                writer.register(spec)
            run = writer.finish(self.console.say)
        except BaseException as error:
            if isinstance(error, DivergedError):
                where = {tag.DIVERGED_ITERATION: str(error.iteration), tag.DIVERGED_RATE: f"{error.learning_rate:g}"}
                with suppress(RegistryError):  # the run is closed in any case
                    writer.tag(where)
            writer.fail(error)
            error.__dict__[FAILED_RUN] = writer.run_id
            raise
        self.console.say(f"finished {run.short}: test accuracy {run.metrics['test_accuracy']:.2%}")
        self._say_alias(spec)
        return Outcome(run, reused=False)

    def _say_alias(self, spec: Spec) -> None:
        """That a baseline was not given the name of its seed, which a longer one has."""
        if isinstance(spec, DenseSpec):
            with suppress(RegistryError):  # the run is finished in any case
                if longer := self.registry.longer_baseline(spec):
                    self.console.say(labels.alias_note(spec, longer))

    def _dense(self, spec: DenseSpec, writer: RunWriter) -> None:
        network = self._network(spec)
        writer.log_inputs(inputs.used(self.dataset(spec.dataset), "training", "testing"))
        start = TrainState.initial(network)
        result = self._train(writer, network, spec, dense_settings(spec), start, None, labels.dense_name(spec))
        count = sum(kernel.numel() for kernel in kernels(network).values())
        parameters = sum(parameter.numel() for parameter in network.parameters())
        writer.log_metrics(
            {"sparsity": 0.0, "compression": 1.0, "nonzero_kernel_parameters": count, "delta_accuracy": 0.0},
            spec.iterations,
        )
        writer.tag({tag.NOTE: labels.dense_note(spec, result.test_accuracy, parameters, count)})

    def _prune(self, spec: PruneSpec, parent: RunRecord, writer: RunWriter) -> None:
        dense = self.dense_of(parent)
        network = self._network(dense)
        if spec.channel_norm == "remove" and not network.norm_after:
            raise UsageError(
                f"--channel-norm remove: model {dense.model!r} says of no batch norm which convolution it follows",
                "leave it out, or give the model norm_after",
            )
        writer.log_inputs(inputs.used(self.dataset(dense.dataset), "testing"), parent)
        self._state(parent, spec.iteration).load_into(network)
        result = prune(_detached(kernels(network)), spec, self.mask_of(parent), network.norm_after)
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
                "delta_accuracy": accuracy - self._baseline(parent),
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

    def _retrain(
        self, spec: RetrainSpec, parent: RunRecord, source: RunRecord, iteration: int | None, writer: RunWriter
    ) -> None:
        dense = self.dense_of(parent)
        network = self._network(dense)
        writer.log_inputs(inputs.used(self.dataset(dense.dataset), "training", "testing"), source)
        mask = self.mask_of(parent)
        assert mask is not None
        start, baseline = self._start(spec, source, iteration), self._baseline(parent)
        settings = retrain_settings(spec, dense)
        title = f"{labels.method_label(spec)} {mask.compression:.4g}x s{dense.seed}"
        result = self._train(writer, network, dense, settings, start, mask, title)
        delta = result.test_accuracy - baseline
        writer.log_metrics({**mask_metrics(mask), "delta_accuracy": delta}, spec.iterations)
        note = labels.retrain_note(spec, parent, source, mask.compression, result.test_accuracy, delta)
        writer.tag({tag.NOTE: note})

    def _train(
        self,
        writer: RunWriter,
        network: Network,
        dense: DenseSpec,
        settings: TrainSettings,
        start: TrainState,
        mask: Mask | None,
        title: str,
    ) -> TrainResult:
        """Train with metrics and checkpoints going to the run."""
        data = self._data(dense.dataset)
        settings = self.in_arithmetic(settings, network, dense, writer)
        resume, background = load_point(writer), Background()
        with self.console.progress(title, settings.iterations, resume.wall_seconds if resume else 0.0) as progressed:
            observer = RunObserver(writer, background, progressed, self.checkpoint_seconds, Usage(self.device))
            if resume is not None:
                observer.kept = resume.state.iteration
                self.console.say(f"going on with run {writer.run_id} from iteration {resume.state.iteration:,}")
            try:
                with background:
                    result = train(network, data, settings, start, observer, mask, resume)
                    background.wait()
            except KeyboardInterrupt:
                kept = f"kept up to iteration {observer.kept:,}" if observer.kept else "nothing to go on from yet"
                self.console.say(f"stopped  {title} ({writer.run_id[:8]}): {kept}")
                raise
        writer.tag({tag.UPDATES: "CUDA graph" if result.captured else "eager"})
        if result.why_eager:
            self.console.say(f"note: trained without a CUDA graph, more slowly: {result.why_eager[:300]}")
        with writer.artifact(FINAL) as path:
            result.state.save(path)
        writer.log_metrics(
            {
                "test_accuracy_best": result.test_accuracy_best,
                "iterations_per_second": result.iterations_per_second,
                "duration_seconds": result.duration_seconds,
            },
            settings.iterations,
        )
        writer.log_network(settings.iterations)
        return result

    def in_arithmetic(
        self, settings: TrainSettings, network: Network, dense: DenseSpec, writer: RunWriter
    ) -> TrainSettings:
        """The settings with the precision chosen, which the run is told; one that is gone on with keeps its own."""
        data = self.dataset(dense.dataset)
        batch = (settings.batch_size, data.channels, *data.image_size)
        before = writer.found.get(tag.PRECISION)
        choice = choose_for(before or self.arithmetic.precision, self.device, network, batch)
        deterministic = writer.found.get(tag.DETERMINISTIC, str(self.arithmetic.deterministic)) == str(True)
        writer.tag({tag.PRECISION: choice.precision, tag.DETERMINISTIC: str(deterministic)})
        if choice.precision == "bf16" and self.arithmetic.precision == AUTO and not before:
            self.console.say(f"trains in bf16: {choice.why} (--precision fp32 for float32)")
        return replace(settings, precision=choice.precision, deterministic=deterministic)

    def _network(self, spec: DenseSpec) -> Network:
        """A fresh network on the CPU. Raises: UsageError when the data set here is not that of the spec."""
        data = self.dataset(spec.dataset)
        if data.digest != spec.data_digest:
            raise UsageError(
                f"data set {spec.dataset!r} is {data.digest[:12]} here, {spec.data_digest[:12]} in the dense run",
                "use the data that the dense run was trained on (--data-dir)",
            )
        config = NetworkConfig(data.channels, data.classes, spec.norm_momentum, spec.norm_epsilon)
        network = build_network(spec.model, config, derived_seed(spec.seed, "init"))
        require_logits(spec.model, network, data.channels, data.image_size, data.classes)
        return network

    def _data(self, name: str) -> DeviceData:
        with self._reading:
            if name not in self._on_device:
                self._on_device[name] = DeviceData.upload(self.dataset(name), self.device)
            return self._on_device[name]

    def _weights_source(self, spec: RetrainSpec, parent: RunRecord) -> tuple[RunRecord, int | None]:
        """The run whose weights are retrained, and at which of its iterations (None: the last).

        The network that was pruned, or the original dense run to rewind to.
        """
        if spec.weights_iteration != self.dense_of(parent).iterations:
            return self.dense_run(parent), spec.weights_iteration
        assert isinstance(parent.spec, PruneSpec)
        return self.registry.parent(parent), parent.spec.iteration

    def _state(self, run: RunRecord, iteration: int | None) -> TrainState:
        return TrainState.load(self.registry.artifact(run, checkpoint_path(iteration)))

    def _start(self, spec: RetrainSpec, source: RunRecord, iteration: int | None) -> TrainState:
        state = self._state(source, iteration)
        if spec.optimizer_state == "zero":
            state = replace(state, momentum={name: torch.zeros_like(m) for name, m in state.momentum.items()})
        return state

    def _baseline(self, run: RunRecord) -> float:
        """Final test accuracy of the dense run that `run` descends from."""
        return self.dense_run(run).metric("test_accuracy")


@dataclass
class RunObserver:
    """Hands what the trainer reports to a run; until the end of `background` nobody else writes to it.

    In the order in which it happened: a resume point is never ahead of the metrics and checkpoints before it.
    """

    writer: RunWriter
    background: Background
    shown: Callable[[int], None]
    checkpoint_seconds: float
    usage: Usage
    kept: int = 0  # the iteration that a stopped run goes on from
    _saved: float = field(default_factory=time.monotonic)

    def evaluated(self, evaluation: Evaluation) -> None:
        metrics = {
            "train_loss": evaluation.train_loss,
            "lr": evaluation.lr,
            "test_loss": finite(evaluation.test_loss),
            "test_accuracy": evaluation.test_accuracy,
            **self.usage.measure(),
        }
        self.background.wait()  # a process that is killed loses one evaluation at most
        self.background.give(partial(self.writer.log_metrics, metrics, evaluation.iteration))

    def checkpoint(self, state: TrainState) -> None:
        self.background.give(partial(self._write, state))

    def resumable(self, make: Callable[[], ResumePoint]) -> None:
        if time.monotonic() - self._saved >= self.checkpoint_seconds:
            self.background.give(partial(self._keep, make()))
            self._saved = time.monotonic()

    def progressed(self, iteration: int) -> None:
        self.background.check()
        self.shown(iteration)

    def _write(self, state: TrainState) -> None:
        with self.writer.artifact(checkpoint_path(state.iteration)) as path:
            state.save(path)

    def _keep(self, point: ResumePoint) -> None:
        save_point(self.writer, point)
        self.kept = point.state.iteration


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
