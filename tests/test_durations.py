import time
from dataclasses import replace

import pytest

from rewindctl.durations import LONGEST_SECONDS, Deadline, parse_duration
from rewindctl.errors import LimitError, UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("9m", 540), ("2h", 7_200), ("1h30m", 5_400), ("1d", 86_400), ("1h1s", 3_601), (" 9M ", 540)],
)
def test_duration_is_read_as_written(text: str, seconds: int) -> None:
    assert parse_duration(text, "time-limit") == seconds


@pytest.mark.parametrize(
    "text", ["", "9", "0", "0s", "m", "-9m", "1.5h", "30m1h", "9x", "1m1m", "٣m", "9" * 40 + "s", "367d", "nan"]
)
def test_what_is_no_duration_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_duration(text, "time-limit")
    assert repr(text) in refused.value.message
    assert "9m" in refused.value.hint


def test_plain_number_is_asked_for_its_unit() -> None:
    with pytest.raises(UsageError) as refused:
        parse_duration("90", "budget")
    assert refused.value.message.startswith("--budget '90'")
    assert "90m for minutes" in refused.value.hint


def test_longest_duration_is_a_year() -> None:
    assert parse_duration(f"{LONGEST_SECONDS}s", "budget") == LONGEST_SECONDS


def test_a_spent_limit_has_an_exit_code_of_its_own() -> None:
    assert LimitError("half of it is done").exit_code == 3


def test_a_deadline_is_told_by_the_clock_that_is_never_set_and_elsewhere_by_the_other() -> None:
    here = Deadline.at(time.monotonic() + 1_000)
    assert 990 < here.left() <= 1_000
    assert replace(here, wall=0.0).left() > 990
    elsewhere = replace(here, boot="another machine", monotonic=0.0)
    assert 990 < elsewhere.left() <= 1_000
