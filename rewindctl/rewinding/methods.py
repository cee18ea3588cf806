"""Retraining methods as data: weights from an iteration, a clock, a length, a constant rate or the schedule.

A new method is one function from a request to a plan, registered under its name.
Source: report section 4; Renda et al. 2020, section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rewindctl.catalog import Catalog
from rewindctl.errors import UsageError

FINETUNE_RATE = 0.001  # report section 4


@dataclass(frozen=True)
class RetrainRequest:
    """What was asked for. `dense_iterations` is N of the dense run, `recorded` where it can be rewound to, as far as
    known; None means not given.
    """

    dense_iterations: int
    k: int | None = None
    weights_k: int | None = None
    lr_k: int | None = None
    learning_rate: float | None = None
    iterations: int | None = None
    lr_clock: str = "rewound"
    recorded: tuple[int, ...] = ()

    def refuse(self, method: str, *options: str) -> None:
        """Raises: UsageError when an option is given that the method has no use for."""
        values = {
            "k": self.k,
            "weights-k": self.weights_k,
            "lr-k": self.lr_k,
            "lr": self.learning_rate,
            "iterations": self.iterations,
            "lr-clock": None if self.lr_clock == "rewound" else self.lr_clock,
        }
        for option in options:
            if values[option] is not None:
                raise UsageError(f"--{option} {values[option]} has no meaning for {method}", f"leave --{option} out")

    def iteration(self, option: str, value: int | None, method: str, *, last: bool) -> int:
        """`value` if it is an iteration of the dense run, N itself only if `last`. Raises: UsageError."""
        if value is None:
            raise UsageError(f"{method} needs --{option}", self._choice(option, last=last))
        if value < 0 or value > self.dense_iterations:
            raise UsageError(
                f"--{option} {value} is outside the dense run's {self.dense_iterations} iterations",
                self._choice(option, last=last),
            )
        if value == self.dense_iterations and not last:
            raise UsageError(
                f"--{option} {value} is the dense run's last iteration: nothing would be left to train",
                "give an earlier iteration, or use --method lr_rewind",
            )
        return value

    def _choice(self, option: str, *, last: bool) -> str:
        """What may be given; weights that are recorded need no replay."""
        recorded = [point for point in self.recorded if last or point != self.dense_iterations]
        known = f"; recorded: {', '.join(map(str, recorded))}" if recorded and option != "lr-k" else ""
        return f"give an iteration from 0 to {self.dense_iterations - (not last)}{known}"


@dataclass(frozen=True)
class RetrainPlan:
    """Weights as they were after `weights_iteration` updates of the dense run; N means the trained network.

    The learning-rate clock starts at `clock_start` of a schedule over `schedule_iterations`, for `iterations`
    updates; `constant_lr`, where given, replaces the schedule.
    """

    weights_iteration: int
    clock_start: int
    iterations: int
    schedule_iterations: int
    constant_lr: float | None = None


methods: Catalog[Callable[[RetrainRequest], RetrainPlan]] = Catalog("method")


@methods.register("finetune")
def finetune(request: RetrainRequest) -> RetrainPlan:
    """Trained weights, constant rate (0.001), N iterations unless told otherwise."""
    request.refuse("finetune", "k", "weights-k", "lr-k", "lr-clock")
    n = request.dense_iterations
    rate = FINETUNE_RATE if request.learning_rate is None else request.learning_rate
    return RetrainPlan(n, 0, request.iterations or n, n, constant_lr=rate)


@methods.register("weight_rewind")
def weight_rewind(request: RetrainRequest) -> RetrainPlan:
    """Weights of iteration K, N - K iterations.

    The clock is at K (`rewound`: report's text, Renda et al.) or at 0 (`restarted`: the report's published code).
    """
    request.refuse("weight_rewind", "weights-k", "lr-k", "lr", "iterations")
    n = request.dense_iterations
    k = request.iteration("k", request.k, "weight_rewind", last=False)
    return RetrainPlan(k, k if request.lr_clock == "rewound" else 0, n - k, n)


@methods.register("lr_rewind")
def lr_rewind(request: RetrainRequest) -> RetrainPlan:
    """Trained weights, the whole schedule again (scaled where `iterations` is given)."""
    request.refuse("lr_rewind", "k", "weights-k", "lr-k", "lr", "lr-clock")
    length = request.iterations or request.dense_iterations
    return RetrainPlan(request.dense_iterations, 0, length, length)


@methods.register("rewind")
def rewind(request: RetrainRequest) -> RetrainPlan:
    """Weights of iteration W, clock at C, N - C iterations: spans weight and learning-rate rewinding."""
    request.refuse("rewind", "k", "lr", "iterations", "lr-clock")
    n = request.dense_iterations
    weights = request.iteration("weights-k", request.weights_k, "rewind", last=True)
    clock = request.iteration("lr-k", request.lr_k, "rewind", last=False)
    return RetrainPlan(weights, clock, n - clock, n)
