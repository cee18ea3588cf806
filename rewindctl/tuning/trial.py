"""A search trial as a tracked run: a retraining without the held-out images, judged on them, found by fingerprint."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median
from typing import Any

from optuna import Trial

from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import DivergedError, RegistryError
from rewindctl.pipeline import Pipeline, labels
from rewindctl.pipeline.life import Life, live
from rewindctl.pipeline.requests import retrain_child
from rewindctl.pipeline.starts import prepared
from rewindctl.pipeline.train_run import say_step, with_arithmetic
from rewindctl.registry import OwnerWatch, RunRecord, RunWriter
from rewindctl.registry import records as tag
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.rewinding.methods import RetrainOptions
from rewindctl.specs import DenseSpec, RetrainSpec, TrialSpec, TuneSpec, make_spec
from rewindctl.system.safe_text import finite
from rewindctl.training.loop import train
from rewindctl.training.records import Evaluation, ResumePoint
from rewindctl.tuning.request import FIELDS, tuning_data
from rewindctl.tuning.search import BEAT_SECONDS, SearchTrialOutcome, beat, shown
from rewindctl.tuning.storage import REPEATS

ACCURACY = "validation_accuracy"
RUN_ID = "run_id"
# Fields of a retraining's spec that a search trial sets itself.
OF_RETRAINING = {"kind", "schema_version", "parent_fingerprint", "evaluate_every"}
OF_RETRAINING |= RetrainSpec.model_fields.keys() - TrialSpec.model_fields.keys()
Report = Callable[[float, int], bool]  # an intermediate value and its step; whether to stop


class StoppedEarlyError(Exception):
    """The pruner gave a search trial up, after `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after {step}")
        self.step = step


@dataclass
class SearchTrials:
    """Runs the search trials of one search: children of its run `home`, over the prune run `parent`."""

    pipeline: Pipeline
    spec: TuneSpec
    parent: RunRecord
    home: RunRecord

    @cached_property
    def dense(self) -> DenseSpec:
        return self.pipeline.dense_of(self.parent)

    @cached_property
    def data(self) -> DeviceData:
        dataset, fraction, seed = self.dense.dataset, self.spec.holdout_fraction, self.spec.holdout_seed
        pipeline = self.pipeline
        return pipeline.data_made(
            f"{dataset}, {fraction} held out by seed {seed}",
            lambda: tuning_data(pipeline.dataset(dataset), fraction, seed, pipeline.device),
        )

    def objective(self, trial: Trial) -> SearchTrialOutcome:
        """Measure a search trial of the study, telling Optuna every intermediate value: by iteration, or by seed.

        Raises: DivergedError.
        """
        spec = self.trial_spec(self.options(trial.params), self.spec.seeds)
        self._close_dead(trial)
        by_seed = len(spec.seeds) > 1

        def report(value: float, step: int) -> bool:
            trial.report(value, step)
            return self.spec.pruner != "none" and trial.should_prune()

        def opened(run_id: str) -> None:
            trial.set_user_attr(RUN_ID, run_id)

        name = f"trial {trial.number} {shown(trial.params)}"
        tags = {tag.TRIAL: str(trial.number)}
        watch = SearchTrialListeners(
            report if not by_seed else None, report if by_seed else None, lambda: beat(trial), opened
        )
        return self.measure(spec, name, tags, watch)

    def options(self, params: dict[str, Any]) -> RetrainOptions:
        """The retraining of a point of the space."""
        fixed = {name: getattr(self.spec, own) for name, own in FIELDS.items()}
        return RetrainOptions(method=self.spec.method, **fixed | params)

    def retrain_spec(self, options: RetrainOptions) -> RetrainSpec:
        """The full retraining that a point stands for. Raises: UsageError."""
        return retrain_child(self.parent.spec, self.dense, options)

    def trial_spec(self, options: RetrainOptions, seeds: tuple[int, ...]) -> TrialSpec:
        retraining = self.retrain_spec(options).model_dump(exclude=OF_RETRAINING)
        spec: TrialSpec = make_spec(
            TrialSpec,
            parent_fingerprint=self.spec.fingerprint(),
            evaluate_every=self.spec.evaluate_every,
            seeds=seeds,
            holdout_fraction=self.spec.holdout_fraction,
            holdout_seed=self.spec.holdout_seed,
            **retraining,
        )
        return spec

    def measure(
        self, spec: TrialSpec, name: str, tags: dict[str, str], watch: "SearchTrialListeners"
    ) -> SearchTrialOutcome:
        """The result of `spec`: that of a finished run of this search, or of a new one. Raises: DivergedError."""
        title = f"{self.dense.model}-{self.dense.dataset} {name}"
        own = {**labels.inherited(self.parent), **tags}
        registry = self.pipeline.registry

        def claim(*, watch: OwnerWatch) -> RunWriter:
            return registry.start(spec, title, self.home, own, resume=False, watch=watch)

        def work(writer: RunWriter) -> None:
            watch.opened(writer.run_id)
            self._run(spec, name, writer, watch)

        life = Life(spec.fingerprint(), lambda: self._finished(spec), claim, work, {tag.STUDY: self.spec.study})
        outcome = live(life, self.pipeline)
        if outcome.reused:
            watch.opened(outcome.run.run_id)
            self._tell_again(outcome.run, spec, watch)
        pruned = outcome.run.tags.get(tag.TRIAL_STATE) == "pruned"
        return SearchTrialOutcome(None, pruned=True) if pruned else SearchTrialOutcome(outcome.run.metric(ACCURACY))

    def _run(self, spec: TrialSpec, name: str, writer: RunWriter, watch: "SearchTrialListeners") -> None:
        began, single = time.perf_counter(), len(spec.seeds) == 1
        values: list[float] = []
        ended = {tag.TRIAL_STATE: "complete"}
        try:
            for index, seed in enumerate(spec.seeds):
                values.append(self._train(spec, seed, name if single else f"{name} s{seed}", writer, watch))
                if watch.seed is not None and watch.seed(values[-1], index) and index + 1 < len(spec.seeds):
                    raise StoppedEarlyError(index)
        except StoppedEarlyError as stop:
            ended = {tag.TRIAL_STATE: "pruned", tag.PRUNED_AT: str(stop.step)}
        except DivergedError:
            writer.tag({tag.TRIAL_STATE: "failed"})
            raise
        metrics: dict[str, float | None] = {"duration_seconds": time.perf_counter() - began}
        if not single and ended[tag.TRIAL_STATE] == "complete":
            metrics[ACCURACY] = median(values)
        writer.log_metrics(metrics, spec.iterations)
        writer.tag(ended)

    def _train(self, spec: TrialSpec, seed: int, title: str, writer: RunWriter, watch: "SearchTrialListeners") -> float:
        """Accuracy on the held-out part after the last iteration."""
        ready, console = prepared(self.pipeline, self._retraining(spec), self.parent), self.pipeline.console
        ready = replace(ready, settings=replace(ready.settings, seed=seed))
        settings = with_arithmetic(ready, self.data, writer, self.pipeline.policy.arithmetic, console)
        with console.progress(title, spec.iterations) as progressed:
            observer = SearchTrialObserver(writer, watch, progressed, spec.iterations, suffix(spec, seed))
            shared = self.pipeline.shared_steps
            result = train(ready.network, self.data, settings, ready.start, observer, ready.mask, shared=shared)
        speed = {f"iterations_per_second{suffix(spec, seed)}": result.iterations_per_second}
        writer.log_metrics(dict(speed), spec.iterations)
        say_step(writer, result, console)
        return result.test_accuracy  # of the part held out, which stands where the test set does in the data

    def _retraining(self, spec: TrialSpec) -> RetrainSpec:
        own = {"kind", "schema_version", "parent_fingerprint", "seeds", "holdout_fraction", "holdout_seed"}
        fields = spec.model_dump(exclude=own)
        return RetrainSpec(parent_fingerprint=self.parent.fingerprint, **fields)

    def _finished(self, spec: TrialSpec) -> RunRecord | None:
        """The newest finished run of `spec` under this prune run; searches that went on have runs of their own."""
        registry = self.pipeline.registry
        for run in sorted(registry.search(fingerprint=spec.fingerprint()), key=lambda run: run.age, reverse=True):
            if run.finished:
                with suppress(RegistryError):  # its search was deleted
                    if registry.parent(run).parent_id == self.parent.run_id:
                        return run
        return None

    def _tell_again(self, run: RunRecord, spec: TrialSpec, watch: "SearchTrialListeners") -> None:
        """The intermediate values of a finished run, as those of a new one are told."""
        registry = self.pipeline.registry
        if watch.iteration is not None:
            for step, value in sorted(registry.curve(run, ACCURACY).items()):
                watch.iteration(value, step)
        if watch.seed is not None:
            for index, seed in enumerate(spec.seeds):
                curve = registry.curve(run, ACCURACY + suffix(spec, seed)) if has(run, spec, seed) else {}
                if spec.iterations in curve:
                    watch.seed(curve[spec.iterations], index)

    def _close_dead(self, trial: Trial) -> None:
        """End the run that the worker of the search trial repeated here left behind."""
        number = trial.user_attrs.get(REPEATS)
        if number is None:
            return
        run_id = trial.study.trials[int(number)].user_attrs.get(RUN_ID)
        if run_id is not None:
            self.pipeline.registry.mark_killed(str(run_id))


@dataclass(frozen=True)
class SearchTrialListeners:
    """Who is told of a search trial: of values by iteration, or of each seed's last one; of its life; of its run."""

    iteration: Report | None = None
    seed: Report | None = None
    beat: Callable[[], None] = lambda: None
    opened: Callable[[str], None] = lambda run_id: None


@dataclass
class SearchTrialObserver:
    """Hands what the trainer reports to the run and to whoever watches."""

    writer: RunWriter
    watch: SearchTrialListeners
    shown: Callable[[int], None]
    iterations: int
    suffix: str
    _beaten: float = field(default_factory=time.monotonic)

    def evaluated(self, evaluation: Evaluation) -> None:
        """The trainer's test set is the held-out part here."""
        metrics = {
            "train_loss": evaluation.train_loss,
            "lr": evaluation.lr,
            "validation_loss": finite(evaluation.test_loss),
            ACCURACY: evaluation.test_accuracy,
        }
        at = evaluation.iteration
        self.writer.log_metrics({key + self.suffix: value for key, value in metrics.items()}, at)
        stop = self.watch.iteration is not None and self.watch.iteration(evaluation.test_accuracy, at)
        if stop and at < self.iterations:
            raise StoppedEarlyError(at)

    def checkpoint(self, state: TrainState) -> None:
        """None is kept: these weights never saw the part held out."""

    def resumable(self, make: Callable[[], ResumePoint]) -> None:
        """A killed search trial is repeated from its start."""

    def is_over(self, ahead: float) -> bool:
        return False

    def progressed(self, iteration: int) -> None:
        self.shown(iteration)
        if time.monotonic() - self._beaten >= BEAT_SECONDS:
            self._beaten = time.monotonic()
            self.watch.beat()


def suffix(spec: TrialSpec, seed: int) -> str:
    """What tells the metrics of several seeds apart."""
    return f"_seed_{seed}" if len(spec.seeds) > 1 else ""


def has(run: RunRecord, spec: TrialSpec, seed: int) -> bool:
    return ACCURACY + suffix(spec, seed) in run.metrics
