"""How many of what."""

import pytest

from rewindctl.counting import count_of


@pytest.mark.parametrize(("number", "text"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (1234, "1,234 runs")])
def test_one_is_singular_and_thousands_have_a_comma(number: int, text: str) -> None:
    assert count_of(number, "run") == text


def test_a_plural_may_have_its_own_form() -> None:
    assert [count_of(number, "entry", "entries") for number in (1, 2)] == ["1 entry", "2 entries"]
