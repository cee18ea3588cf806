"""The start of a training: a new network, or a state of another training, replayed if it was not recorded."""

from dataclasses import replace

import torch

from rewindctl.pipeline import labels
from rewindctl.pipeline.life import Outcome
from rewindctl.pipeline.networks import load_file, load_mask, load_state
from rewindctl.pipeline.pipeline import Pipeline
from rewindctl.pipeline.replays import States, compare, replay_spec, threads_of
from rewindctl.pipeline.stage import StageRun, data_used
from rewindctl.pipeline.train_run import Prepared, dense_settings, retrain_settings, train_run
from rewindctl.registry import Registry, RunRecord, RunWriter
from rewindctl.registry import records as tag
from rewindctl.registry.runs.manifest import checkpoint_path
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import DenseSpec, PruneSpec, ReplaySpec, RetrainSpec
from rewindctl.training.records import ResumePoint

State = tuple[RunRecord, int | None]  # of a training, after one of its iterations; None: after the last


def from_scratch(pipeline: Pipeline, spec: DenseSpec) -> Prepared:
    """The start of a baseline: the initialised network."""
    network = pipeline.network(spec)
    return Prepared(network, TrainState.initial(network), None, dense_settings(spec))


def prepared(pipeline: Pipeline, spec: RetrainSpec, parent: RunRecord) -> Prepared:
    """The start of a retraining of the prune run `parent`: its state and mask. Raises: UsageError, IntegrityError."""
    registry, root = pipeline.registry, pipeline.dense_run(parent)
    dense, mask = pipeline.dense_of(root), load_mask(registry, parent)
    weights, *batches = retrain_states(pipeline, spec, parent)
    for state in (weights, *batches):
        hold(pipeline, *state)
    start = load_state(registry, *weights)
    if spec.optimizer_state == "zero":
        start = replace(start, momentum={name: torch.zeros_like(one) for name, one in start.momentum.items()})
    for pruned in batches:
        start = replace(start, data_position=load_state(registry, *pruned).data_position)
    return Prepared(pipeline.network(dense), start, mask, retrain_settings(spec, dense))


def retrain_states(pipeline: Pipeline, spec: RetrainSpec, parent: RunRecord) -> list[State]:
    """The states that a retraining starts from: that of its weights, and that whose batches it goes on with."""
    registry = pipeline.registry
    weights = weights_source(registry, spec, parent, pipeline.dense_run(parent))
    return [weights, *([pruned_source(registry, parent)] if spec.data_order == "continued" else [])]


def hold(pipeline: Pipeline, training: RunRecord, iteration: int | None) -> str:
    """`RUN@ITERATION` of the file that has a state of `training`, which is made again where there is none."""
    if iteration is None:
        return f"{training.run_id}@{training.params['iterations']}"
    states = States.of(pipeline.registry, training)
    run = states.runs.get(iteration) or ReplayStage(pipeline, states, iteration).run().run
    return f"{run.run_id}@{iteration}"


def weights_source(registry: Registry, spec: RetrainSpec, parent: RunRecord, dense: RunRecord) -> State:
    """The training whose weights are retrained, and at which of its iterations (None: the last).

    The network that was pruned, or the original `dense` run to rewind to. Which run has the file: `replays.States`.
    """
    assert isinstance(dense.spec, DenseSpec)
    if spec.weights_iteration != dense.spec.iterations:
        return dense, spec.weights_iteration
    return pruned_source(registry, parent)


def pruned_source(registry: Registry, mask: RunRecord) -> State:
    """The training whose weights the prune run `mask` pruned, and at which of its iterations (None: the last)."""
    assert isinstance(mask.spec, PruneSpec)
    return registry.parent(mask), mask.spec.iteration


class ReplayStage(StageRun):
    """Make a state of a finished training again: the training itself, gone on with from an earlier state.

    In its arithmetic, since the bytes are to be its own, and never anew for its own sake. Raises: UsageError where its
    bytes cannot be made here.
    """

    def __init__(self, pipeline: Pipeline, states: States, iteration: int) -> None:
        self.states, training = states, states.training
        spec = replay_spec(pipeline, states, iteration)
        mask = pipeline.registry.parent(training) if training.kind == "retrain" else None
        name = labels.replay_name(spec, training, mask)
        super().__init__(pipeline, spec, training, name, labels.inherited(training))
        self.force, self.precision = False, tag.precision_of(training)

    def run(self) -> Outcome:
        assert isinstance(self.spec, ReplaySpec)
        self.pipeline.console.say(labels.replay_text(self.spec, self.states.training))
        with threads_of(self.pipeline.registry, self.states.training, self.pipeline.device):
            return super().run()

    def work(self, spec: ReplaySpec, writer: RunWriter) -> None:
        pipeline, training = self.pipeline, self.states.training
        dense = pipeline.dense_of(training)
        writer.log_inputs(data_used(pipeline.dataset(dense.dataset), "training", "testing"), training)
        ready = self._of_training()
        ready = replace(ready, settings=replace(ready.settings, iterations=spec.iteration, checkpoint_at=()))
        source, begin = self.states.runs.get(spec.from_iteration), None
        if source is not None:
            begin = ResumePoint(load_file(pipeline.registry, source, spec.from_iteration), (), 0.0)
        policy = replace(pipeline.policy, arithmetic=tag.arithmetic_of(training.tags))
        result = train_run(
            writer,
            ready,
            pipeline.data(dense.dataset),
            self.name,
            policy,
            pipeline.console,
            begin,
            pipeline.shared_steps,
        )
        compare(pipeline.registry, training, result.evaluations)
        with writer.artifact(checkpoint_path(spec.iteration)) as path:
            result.state.save(path)
        writer.log_metrics({"duration_seconds": result.duration_seconds}, spec.iteration)
        writer.log_network(spec.iteration)
        writer.tag({tag.NOTE: labels.replay_note(spec, training, result.test_accuracy)})

    def _of_training(self) -> Prepared:
        """What the training started with."""
        run = self.states.training
        if isinstance(run.spec, DenseSpec):
            return from_scratch(self.pipeline, run.spec)
        assert isinstance(run.spec, RetrainSpec)
        return prepared(self.pipeline, run.spec, self.pipeline.registry.parent(run))
