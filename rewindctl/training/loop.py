"""The one training loop: dense runs and every kind of retraining are the same loop from another start."""

import math
import time
from contextlib import closing
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from rewindctl.datasets.batches import DeviceData
from rewindctl.errors import DivergedError, LimitError
from rewindctl.models import Network
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.system.processes import raise_if_interrupted
from rewindctl.training.graph import alone
from rewindctl.training.kernels import reproducible
from rewindctl.training.lanes import SharedSteps
from rewindctl.training.records import Evaluation, Observer, ResumePoint, TrainResult, TrainSettings
from rewindctl.training.step import stepper_for

EVALUATION_BATCH = 500


def train(
    network: Network,
    data: DeviceData,
    settings: TrainSettings,
    start: TrainState,
    observer: Observer,
    mask: Mask | None = None,
    resume: ResumePoint | None = None,
    shared: SharedSteps | None = None,
) -> TrainResult:
    """Train from `start` on the device of `data`; the entries that `mask` removes are 0 before and after each update.

    With `resume`, a point of the same training, only the rest is done: the end is the same, byte for byte. With
    `shared` it takes a lane of a step, if it can: the same bytes.

    States are handed to the observer before update `t` for each `t` of `settings.checkpoint_at`. Raises: DivergedError
    when the loss is NaN or infinite: on a CPU before that very update; on a GPU no update is made from then on, and
    it is raised at the next evaluation, with the iteration that it happened at. Raises: LimitError when the observer
    says that the time is over, after the observer was offered a point to go on from.
    """
    began = time.perf_counter() - (resume.wall_seconds if resume else 0.0)
    with (
        reproducible(data.device, settings.deterministic),
        closing(stepper_for(network, data, settings, resume.state if resume else start, mask, shared)) as stepper,
    ):
        stepper.first_batch = start.data_position
        done = resume.state.iteration if resume else -1
        evaluations = list(resume.evaluations) if resume else []
        training_seconds, since = resume.training_seconds if resume else 0.0, time.perf_counter()
        evaluation_seconds = 0.0
        if resume:
            stepper.go_on_from(resume.loss_sum, resume.loss_count)
        t = due = max(done, 0)
        while True:  # the end is evaluated and saved by the same lines as the rest
            evaluating = t > done and _is_evaluated(t, settings)
            if evaluating:
                train_loss = stepper.mean_loss()  # waits for the device
                looked = time.perf_counter()
                training_seconds += looked - since
                test_loss, test_accuracy = evaluate(stepper.network_now(), data)
                evaluation_seconds = time.perf_counter() - looked
                rate = settings.rate(max(0, t - 1))
                if t == settings.iterations and not math.isfinite(test_loss):
                    raise DivergedError(t, rate, test_loss)  # the last update did it, and no loss comes after it
                evaluations.append(Evaluation(t, rate, train_loss, test_loss, test_accuracy))
                observer.evaluated(evaluations[-1])
            if t > done and t in settings.checkpoint_at:
                observer.checkpoint(stepper.state(t))
            if evaluating:
                wall_seconds = time.perf_counter() - began
                observer.resumable(partial(stepper.point, t, tuple(evaluations), training_seconds, wall_seconds))
                since = time.perf_counter()
            done = t
            raise_if_interrupted()
            observer.progressed(t)
            if t == settings.iterations:
                break
            due = _next_due(t, settings) if t == due else due
            evaluated_next = _is_evaluated(due, settings) and (stepper.strides or t + 1 == due)
            if observer.is_over(evaluation_seconds if evaluated_next else 0.0):
                t = stepper.halt(t)
                if t == due:
                    continue
                now = time.perf_counter()
                seconds = training_seconds + now - since
                observer.resumable(partial(stepper.point, t, tuple(evaluations), seconds, now - began))
                raise LimitError(
                    f"the time limit was reached at iteration {t:,}", "the same command goes on from there"
                )
            t = stepper.advance(t, due)
        state = stepper.state(settings.iterations)
    speed = settings.iterations / max(training_seconds, 1e-9)
    how = stepper.captured, stepper.why_eager, stepper.step, stepper.note, stepper.strides
    return TrainResult(state, tuple(evaluations), speed, time.perf_counter() - began, *how)


def _is_evaluated(t: int, settings: TrainSettings) -> bool:
    return t % settings.evaluate_every == 0 or t == settings.iterations


def _next_due(t: int, settings: TrainSettings) -> int:
    """The first iteration after `t` at which the training is evaluated, saved or over."""
    evaluated = t + settings.evaluate_every - t % settings.evaluate_every
    return min(evaluated, settings.iterations, *(one for one in settings.checkpoint_at if one > t))


def evaluate(network: Network, data: DeviceData) -> tuple[float, float]:
    """Mean loss and accuracy, correct / total, over the whole test set. Leaves the network in training mode.

    In float32 by deterministic kernels, whatever the training's precision and whatever else the process does.
    """
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.device)
    loss = torch.zeros((), dtype=torch.float64, device=data.device)
    with torch.inference_mode(), alone(data.device), reproducible(data.device, deterministic=True):
        for images, labels in zip(
            data.test_images.split(EVALUATION_BATCH), data.test_labels.split(EVALUATION_BATCH), strict=True
        ):
            logits = network(data.standardised(images))
            loss += cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(dim=1) == labels).sum()
    network.train()
    total = len(data.test_labels)
    return float(loss) / total, int(correct) / total
