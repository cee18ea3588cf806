"""The training of a run: its settings, its start or resume point, its metrics, checkpoints and speed in the run."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from rewindctl.arithmetic import AUTO, Arithmetic
from rewindctl.console import Console
from rewindctl.datasets.batches import DeviceData
from rewindctl.durations import Deadline
from rewindctl.errors import LimitError, NotHereError, UsageError
from rewindctl.models import Network
from rewindctl.pipeline.pipeline import RunPolicy
from rewindctl.pipeline.resume import Background, StoredPoints, load_point, save_point
from rewindctl.pruning import Mask
from rewindctl.registry import RunWriter
from rewindctl.registry import records as tag
from rewindctl.registry.runs.manifest import FINAL, checkpoint_path
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.specs import DenseSpec, RetrainSpec
from rewindctl.system.safe_text import finite
from rewindctl.training.device import Usage, deciding
from rewindctl.training.lanes import SharedSteps
from rewindctl.training.loop import train
from rewindctl.training.precision import choose_for
from rewindctl.training.recipes import LearningRateSchedule
from rewindctl.training.records import IN_LANE, Evaluation, ResumePoint, TrainResult, TrainSettings
from rewindctl.training.step import choose_step


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
    deadline: Deadline | None = None
    stored: StoredPoints | None = None
    kept: int = 0  # the iteration that a stopped run goes on from
    _saved: float = field(default_factory=time.monotonic)
    _leaving: bool = False

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
        if time.monotonic() - self._saved >= self.checkpoint_seconds or self._leaving:
            self.background.give(partial(self._keep, make()))
            self._saved = time.monotonic()

    def progressed(self, iteration: int) -> None:
        self.background.check()
        self.shown(iteration)

    def is_over(self, ahead: float) -> bool:
        self._leaving = self.deadline is not None and self.deadline.left() <= ahead
        return self._leaving

    def _write(self, state: TrainState) -> None:
        with self.writer.artifact(checkpoint_path(state.iteration)) as path:
            state.save(path)

    def _keep(self, point: ResumePoint) -> None:
        save_point(self.writer, point)
        self.kept = point.state.iteration
        if self.stored is not None:
            self.stored.offer()


@dataclass(frozen=True)
class Prepared:
    """What a training starts with, on the CPU; a baseline has no mask."""

    network: Network
    start: TrainState
    mask: Mask | None
    settings: TrainSettings


def schedule_of(dense: DenseSpec) -> LearningRateSchedule:
    return LearningRateSchedule(dense.iterations, dense.learning_rate, dense.lr_boundaries, dense.lr_factor)


def dense_settings(spec: DenseSpec) -> TrainSettings:
    """A baseline: the schedule from 0, checkpoints at every rewind point but the last, which is the final one."""
    return TrainSettings(
        schedule=schedule_of(spec),
        clock_start=0,
        iterations=spec.iterations,
        constant_lr=None,
        batch_size=spec.batch_size,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        weight_decay=spec.weight_decay,
        crop_padding=spec.crop_padding,
        horizontal_flip=spec.horizontal_flip,
        evaluate_every=spec.evaluate_every,
        checkpoint_at=spec.rewind_points[:-1],
        seed=spec.seed,
    )


def retrain_settings(spec: RetrainSpec, dense: DenseSpec) -> TrainSettings:
    """The recipe of the dense run with the clock, length and rate of the retraining's plan."""
    return replace(
        dense_settings(dense),
        schedule=schedule_of(dense).scaled(spec.schedule_iterations),
        clock_start=spec.clock_start,
        iterations=spec.iterations,
        constant_lr=spec.constant_lr,
        momentum=dense.momentum if spec.momentum is None else spec.momentum,
        evaluate_every=spec.evaluate_every,
        checkpoint_at=spec.rewind_points,
    )


