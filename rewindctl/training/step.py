"""One update: where it is defined, captured and run, by PyTorch's operations or by kernels of our own."""

import math
from collections.abc import Callable
from types import FunctionType

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.sgd import sgd

from rewindctl.arithmetic import Precision, Step
from rewindctl.datasets.batches import BatchStream, DeviceData
from rewindctl.errors import DivergedError, NotHereError, UsageError
from rewindctl.fused.pairs import is_whole, missing_part, unfit
from rewindctl.models import Network
from rewindctl.pruning import Mask
from rewindctl.rewinding.checkpoints import TrainState
from rewindctl.training.course import Course, Losses, OneByOne
from rewindctl.training.graph import captured, rehearse_aside
from rewindctl.training.lanes import SharedSteps
from rewindctl.training.lean import Lean
from rewindctl.training.records import TrainSettings


class Stepper(OneByOne):
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
        compiled: bool = False,
        lean: bool | None = None,
    ) -> None:
        """`capture=False` is the reference path: every operation started by itself, on CUDA too.

        `lean` has fewer kernels make the same bytes; None: where they are captured, for there a forward pass that is
        seen once is that of every update.

        `compiled` has PyTorch's compiler join the operations of forward and backward pass: fewer kernels, other last
        bits, and a minute or more before the first update.
        """
        super().__init__(network, data, settings, start)
        self.forward: nn.Module = network
        self.parameters = dict(network.named_parameters())
        self.stream = BatchStream(
            data, settings.batch_size, settings.crop_padding, settings.horizontal_flip, settings.seed
        )
        self.current_rate = settings.rate(0)
        self.rate = torch.tensor(self.current_rate, device=data.device)
        self.momentum = {name: torch.zeros_like(p).copy_(start.momentum[name]) for name, p in self.parameters.items()}
        self._use(mask)
        self._t, self.losses = -1, Losses(data.device)
        self.captured, self.why_eager = False, ""
        self.step: Step = "pytorch"
        self.note = ""
        # It compiles at its first call: while the step is rehearsed, where it will be captured.
        self._loss = _compiled_loss() if compiled else mean_loss_of
        self._capture = capture and data.device.type == "cuda"
        self._replay: Callable[[], None] | None = None
        self._begins = True
        if lean is None:
            lean = self._capture and not compiled
        self._lean = Lean(network, settings.precision, data.device) if lean else None

    def _use(self, mask: Mask | None) -> None:
        """Zero weight and momentum once; with the gradient masked too, w' = w - lr * 0 keeps them at exactly 0."""
        tensors = mask.tensors() if mask else {}
        if mask:
            mask.apply_(self.parameters)
            mask.apply_(self.momentum)
        self.kept = {
            name: torch.empty_like(self.parameters[name]).copy_(tensor) for name, tensor in tensors.items()
        }  # in the memory format of the parameter

    def update(self, t: int) -> None:
        """Update `t` of this run. On a CPU raises DivergedError instead, nothing changed but batch-norm statistics."""
        self._go_to(t)
        if self._begins:
            self._begins = False
            if self._lean:
                self._try_lean()
            if self._capture:
                self._to_graph()
        (self._replay or self._step)()
        if self._lean:
            self._lean.made()
        self.losses.count += 1

    def _step(self) -> None:
        images, labels = self.stream.take()

        def loss() -> Tensor:
            made = self._loss(self.forward, images, labels, self.settings.precision)
            self._look_at(made.detach())
            return made

        if self._lean:
            self._lean.backward(loss)
        else:
            loss().backward()
        self._descend()

    @torch.no_grad()
    def _descend(self) -> None:
        """Masked gradients, then Nesterov SGD; a parameter that the loss does not depend on has none, and stays.

        PyTorch's own update as a function: its class imports a compiler that nothing here uses, a second at each start.
        """
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        if masked := [name for name in self.kept if name in gradients]:
            torch._foreach_mul_([gradients[name] for name in masked], [self.kept[name] for name in masked])
        sgd(
            [self.parameters[name] for name in gradients],
            list(gradients.values()),
            [self.momentum[name] for name in gradients],
            fused=True,
            found_inf=self.losses.stopped if self.device.type == "cuda" else None,
            weight_decay=self.settings.weight_decay,
            momentum=self.settings.momentum,
            lr=self.rate,
            dampening=0.0,
            nesterov=self.settings.nesterov,
            maximize=False,
        )
        self._forget_gradients()

    def _forget_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def changed(self) -> list[Tensor]:
        """Every tensor that `_step` writes to and that outlives it."""
        return [
            *self.parameters.values(),
            *self.network.buffers(),
            *self.momentum.values(),
            *self.losses.tensors(),
            self.stream.index,
        ]

    def _to_graph(self) -> None:
        """Replay from now on; a network of one's own that no graph can hold is trained without one."""
        try:
            self._replay = captured(self._step, self.changed(), self.device)
            self.captured = True
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._forget_gradients()
            self._lean = None
            self.why_eager = next(iter(str(error).splitlines()), type(error).__name__)

    def _try_lean(self) -> None:
        """Go on with the plain passes where the network sees a difference."""
        try:
            rehearse_aside(self._step, self.changed(), self.device)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a network of someone else's raises at what stands in for its tensors
            self._forget_gradients()
            self._lean = None

    def close(self) -> None:
        """Let go of the graph, with its memory, before another training captures one on this thread's stream."""
        self._replay = None
        self.network_now()

    def network_now(self) -> Network:
        """The network with all that the updates so far have made of it; for who looks between two updates."""
        if self._lean:
            self._lean.settle()
        return self.network

    def _look_at(self, loss: Tensor) -> None:
        """Sum the losses and stop at the first that is not finite, before its update.

        On a GPU the host must not wait for each loss: `found_inf` makes the fused update skip this and all later
        steps, and the host learns of it at the next evaluation.
        """
        if self.device.type == "cpu" and not math.isfinite(value := float(loss)):
            raise DivergedError(self._t, self.settings.rate(self._t), value)
        self.losses.add(loss)
        if self.device.type != "cpu":
            self.losses.stop_if_bad(loss)

    def state(self, t: int) -> TrainState:
        """A copy on the host after `t` updates of this run."""
        self._raise_if_diverged()
        return self._state(t, self.parameters, dict(self.network_now().named_buffers()), self.momentum)


