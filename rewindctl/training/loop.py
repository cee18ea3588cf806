"""The one training loop: dense runs and every kind of retraining are the same loop from another start."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rewindctl.arithmetic import Precision
from rewindctl.datasets.batches import BatchStream, DeviceData
from rewindctl.errors import DivergedError
from rewindctl.models import Network
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState, check_shapes
from rewindctl.rewinding.schedule import Schedule
from rewindctl.training.graph import captured
from rewindctl.training.shared import Shared

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the updates of a run but the network, the data, the start and the mask.

    Update t (from 0) uses the schedule's rate at `clock_start` + t, or `constant_lr` where given. `deterministic` is
    for CUDA, where the fastest kernels need not give the same bytes twice.
    """

    schedule: Schedule
    clock_start: int
    iterations: int
    constant_lr: float | None
    batch_size: int
    momentum: float
    nesterov: bool
    weight_decay: float
    crop_padding: int
    horizontal_flip: bool
    evaluate_every: int
    checkpoint_at: tuple[int, ...]
    seed: int
    precision: Precision = "fp32"
    deterministic: bool = True

    def rate(self, iteration: int) -> float:
        """Learning rate of update `iteration` of this run."""
        return self.constant_lr or self.schedule.rate(self.clock_start + iteration)


@dataclass(frozen=True)
class Evaluation:
    """Measured after `iteration` updates. `train_loss` is the mean since the last evaluation (None at the start)."""

    iteration: int
    lr: float
    train_loss: float | None
    test_loss: float
    test_accuracy: float


@dataclass(frozen=True)
class TrainResult:
    """The last state, every evaluation, and the speed of the updates (evaluations apart).

    `captured`: the updates were replays of a CUDA graph.
    """

    state: TrainState
    evaluations: tuple[Evaluation, ...]
    iterations_per_second: float
    duration_seconds: float
    captured: bool

    @property
    def test_accuracy(self) -> float:
        """Accuracy after the last iteration: the result."""
        return self.evaluations[-1].test_accuracy

    @property
    def test_accuracy_best(self) -> float:
        """Best accuracy over all evaluations; chosen on the test set, so not a result."""
        return max(evaluation.test_accuracy for evaluation in self.evaluations)


@dataclass(frozen=True)
class ResumePoint:
    """Where an interrupted run goes on: the state after an evaluation, and what was measured up to it.

    `training_seconds` are those of the updates alone, `wall_seconds` of everything.
    """

    state: TrainState
    evaluations: tuple[Evaluation, ...]
    training_seconds: float
    wall_seconds: float = 0.0


class Observer(Protocol):
    """Is told what happens, when it happens; an exception from it stops the training.

    `resumable` may keep the point that it can make, from which `train` goes on to the same bytes.
    """

    def evaluated(self, evaluation: Evaluation) -> None: ...
    def checkpoint(self, state: TrainState) -> None: ...
    def resumable(self, make: Callable[[], ResumePoint]) -> None: ...
    def progressed(self, iteration: int) -> None: ...


def train(
    network: Network,
    data: DeviceData,
    settings: TrainSettings,
    start: TrainState,
    observer: Observer,
    mask: Mask | None = None,
    resume: ResumePoint | None = None,
) -> TrainResult:
    """Train from `start` on the device of `data`; the entries that `mask` removes are 0 before and after each update.

    With `resume`, a point of the same training, only the rest is done: the end is the same, byte for byte.

    States are handed to the observer before update `t` for each `t` of `settings.checkpoint_at`. Raises: DivergedError
    when the loss is NaN or infinite: on a CPU before that very update; on a GPU no update is made from then on, and
    it is raised at the next evaluation, with the iteration that it happened at.
    """
    began = time.perf_counter() - (resume.wall_seconds if resume else 0.0)
    with _reproducible(data.device, settings.deterministic):
        stepper = Stepper(network, data, settings, resume.state if resume else start, mask)
        stepper.first_batch = start.data_position
        done = resume.state.iteration if resume else -1
        evaluations = list(resume.evaluations) if resume else []
        training_seconds, since = resume.training_seconds if resume else 0.0, time.perf_counter()
        # One round more than there are updates: the end is evaluated and saved by the same lines as the rest.
        for t in range(max(done, 0), settings.iterations + 1):
            evaluating = t > done and (t % settings.evaluate_every == 0 or t == settings.iterations)
            if evaluating:
                train_loss = stepper.mean_loss()  # waits for the device
                training_seconds += time.perf_counter() - since
                test_loss, test_accuracy = evaluate(network, data)
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
            observer.progressed(t)
            if t < settings.iterations:
                stepper.update(t)
        state = stepper.state(settings.iterations)
    speed = settings.iterations / max(training_seconds, 1e-9)
    return TrainResult(state, tuple(evaluations), speed, time.perf_counter() - began, stepper.captured)


