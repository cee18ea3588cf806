"""The training of a run: gone on with where it was interrupted, its metrics, checkpoints and speed in the run."""

from dataclasses import replace

from rewindctl.arithmetic import AUTO, Arithmetic
from rewindctl.console import Console
from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import LimitError, NotHereError, UsageError
from rewindctl.pipeline.background import Background
from rewindctl.pipeline.observer import RunObserver
from rewindctl.pipeline.pipeline import RunPolicy
from rewindctl.pipeline.resume import StoredPoints, load_point
from rewindctl.pipeline.settings import Prepared
from rewindctl.registry import RunWriter
from rewindctl.registry import records as tag
from rewindctl.registry.runs.manifest import FINAL
from rewindctl.training.device import deciding
from rewindctl.training.loop import train
from rewindctl.training.precision import choose_for
from rewindctl.training.records import ResumePoint, TrainResult, TrainSettings
from rewindctl.training.steppers import choose_step
from rewindctl.training.usage import Usage


def train_run(
    writer: RunWriter,
    ready: Prepared,
    data: DeviceData,
    title: str,
    policy: RunPolicy,
    console: Console,
    begin: ResumePoint | None = None,
) -> TrainResult:
    """Train with metrics and checkpoints going to the run; `begin` is where a replay goes on from."""
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
                result = train(ready.network, data, settings, ready.start, observer, ready.mask, resume)
                background.wait()
        except (KeyboardInterrupt, LimitError):
            kept = f"kept up to iteration {observer.kept:,}" if observer.kept else "nothing saved yet"
            console.say(f"stopped  {title} ({writer.run_id[:8]}): {kept}")
            raise
    writer.tag({tag.UPDATES: "CUDA graph" if result.captured else "eager"})
    say_step(writer, result, console)
    if result.why_eager:
        console.say(f"note: trained without a CUDA graph, more slowly: {result.why_eager[:300]}")
    return result


def write_result(writer: RunWriter, result: TrainResult, iterations: int) -> None:
    """The last state and what is measured of the whole training."""
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
    """Tell the run what made its updates after all, and the user why it is not what was asked for."""
    writer.tag({tag.STEP: result.step})
    if result.note:
        console.say(f"note: trained by PyTorch's operations, not by kernels of our own: {result.note[:300]}")


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
        hint = f"run {writer.run_id} began so: go on with it where that can be, or run it anew with --force"
        raise NotHereError(error.message, hint) from error
    how = {tag.DETERMINISTIC: str(own.deterministic), tag.STEP: step, tag.COMPILED: str(own.compiled)}
    writer.tag({tag.PRECISION: choice.precision, **how})
    if choice.precision == "bf16" and asked.precision == AUTO and not before:
        console.say(f"trains in bf16: {choice.why} (--precision fp32 for float32)")
    chosen = replace(ready.settings, precision=choice.precision, deterministic=own.deterministic)
    return replace(chosen, step=step, compiled=own.compiled)