def train_run(
    writer: RunWriter,
    ready: Prepared,
    data: DeviceData,
    title: str,
    policy: RunPolicy,
    console: Console,
    begin: ResumePoint | None = None,
    shared: SharedSteps | None = None,
) -> TrainResult:
    """Train with metrics and checkpoints going to the run, with `shared` in a lane if it can.

    `begin` is where a replay goes on from.
    """
    settings = with_arithmetic(ready, data, writer, policy.arithmetic, console)
    resume, background, uploads = load_point(writer), Background(), Background()
    own, resume = resume, resume or begin
    with console.progress(title, settings.iterations, resume.wall_seconds if resume else 0.0) as progressed:
        usage = Usage(data.device)
        observer = RunObserver(writer, background, progressed, policy.checkpoint_seconds, usage, policy.deadline)
        if policy.resume_points == "store":
            observer.stored = StoredPoints(writer, uploads, deciding(data.device), console.say)
        if own is not None:
            observer.kept = own.state.iteration
            console.say(f"resuming run {writer.run_id} from iteration {own.state.iteration:,}")
        try:
            with uploads, background:
                result = train(ready.network, data, settings, ready.start, observer, ready.mask, resume, shared)
                background.wait()
        except (KeyboardInterrupt, LimitError):
            kept = f"kept up to iteration {observer.kept:,}" if observer.kept else "nothing saved yet"
            console.say(f"stopped  {title} ({writer.run_id[:8]}): {kept}")
            raise
    updates = IN_LANE if result.in_lane else "CUDA graph" if result.captured else "eager"
    writer.tag({tag.UPDATES: updates})
    say_step(writer, result, console)
    if result.why_eager:
        console.say(f"note: trained without a CUDA graph, more slowly: {result.why_eager[:300]}")
    return result


def write_result(writer: RunWriter, result: TrainResult, iterations: int) -> None:
    """Record the last state and the metrics of the whole training."""
    with writer.artifact(FINAL) as path:
        result.state.save(path)
    writer.log_metrics(
        {
            "test_accuracy_best": result.test_accuracy_best,
            "iterations_per_second": result.iterations_per_second,
            "duration_seconds": result.duration_seconds,
        },
        iterations,
    )
    writer.log_network(iterations)


def say_step(writer: RunWriter, result: TrainResult, console: Console) -> None:
    """Record which update step was used, and tell the user why if it is not the requested one."""
    writer.tag({tag.STEP: result.step})
    if result.note:
        console.say(f"note: trained with PyTorch's operations, not with the fused kernels: {result.note[:300]}")


def with_arithmetic(
    ready: Prepared, data: DeviceData, writer: RunWriter, asked: Arithmetic, console: Console
) -> TrainSettings:
    """The settings with precision and step chosen, which the run is told; one that is gone on with keeps its own.

    Raises: UsageError where the device or the network has no such step, NotHereError where the run began with it.
    """
    _, height, width, channels = data.train_images.shape
    batch = (ready.settings.batch_size, channels, height, width)
    before = writer.found.get(tag.PRECISION)
    choice = choose_for(before or asked.precision, data.device, ready.network, batch)
    own = tag.arithmetic_of(writer.found) if tag.DETERMINISTIC in writer.found else asked
    try:
        step = choose_step(own.step, data.device, ready.network)
    except UsageError as error:
        if own is asked:
            raise
        hint = (
            f"run {writer.run_id} began with it: resume it on a machine that supports it, or start again with --force"
        )
        raise NotHereError(error.message, hint) from error
    how = {tag.DETERMINISTIC: str(own.deterministic), tag.STEP: step, tag.COMPILED: str(own.compiled)}
    writer.tag({tag.PRECISION: choice.precision, **how})
    if choice.precision == "bf16" and asked.precision == AUTO and not before:
        console.say(f"trains in bf16: {choice.why} (--precision fp32 for float32)")
    chosen = replace(ready.settings, precision=choice.precision, deterministic=own.deterministic)
    return replace(chosen, step=step, compiled=own.compiled)