class Stepper:
    """One update at a time. `_step` is the update: batch, forward, backward, masked gradient, Nesterov SGD.

    `_step` reads and writes tensors at fixed addresses and asks the device nothing. On CUDA it is captured once in a
    graph, which `update` replays; what changes from update to update (position, rate) is data on the device.
    """

    def __init__(
        self,
        network: Network,
        data: DeviceData,
        settings: TrainSettings,
        start: TrainState,
        mask: Mask | None,
        capture: bool = True,
    ) -> None:
        """`capture=False` is the reference path: every operation started by itself, on CUDA too."""
        self.network, self.settings, self.device = network, settings, data.device
        self.first_batch = start.data_position
        start.load_into(network)
        network.to(data.device).to(memory_format=torch.channels_last).train()
        self.parameters = dict(network.named_parameters())
        self.stream = BatchStream(
            data, settings.batch_size, settings.crop_padding, settings.horizontal_flip, settings.seed
        )
        self.current_rate = settings.rate(0)
        self.rate = torch.tensor(self.current_rate, device=data.device)
        self.optimizer = torch.optim.SGD(
            self.parameters.values(),
            lr=self.rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        check_shapes(start.momentum, dict(self.parameters), "momentum")
        self.momentum = {name: torch.zeros_like(p).copy_(start.momentum[name]) for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            self.optimizer.state[parameter]["momentum_buffer"] = self.momentum[name]
        self._use(mask)
        self._t, self.losses = -1, 0
        self._watch()
        self.captured = False
        self._capture = capture and data.device.type == "cuda"
        self._run = self._step

    def _use(self, mask: Mask | None) -> None:
        """Zero weight and momentum once; with the gradient masked too, w' = w - lr * 0 keeps them at exactly 0."""
        tensors = mask.tensors() if mask else {}
        if mask:
            mask.apply_(self.parameters)
            mask.apply_(self.momentum)
        self.masked = [self.parameters[name] for name in tensors]
        self.kept = [
            torch.empty_like(self.parameters[name]).copy_(tensor) for name, tensor in tensors.items()
        ]  # in the memory format of the parameter

    def update(self, t: int) -> None:
        """Update `t` of this run. On a CPU raises DivergedError instead, nothing changed but batch-norm statistics."""
        self.stream.seek(self.first_batch + t)
        if (rate := self.settings.rate(t)) != self.current_rate:
            self.current_rate = rate
            self.rate.fill_(rate)
        if t != self._t + 1:
            self.iteration.fill_(t)
        self._t = t
        if self._capture:
            self._capture = False
            self._to_graph()
        self._run()
        self.losses += 1

    def _step(self) -> None:
        images, labels = self.stream.take()
        with torch.autocast(self.device.type, torch.bfloat16, self.settings.precision == "bf16", cache_enabled=False):
            logits = self.network(images)
        loss = cross_entropy(logits.float(), labels)
        self._look_at(loss.detach())
        loss.backward()
        if self.masked:
            torch._foreach_mul_([p.grad for p in self.masked if p.grad is not None], self.kept)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def changed(self) -> list[Tensor]:
        """Every tensor that `_step` writes to and that outlives it."""
        watched = [self.iteration, self.loss_sum, self.diverged_at, self.diverged_loss, self.stopped]
        return [
            *self.parameters.values(),
            *self.network.buffers(),
            *self.momentum.values(),
            *watched,
            self.stream.index,
        ]

    def _to_graph(self) -> None:
        """Replay from now on; a network of one's own that no graph can hold is trained without one."""
        try:
            self._run = captured(self._step, self.changed(), self.device)
            self.captured = True
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            self.optimizer.zero_grad(set_to_none=True)

    def _watch(self) -> None:
        """What is kept on the device of the losses, and of the first that is not finite."""
        self.iteration = torch.zeros((), dtype=torch.int64, device=self.device)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.diverged_at = torch.full_like(self.iteration, -1)
        self.diverged_loss = torch.zeros((), device=self.device)
        self.stopped = torch.zeros((), device=self.device)
        if self.device.type == "cuda":
            self.optimizer.found_inf = self.stopped  # type: ignore[attr-defined]

    def _look_at(self, loss: Tensor) -> None:
        """Sum the losses and stop at the first that is not finite, before its update.

        On a GPU the host must not wait for each loss: `found_inf` makes the fused optimiser skip this and all later
        steps, and the host learns of it at the next evaluation.
        """
        if self.device.type == "cpu" and not math.isfinite(value := float(loss)):
            raise DivergedError(self._t, self.settings.rate(self._t), value)
        self.loss_sum += loss
        if self.device.type != "cpu":
            first = ~torch.isfinite(loss) & (self.diverged_at < 0)
            self.diverged_at.copy_(torch.where(first, self.iteration, self.diverged_at))
            self.diverged_loss.copy_(torch.where(first, loss, self.diverged_loss))
            self.stopped.copy_(self.diverged_at >= 0)
            self.iteration += 1

    def _raise_if_diverged(self) -> None:
        iteration = int(self.diverged_at)
        if iteration >= 0:
            raise DivergedError(iteration, self.settings.rate(iteration), float(self.diverged_loss))

    def mean_loss(self) -> float | None:
        """Mean training loss since the last call, None when there was no update. Raises: DivergedError."""
        self._raise_if_diverged()
        if self.losses == 0:
            return None
        mean = float(self.loss_sum) / self.losses
        self.loss_sum.zero_()
        self.losses = 0
        return mean

    def state(self, t: int) -> TrainState:
        """A copy on the host after `t` updates of this run."""
        self._raise_if_diverged()
        return TrainState(
            {name: _on_host(p.detach()) for name, p in self.parameters.items()},
            {name: _on_host(b) for name, b in self.network.named_buffers()},
            {name: _on_host(m) for name, m in self.momentum.items()},
            iteration=t,
            data_position=self.first_batch + t,
        )

    def point(
        self, t: int, evaluations: tuple[Evaluation, ...], training_seconds: float, wall_seconds: float
    ) -> ResumePoint:
        """Where the run can go on from after `t` updates, just evaluated."""
        return ResumePoint(self.state(t), evaluations, training_seconds, wall_seconds)


def evaluate(network: Network, data: DeviceData) -> tuple[float, float]:
    """Mean loss and accuracy, correct / total, over the whole test set. Leaves the network in training mode."""
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.device)
    loss = torch.zeros((), dtype=torch.float64, device=data.device)
    with torch.inference_mode():
        for images, labels in zip(
            data.test_images.split(EVALUATION_BATCH), data.test_labels.split(EVALUATION_BATCH), strict=True
        ):
            logits = network(data.standardised(images))
            loss += cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(dim=1) == labels).sum()
    network.train()
    total = len(data.test_labels)
    return float(loss) / total, int(correct) / total


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", copy=True).contiguous()


@contextmanager
def _reproducible(device: torch.device, deterministic: bool) -> Iterator[None]:
    """On CUDA: float32 is float32 (not TF32), and with `deterministic` the same seed gives the same bytes.

    Without it cuDNN takes the kernels that it measures to be fastest.
    """
    with _kernels[deterministic] if device.type == "cuda" else nullcontext():
        yield


@contextmanager
def _chosen_kernels(deterministic: bool) -> Iterator[None]:
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    precision = convolutions.fp32_precision
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark
        convolutions.fp32_precision = precision


_kernels = {choice: Shared(partial(_chosen_kernels, choice)) for choice in (True, False)}
