"""Retraining methods: the table of the paper, what they have in common, what they refuse."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewindctl.errors import UnknownNameError, UsageError
from rewindctl.rewinding.methods import FINETUNE_RATE, RetrainOptions, RetrainPlan, methods, plan_of

N, K, W, C = 72_000, 8_000, 2_000, 500


@dataclass(frozen=True)
class Dense:
    iterations: int
    rewind_points: tuple[int, ...] = ()


def plan(method: str, n: int = N, **options: Any) -> RetrainPlan:
    return plan_of(RetrainOptions(method=method, **options), Dense(n))


# The paper, section 4: weights from, clock from, iterations, schedule over, constant rate.
TABLE = [
    ("finetune", {}, (N, 0, N, N, 0.001)),
    ("finetune", {"iterations": 100, "lr": 0.01}, (N, 0, 100, N, 0.01)),
    ("weight_rewind", {"k": K}, (K, K, N - K, N, None)),
    ("weight_rewind", {"k": 0}, (0, 0, N, N, None)),
    ("weight_rewind", {"k": K, "lr_clock": "restarted"}, (K, 0, N - K, N, None)),
    ("lr_rewind", {}, (N, 0, N, N, None)),
    ("lr_rewind", {"iterations": 900}, (N, 0, 900, 900, None)),
    ("rewind", {"weights_k": W, "lr_k": C}, (W, C, N - C, N, None)),
    ("rewind", {"weights_k": N, "lr_k": C}, (N, C, N - C, N, None)),
]


@pytest.mark.parametrize(("method", "options", "expected"), TABLE)
def test_plans_are_those_of_the_paper(method: str, options: dict[str, Any], expected: tuple[Any, ...]) -> None:
    assert plan(method, **options) == RetrainPlan(*expected)


def test_the_rate_of_finetuning_is_that_of_the_paper() -> None:
    assert FINETUNE_RATE == 0.001


@given(st.integers(1, 10**6))
def test_weights_of_the_end_under_a_clock_at_0_is_learning_rate_rewinding(n: int) -> None:
    assert plan("rewind", n, weights_k=n, lr_k=0) == plan("lr_rewind", n)


@given(st.integers(1, 10**6), st.data())
def test_weights_and_clock_of_one_iteration_is_weight_rewinding(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n - 1))
    assert plan("rewind", n, weights_k=k, lr_k=k) == plan("weight_rewind", n, k=k)


@given(st.integers(1, 10**6), st.data())
def test_no_plan_leaves_the_schedule_and_none_is_empty(n: int, data: st.DataObject) -> None:
    inside = st.integers(0, n - 1)
    requests: dict[str, dict[str, Any]] = {
        "finetune": {"iterations": data.draw(st.none() | st.integers(1, n))},
        "weight_rewind": {"k": data.draw(inside), "lr_clock": data.draw(st.sampled_from(["rewound", "restarted"]))},
        "lr_rewind": {"iterations": data.draw(st.none() | st.integers(1, 2 * n))},
        "rewind": {"weights_k": data.draw(st.integers(0, n)), "lr_k": data.draw(inside)},
    }
    assert set(requests) == set(methods)
    for method, options in requests.items():
        made = plan(method, n, **options)
        assert 0 <= made.weights_iteration <= n
        assert made.iterations >= 1
        assert made.constant_lr is not None or made.clock_start + made.iterations <= made.schedule_iterations


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("weight_rewind", {}, "--k"),
    ("weight_rewind", {"k": -1}, "--k -1"),
    ("weight_rewind", {"k": N + 1}, f"--k {N + 1}"),
    ("weight_rewind", {"k": N}, f"--k {N}"),
    ("rewind", {"lr_k": 0}, "--weights-k"),
    ("rewind", {"weights_k": 0}, "--lr-k"),
    ("rewind", {"weights_k": -1, "lr_k": 0}, "--weights-k -1"),
    ("rewind", {"weights_k": N + 1, "lr_k": 0}, f"--weights-k {N + 1}"),
    ("rewind", {"weights_k": 0, "lr_k": -1}, "--lr-k -1"),
    ("rewind", {"weights_k": 0, "lr_k": N}, f"--lr-k {N}"),
]


@pytest.mark.parametrize(("method", "options", "named"), REFUSED)
def test_iterations_that_the_run_has_not_are_refused(method: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(method, **options)
    assert caught.value.exit_code == 2
    assert named in caught.value.message
    assert caught.value.hint


NEEDED: dict[str, dict[str, Any]] = {
    "finetune": {},
    "weight_rewind": {"k": K},
    "lr_rewind": {},
    "rewind": {"weights_k": W, "lr_k": C},
}
MEANINGLESS = [
    ("finetune", ("k", "weights_k", "lr_k", "lr_clock")),
    ("weight_rewind", ("weights_k", "lr_k", "lr", "iterations")),
    ("lr_rewind", ("k", "weights_k", "lr_k", "lr", "lr_clock")),
    ("rewind", ("k", "lr", "iterations", "lr_clock")),
]
VALUES: dict[str, Any] = {
    "k": 0,
    "weights_k": 0,
    "lr_k": 0,
    "lr": 0.1,
    "iterations": 10,
    "lr_clock": "restarted",
}


@pytest.mark.parametrize(("method", "option"), [(m, option) for m, options in MEANINGLESS for option in options])
def test_an_option_without_meaning_is_refused_not_ignored(method: str, option: str) -> None:
    """0 too, which is a value."""
    plan(method, **NEEDED[method])
    with pytest.raises(UsageError, match="no meaning") as caught:
        plan(method, **NEEDED[method], **{option: VALUES[option]})
    assert f"--{option.replace('_', '-')} " in caught.value.message
    assert method in caught.value.message


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        plan("finetun")
    assert caught.value.exit_code == 2
    assert all(name in caught.value.hint for name in methods)
