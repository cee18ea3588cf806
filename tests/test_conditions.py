"""Conditions: what they select, and which text is none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewindctl.conditions import COMPARISONS, Condition, parse_conditions
from rewindctl.errors import UsageError

NUMBERS = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


@given(NUMBERS, NUMBERS, st.sampled_from(sorted(COMPARISONS)))
def test_numbers_compare_as_numbers(value: float, wanted: float, sign: str) -> None:
    (condition,) = parse_conditions(f"x{sign}{wanted!r}", "--where")
    assert condition.holds(value) == COMPARISONS[sign](value, wanted)


@given(NUMBERS, NUMBERS, st.floats(0, 0.1))
def test_a_sign_or_its_opposite_holds_and_never_both(value: float, wanted: float, same: float) -> None:
    for sign, opposite in (("=", "!="), (">=", "<"), ("<=", ">")):
        holds = [Condition("x", one, repr(wanted)).holds(value, same) for one in (sign, opposite)]
        assert sorted(holds) == [False, True]


def test_what_is_near_counts_as_equal_only_as_far_as_asked() -> None:
    for sign in ("=", ">=", "<="):
        assert Condition("compression", sign, "5").holds(5.0001, 5e-3)
    for sign in ("!=", ">", "<"):
        assert not Condition("compression", sign, "5x").holds(5.0001, 5e-3)
    assert not Condition("seed", "=", "200").holds(201.0)


def test_text_is_equal_or_not_and_has_no_order() -> None:
    assert Condition("method", "=", "lr_rewind").holds("lr_rewind")
    assert Condition("method", "!=", "lr_rewind").holds("finetune")
    assert not Condition("method", ">", "a").holds("b")
    assert not Condition("accuracy", ">", "high").holds(0.5)


def test_a_missing_value_is_none_and_nothing_else() -> None:
    assert Condition("k", "=", "none").holds(None)
    assert Condition("k", "!=", "5").holds(None)
    for sign in (">", "<", ">=", "<=", "="):
        assert not Condition("k", sign, "5").holds(None)
    assert not Condition("loss", "=", "5").holds(math.nan)


def test_commas_join_and_spaces_do_not_matter() -> None:
    found = parse_conditions(" method = lr_rewind , compression>=5x", "--where")
    assert found == [Condition("method", "=", "lr_rewind"), Condition("compression", ">=", "5x")]


@pytest.mark.parametrize(
    "text", ["", "compression", "compression>", ">5", "a>5,", "a b>5", "5", "a>>5", "a=>5", "a==5", "a=!5"]
)
def test_what_is_no_condition_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_conditions(text, "--where")
    assert caught.value.message.startswith("--where '")
    assert "is not a condition" in caught.value.message
    assert "compression>5" in caught.value.hint
    assert caught.value.hint.endswith("the signs are != < <= = > >=")


def test_an_order_is_asked_of_numbers_alone() -> None:
    with pytest.raises(UsageError) as caught:
        parse_conditions("method=a,accuracy>high", "--where")
    assert caught.value.message == "--where 'accuracy>high': 'high' is not a number"


def test_an_unknown_column_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        parse_conditions("method=a,speed>1", "--cells", {"method", "k"})
    assert (caught.value.message, caught.value.hint) == ("--cells: unknown column 'speed'", "known: k, method")
