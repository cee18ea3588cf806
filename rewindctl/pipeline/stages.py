"""The kinds of stages: what each starts from, its name and tags, its work.

From a request to a closed run: `plan` makes a plan of it, `engines.run` gives the plan's stages to an engine, which
runs each by `run_stage`; `StageRun.run` says how its run is found and claimed, and `life` sees it through.
"""

import csv
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from rewindctl.errors import RegistryError, UsageError
from rewindctl.models import kernels
from rewindctl.pipeline import labels
from rewindctl.pipeline.life import Outcome
from rewindctl.pipeline.networks import holder_of, load_mask, load_state, require_layers
from rewindctl.pipeline.pipeline import Pipeline
from rewindctl.pipeline.replays import States
from rewindctl.pipeline.stage import StageRun, data_used
from rewindctl.pipeline.starts import ReplayStage, from_scratch, hold, prepared, retrain_states, weights_source
from rewindctl.pipeline.train_run import train_run, write_result
from rewindctl.pruning import Mask, PruneResult, prune
from rewindctl.pruning.mask import plot_density
from rewindctl.registry import RunRecord, RunWriter
from rewindctl.registry import records as tag
from rewindctl.registry.models import unregistered_text
from rewindctl.registry.runs.manifest import LAYERS, MASK
from rewindctl.specs import AnyStage, DenseSpec, PruneSpec, RetrainSpec
from rewindctl.system.safe_text import finite
from rewindctl.training.gradients import TrainedNetwork
from rewindctl.training.loop import evaluate


def run_stage(pipeline: Pipeline, spec: AnyStage, parent: RunRecord | None = None) -> Outcome:
    """Find or run a stage; all but a baseline have a parent. Raises: see `live`; UsageError."""
    if isinstance(spec, DenseSpec):
        return DenseStage(pipeline, spec).run()
    assert parent is not None
    if isinstance(spec, PruneSpec):
        return PruneStage(pipeline, spec, parent).run()
    if isinstance(spec, RetrainSpec):
        return RetrainStage(pipeline, spec, parent).run()
    return ReplayStage(pipeline, States.of(pipeline.registry, parent), spec.iteration).run()


class DenseStage(StageRun):
    """Train a baseline, with checkpoints at its rewind points; the finished run becomes a model version."""

    def __init__(self, pipeline: Pipeline, spec: DenseSpec) -> None:
        super().__init__(pipeline, spec, None, labels.dense_name(spec), labels.dense_tags(spec))

    def run(self) -> Outcome:
        outcome = super().run()
        if self._register(outcome.run) and not outcome.reused:
            self._say_alias(outcome.run)
        return outcome

    def work(self, spec: DenseSpec, writer: RunWriter) -> None:
        pipeline = self.pipeline
        self._say_if_forbidden(spec)
        writer.log_inputs(data_used(pipeline.dataset(spec.dataset), "training", "testing"))
        ready = from_scratch(pipeline, spec)
        network = ready.network
        data, title = pipeline.data(spec.dataset), labels.dense_name(spec)
        result = train_run(writer, ready, data, title, pipeline.policy, pipeline.console, shared=pipeline.shared_steps)
        write_result(writer, result, spec.iterations)
        count = sum(kernel.numel() for kernel in kernels(network).values())
        parameters = sum(parameter.numel() for parameter in network.parameters())
        writer.log_metrics(
            {"sparsity": 0.0, "compression": 1.0, "nonzero_kernel_parameters": count, "delta_accuracy": 0.0},
            spec.iterations,
        )
        writer.tag({tag.NOTE: labels.dense_note(spec, result.test_accuracy, parameters, count)})

    def _say_if_forbidden(self, spec: DenseSpec) -> None:
        """Before work is done: that a baseline will be no version of its model."""
        with suppress(RegistryError):  # said when it matters
            if refusal := self.pipeline.registry.may_not_register(spec):
                self.pipeline.console.say(
                    f"note: {refusal.message}: the run will be finished, but not registered; {refusal.hint}"
                )

    def _register(self, run: RunRecord) -> bool:
        """Make it a version of its model; it is finished, whatever keeps it from that. Whether it is one."""
        try:
            self.pipeline.registry.register(run)
        except RegistryError as error:
            assert isinstance(run.spec, DenseSpec)
            self.pipeline.console.say(f"note: run {run.run_id} {unregistered_text(run.spec, error)}")
            return False
        return True

    def _say_alias(self, run: RunRecord) -> None:
        """That a baseline was not given the name of its seed, which a longer one has."""
        assert isinstance(run.spec, DenseSpec)
        with suppress(RegistryError):  # the run is finished in any case
            if longer := self.pipeline.registry.longer_baseline(run.spec):
                self.pipeline.console.say(labels.alias_note(run.spec, longer))


