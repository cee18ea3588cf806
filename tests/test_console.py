"""Data goes to stdout, talk to stderr, and an error is two lines."""

import contextlib
import json
import math
import os
import sys

import pytest

from rewindctl.console import Console
from rewindctl.errors import RewindError

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("quiet", [False, True])
def test_data_goes_to_stdout_alone(capsys: Capture, quiet: bool) -> None:
    Console(quiet=quiet).data("3f2a")
    assert capsys.readouterr() == ("3f2a\n", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_json_is_one_line_on_stdout(capsys: Capture, quiet: bool) -> None:
    value = {"a": [1, None, 0.1], "text": "two\nlines, ünder"}
    Console(quiet=quiet).json(value)
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    assert json.loads(out) == value


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_is_not_json_and_nothing_is_printed(capsys: Capture, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Console().json({"loss": value})
    assert capsys.readouterr() == ("", "")


def test_remarks_go_to_stderr_and_quiet_keeps_them_back(capsys: Capture) -> None:
    Console().say("done")
    assert capsys.readouterr() == ("", "done\n")
    Console(quiet=True).say("done")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_error_is_two_lines_on_stderr_quiet_or_not(capsys: Capture, quiet: bool) -> None:
    Console(quiet=quiet).error(RewindError("no run\n 'x'\tin  the store", "list\nthem"))
    assert capsys.readouterr() == ("", "error: no run 'x' in the store\nhint: list them\n")


def test_error_without_a_hint_is_one_line(capsys: Capture) -> None:
    Console().error(RewindError("no"))
    assert capsys.readouterr() == ("", "error: no\n")


def test_progress_away_from_a_terminal_is_one_line_at_the_end(capsys: Capture) -> None:
    with Console().progress("training", 1_200) as progressed:
        for done in range(1_201):
            progressed(done)
        assert capsys.readouterr() == ("", "")
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("training: 1,200 iterations in ")
    assert err.endswith(" it/s)\n")


def test_quiet_progress_says_nothing(capsys: Capture) -> None:
    with Console(quiet=True).progress("training", 10) as progressed:
        progressed(10)
    assert capsys.readouterr() == ("", "")


def test_progress_that_fails_does_not_say_that_it_ended(capsys: Capture) -> None:
    with pytest.raises(RuntimeError, match="stop"), Console().progress("training", 10) as progressed:  # noqa: PT012
        progressed(3)
        raise RuntimeError("stop")
    assert capsys.readouterr() == ("", "")


def everything(terminal: int) -> str:
    """What was written to a terminal whose other end is closed."""
    chunks = []
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while chunk := os.read(terminal, 65_536):
            chunks.append(chunk)
    os.close(terminal)
    return b"".join(chunks).decode()


def test_progress_on_a_terminal_shows_title_count_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Console().progress("training", 40) as progressed:
            progressed(1)
            progressed(40)
    shown = everything(ours)
    assert "training" in shown
    assert "40/40" in shown
    assert "it/s" in shown