def mean_loss_of(network: nn.Module, images: Tensor, labels: Tensor, precision: Precision) -> Tensor:
    """Over a batch, in float32."""
    with torch.autocast(images.device.type, torch.bfloat16, precision == "bf16", cache_enabled=False):
        logits = network(images)
    return cross_entropy(logits.float(), labels)


def _compiled_loss() -> Callable[[nn.Module, Tensor, Tensor, Precision], Tensor]:
    """`mean_loss_of` as PyTorch's compiler makes it at the first call, which raises NotHereError where that fails."""
    from torch._dynamo.exc import TorchDynamoException

    # What was compiled is kept with the code: of all trainings of a process together after eight it is no longer, and
    # without a word. So each has a copy of the code, and the same bytes whatever was trained before it.
    own = FunctionType(mean_loss_of.__code__.replace(), mean_loss_of.__globals__, mean_loss_of.__name__)
    compiled = torch.compile(own, dynamic=False)

    def loss(network: nn.Module, images: Tensor, labels: Tensor, precision: Precision) -> Tensor:
        try:
            made: Tensor = compiled(network, images, labels, precision)
            return made
        except TorchDynamoException as error:
            why = next(iter(str(error).splitlines()), type(error).__name__)
            hint = "leave out --compile; add --force if the run began with it"
            raise NotHereError(f"PyTorch's compiler does not work here: {why[:300]}", hint) from error

    return loss


def stepper_for(
    network: Network,
    data: DeviceData,
    settings: TrainSettings,
    start: TrainState,
    mask: Mask | None,
    shared: SharedSteps | None = None,
) -> Course:
    """What the settings say makes the updates of a training from `start`; with `shared` in a lane, if it can."""
    note = ""
    if settings.step == "fused":
        from rewindctl.training.agreement import disagreement

        make, note = _by_kernels(network), unfit(network)
        if not note and (why := disagreement(make, network, data, settings, start, mask)):
            note = f"on this device they make {why}"
        if not note and shared is not None and is_whole(network):
            return shared.stepper(network, data, settings, start, mask)
        if not note:
            return make(network, data, settings, start, mask)
    made = Stepper(network, data, settings, start, mask, compiled=settings.compiled)
    made.note = note
    return made


def _by_kernels(network: nn.Module) -> Callable[..., Course]:
    """Imported only here: they take Triton, which not every machine has."""
    if is_whole(network):
        from rewindctl.training.fused_step import FusedStepper

        return FusedStepper
    from rewindctl.training.fused_step import NormStepper

    return NormStepper


def choose_step(asked: str, device: torch.device, network: nn.Module | None = None) -> Step:
    """What makes the updates where `asked` is auto, pytorch or fused; without a network only the device is looked at.

    `auto` is PyTorch's until the kernels have been checked on a GPU. Raises: UsageError for fused where they cannot be.
    """
    if asked != "fused":
        return "pytorch"
    if why := missing_part(device) or (unfit(network) if network is not None else ""):
        raise UsageError(f"--update-step fused: {why}", "use --update-step auto")
    return "fused"