class PruneStage(StageRun):
    """Make a mask over the weights of `parent`, a dense or a retrained run."""

    parent: RunRecord

    def __init__(self, pipeline: Pipeline, spec: PruneSpec, parent: RunRecord) -> None:
        tags = {**labels.inherited(parent), **labels.prune_tags(spec)}
        super().__init__(pipeline, spec, parent, labels.prune_name(spec, tags), tags)

    def starts_from(self) -> Sequence[str]:
        assert isinstance(self.spec, PruneSpec)
        if self.spec.exclude:
            dense = self.pipeline.dense_of(self.parent)
            require_layers(dense, self.pipeline.dataset(dense.dataset), self.spec.exclude)
        return [] if self.spec.iteration is None else [hold(self.pipeline, self.parent, self.spec.iteration)]

    def work(self, spec: PruneSpec, writer: RunWriter) -> None:
        pipeline, registry, parent = self.pipeline, self.pipeline.registry, self.parent
        root = pipeline.dense_run(parent)
        dense = pipeline.dense_of(root)
        network = pipeline.network(dense)
        if spec.channel_norm == "remove" and not network.norm_after:
            raise UsageError(
                f"--channel-norm remove: model {dense.model!r} does not say which batch norm follows which convolution",
                "leave it out, or give the model norm_after",
            )
        load_state(registry, parent, spec.iteration).load_into(network)
        source = TrainedNetwork(network, pipeline.data(dense.dataset), dense.seed)
        previous = load_mask(registry, parent)
        result = prune(_detached(kernels(network)), spec, previous, network.norm_after, source)
        contexts = ("training", "testing") if source.used_data else ("testing",)
        writer.log_inputs(data_used(pipeline.dataset(dense.dataset), *contexts), parent)
        result.mask.apply_(dict(network.named_parameters()))
        network.to(pipeline.device).to(memory_format=torch.channels_last)
        loss, accuracy = evaluate(network, pipeline.data(dense.dataset))
        _write_mask(writer, result, f"{dense.model} on {dense.dataset}, {spec.structure}")
        if spared := labels.spared_text(spec, result):
            pipeline.console.say(f"note: {spared}")
        measured = {
            "sparsity_asked": spec.sparsity,
            "test_loss": finite(loss),
            "test_accuracy": accuracy,
            "delta_accuracy": accuracy - root.metric("test_accuracy"),
        }
        writer.log_metrics({**mask_metrics(result.mask), **measured})
        writer.tag({tag.NOTE: labels.prune_note(spec, parent, result, accuracy)})


class RetrainStage(StageRun):
    """Retrain the network that the prune run `parent` left."""

    parent: RunRecord

    def __init__(self, pipeline: Pipeline, spec: RetrainSpec, parent: RunRecord) -> None:
        tags = {**labels.inherited(parent), tag.METHOD: spec.method}
        name = labels.retrain_name(spec, tags, parent)
        super().__init__(pipeline, spec, parent, name, tags)

    def starts_from(self) -> Sequence[str]:
        assert isinstance(self.spec, RetrainSpec)
        return [hold(self.pipeline, *state) for state in retrain_states(self.pipeline, self.spec, self.parent)]

    def work(self, spec: RetrainSpec, writer: RunWriter) -> None:
        pipeline, registry, parent = self.pipeline, self.pipeline.registry, self.parent
        root = pipeline.dense_run(parent)
        dense = pipeline.dense_of(root)
        source = holder_of(registry, *weights_source(registry, spec, parent, root))
        writer.log_inputs(data_used(pipeline.dataset(dense.dataset), "training", "testing"), source)
        ready = prepared(pipeline, spec, parent)
        assert ready.mask is not None
        data, compression = pipeline.data(dense.dataset), ready.mask.compression
        title = f"{labels.method_label(spec)} {compression:.4g}x s{dense.seed}"
        result = train_run(writer, ready, data, title, pipeline.policy, pipeline.console, shared=pipeline.shared_steps)
        write_result(writer, result, spec.iterations)
        delta = result.test_accuracy - root.metric("test_accuracy")
        writer.log_metrics({**mask_metrics(ready.mask), "delta_accuracy": delta}, spec.iterations)
        note = labels.retrain_note(spec, parent, source, compression, result.test_accuracy, delta)
        writer.tag({tag.NOTE: note})


def mask_metrics(mask: Mask) -> dict[str, float | None]:
    """The metrics of a mask: kept weights, sparsity and the like."""
    return {"sparsity": mask.sparsity, "compression": mask.compression, "nonzero_kernel_parameters": mask.kept}


def _write_mask(writer: RunWriter, result: PruneResult, title: str) -> None:
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


def _detached(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in parameters.items()}
