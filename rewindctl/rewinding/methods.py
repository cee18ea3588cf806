"""Retraining methods as data: weights from an iteration, a clock, a length, a constant rate or the schedule.

A new method is one function from options and the dense run to a plan, registered with its name and the options that it
takes. A new option is one field of `RetrainOptions`, and one of the specs that record it.
Source: the paper, section 4; Renda et al. 2020, section 3.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from rewindctl.catalog import Catalog
from rewindctl.errors import UsageError
from rewindctl.options import (
    MOST_ITERATIONS,
    DataOrder,
    LrClock,
    OptimizerState,
    Point,
    option,
    options_of,
    require_length,
    require_rate,
)

FINETUNE_RATE = 0.001  # the paper, section 4


class Baseline(Protocol):
    """What a method needs to know of the dense run: its N, and where it can be rewound to without a replay."""

    @property
    def iterations(self) -> int: ...
    @property
    def rewind_points(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, kw_only=True)
class RetrainOptions:
    """How to retrain; what has its default was not given. Raises: UnknownNameError."""

    method: str
    k: int | None = option("iteration of the dense run to rewind to.", "k={}", point=Point())
    weights_k: int | None = option("iteration that the weights come from.", "w={}", point=Point(last=True))
    lr_k: int | None = option("iteration that the learning-rate clock starts at.", "c={}", point=Point(weights=False))
    lr: float | None = option(
        "constant learning rate. [0.001]",
        "lr={:g}",
        result="constant_lr",
        usual=lambda spec: FINETUNE_RATE,
        check=require_rate,
        fits=lambda rate: 0 < rate <= 1e6,
        fitting="rates are above 0, and no larger than 1e6",
        search=(1e-5, 1e-1),  # two decades on either side of the paper's
    )
    iterations: int | None = option(
        "length. [that of the dense run]",
        "T={}",
        result="iterations",
        usual=lambda spec: spec.weights_iteration,  # of trained weights: N
        check=require_length,
        fits=lambda length: 1 <= length <= MOST_ITERATIONS,
        fitting="at least 1 iteration, at most a trillion",
    )
    lr_clock: LrClock = option("clock at K (the paper's text) or at 0 (its code).", "{} clock", "rewound")
    optimizer_state: OptimizerState = option(
        "Momentum at the start: zero, or that of the checkpoint.", "{} momentum", "zero", every=True
    )
    momentum: float | None = option(
        "Momentum of the optimiser. [that of the dense run]",
        "momentum={:g}",
        every=True,
        tune=False,
        fits=lambda momentum: 0 <= momentum < 1,
        fitting="momentum is at least 0 and below 1",
    )
    data_order: DataOrder = option(
        "Batches after rewound weights: those that followed them, or new ones.",
        "{} batches",
        "replayed",
        every=True,
        tune=False,
    )

    def __post_init__(self) -> None:
        if not isinstance(methods[self.method], Method):
            raise UsageError(
                f"method {self.method!r} is registered in the form of an earlier version",
                "its plug-in must use register_method",
            )

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        values = {name: getattr(self, name) for name in OPTIONS}
        return {name: value for name, value in values.items() if value != OPTIONS[name].default}

    def point(self, name: str, dense: Baseline) -> int:
        """The iteration of the dense run given as option `name`. Raises: UsageError when it is none, or missing."""
        value, flag, point, n = getattr(self, name), OPTIONS[name].flag, OPTIONS[name].point, dense.iterations
        assert point is not None
        recorded = [str(at) for at in dense.rewind_points if point.last or at != n]  # those need no replay
        known = f"; recorded: {', '.join(recorded)}" if recorded and point.weights else ""
        hint = f"give an iteration from 0 to {n - (not point.last)}{known}"
        if value is None:
            raise UsageError(f"{self.method} needs {flag}", hint)
        if not 0 <= value <= n:
            raise UsageError(f"{flag} {value} is outside the dense run's {n} iterations", hint)
        if value == n and not point.last:
            raise UsageError(
                f"{flag} {value} is the dense run's last iteration: nothing would be left to train",
                "give an earlier iteration, or use --method lr_rewind",
            )
        return int(value)


OPTIONS = options_of(RetrainOptions)
WEIGHTS = tuple(name for name, one in OPTIONS.items() if one.point and one.point.weights)


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


Planner = Callable[[RetrainOptions, Baseline], RetrainPlan]


@dataclass(frozen=True)
class Method:
    """A method: how it plans, the options it takes besides those that all take, and how people are shown it.

    `label` is its name in tables, `about` what a shell says of it, `style` its colour and marker in figures.
    """

    plan: Planner
    takes: tuple[str, ...]
    label: str
    about: str
    style: tuple[str, str] | None


methods: Catalog[Method] = Catalog("method")


def register_method(
    name: str, *, takes: tuple[str, ...] = (), label: str = "", about: str = "", style: tuple[str, str] | None = None
) -> Callable[[Planner], Planner]:
    """Decorator for the function that plans a method: what it takes `iterations` and `lr` for, its plan must have.

    Raises: ValueError when the name is taken, or an option is none that only some methods take.
    """
    if unknown := [one for one in takes if one not in OPTIONS or OPTIONS[one].every]:
        raise ValueError(f"method {name!r} cannot take {unknown[0]!r}")

    def add(plan: Planner) -> Planner:
        methods.register(name)(Method(plan, takes, label or name, about, style))
        return plan

    return add


def taken_by(name: str) -> Collection[str]:
    """The options that a method takes besides those that all take; an unknown one may take any but a length."""
    return methods[name].takes if name in methods else OPTIONS.keys() - {"iterations"}


def plan_of(options: RetrainOptions, dense: Baseline) -> RetrainPlan:
    """The plan of a method. Raises: UsageError when an option is given that it has no use for, or cannot be used."""
    given, method = options.given, methods[options.method]
    for name, value in given.items():
        OPTIONS[name].check(value)
    for name, value in given.items():
        if not OPTIONS[name].every and name not in method.takes:
            flag = OPTIONS[name].flag
            raise UsageError(f"{flag} {value} has no meaning for {options.method}", f"leave {flag} out")
    return method.plan(options, dense)


# Okabe and Ito's colours, which colour-blind readers can tell apart; markers tell methods apart in black and white.
@register_method(
    "finetune", takes=("lr", "iterations"), label="fine-tuning", about="a small constant rate", style=("#009E73", "^")
)
def finetune(options: RetrainOptions, dense: Baseline) -> RetrainPlan:
    """Trained weights, constant rate (0.001), N iterations unless told otherwise."""
    n = dense.iterations
    rate = FINETUNE_RATE if options.lr is None else options.lr
    return RetrainPlan(n, 0, options.iterations or n, n, constant_lr=rate)


@register_method(
    "weight_rewind",
    takes=("k", "lr_clock"),
    label="weight rewinding",
    about="weights and schedule of iteration --k",
    style=("#0072B2", "o"),
)
def weight_rewind(options: RetrainOptions, dense: Baseline) -> RetrainPlan:
    """Weights of iteration K, N - K iterations.

    The clock is at K (`rewound`: the paper's text, Renda et al.) or at 0 (`restarted`: the paper's published code).
    """
    n, k = dense.iterations, options.point("k", dense)
    return RetrainPlan(k, k if options.lr_clock == "rewound" else 0, n - k, n)


@register_method(
    "lr_rewind",
    takes=("iterations",),
    label="LR rewinding",
    about="the whole schedule, the weights as they are",
    style=("#D55E00", "s"),
)
def lr_rewind(options: RetrainOptions, dense: Baseline) -> RetrainPlan:
    """Trained weights, the whole schedule again (scaled where `iterations` is given)."""
    length = options.iterations or dense.iterations
    return RetrainPlan(dense.iterations, 0, length, length)


@register_method(
    "rewind",
    takes=("weights_k", "lr_k"),
    label="rewinding",
    about="weights of --weights-k, schedule from --lr-k",
    style=("#CC79A7", "D"),
)
def rewind(options: RetrainOptions, dense: Baseline) -> RetrainPlan:
    """Weights of iteration W, clock at C, N - C iterations: spans weight and learning-rate rewinding."""
    weights, clock = options.point("weights_k", dense), options.point("lr_k", dense)
    return RetrainPlan(weights, clock, dense.iterations - clock, dense.iterations)
