import pytest

from rewindctl.cli.until_decided import Budget, parse_budget
from rewindctl.errors import UsageError


def test_updates_are_never_overspent() -> None:
    budget = parse_budget("100it")
    assert budget.allows(100)
    assert not budget.allows(101)
    budget.spent = 60
    assert budget.allows(40)
    assert not budget.allows(41)
    assert parse_budget(None).allows(10**12)


def test_time_begins_no_trial_that_would_end_after_it_at_the_speed_so_far() -> None:
    now = [0.0]
    budget = Budget("60s", seconds=60, clock=lambda: now[0])
    assert budget.allows(10**9)
    now[0], budget.spent = 20.0, 100
    assert budget.allows(200)
    assert not budget.allows(201)
    now[0] = 60.0
    assert not budget.allows(0)


@pytest.mark.parametrize("text", ["0it", "it", "9", "-5it", "1.5it", "nan", ""])
def test_what_is_no_budget_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(UsageError, match="--budget") as refused:
        parse_budget(text)
    assert "200000it" in refused.value.hint
