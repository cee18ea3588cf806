"""Data goes to stdout, talk to stderr, and an error is two lines."""

import contextlib
import json
import math
import os
import sys

import pytest

from rewindctl import console
from rewindctl.console import Console, OutputStyle
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


def test_a_log_gets_a_line_now_and_then_and_not_one_a_step(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LOG_SECONDS", 0.0)
    with Console().progress("resnet[8] C:\\runs", 3) as progressed:
        for done in range(4):
            progressed(done)
    err = capsys.readouterr().err.splitlines()
    assert [line.partition(", ")[0] for line in err[:-1]] == [
        f"resnet[8] C:\\runs: {n} of 3 iterations" for n in (1, 2)
    ]
    assert all(line.endswith(" left") for line in err[:-1])
    assert "3 iterations in" in err[-1]
    monkeypatch.setattr(console, "LOG_SECONDS", math.inf)
    with Console().progress("training", 100) as progressed:
        for done in range(101):
            progressed(done)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_board_that_nothing_ends_on_says_now_and_then_that_it_is_at_work(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds, lines in ((math.inf, 0), (0.0, 2)):
        with Console().board(60) as board:
            monkeypatch.setattr(console, "BOARD_SECONDS", seconds)
            for _ in range(2):
                board.update(3, 2, 51.2, 600.0)
        err = capsys.readouterr().err.splitlines()
        assert err == ["[3/60, 51.2 it/s, 0:10:00 left] 2 running"] * lines


@pytest.mark.parametrize("columns", ["40", "80"])
def test_what_is_said_on_a_terminal_is_text_not_markup_and_is_whole(
    monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", columns)
    text = f"failed   C:\\runs\\[x] [red]{'3f2a9c41' * 4}[/red] again and again and again"
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Console().board(2) as board:
            board.line(text)
        with Console().progress("[bold]a\\[b]", 2) as progressed:
            progressed(2)
    shown = everything(ours)
    assert text in shown
    assert "[bold]a\\[b" in shown.replace("\r", "")


LOOKS = [
    ({}, False),
    ({"FORCE_COLOR": "1"}, True),
    ({"FORCE_COLOR": "1", "TERM": "xterm"}, True),
    ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ({"NO_COLOR": ""}, False),
    ({"FORCE_COLOR": "", "TERM": "xterm"}, False),
]


@pytest.mark.parametrize(("environment", "bold"), LOOKS, ids=[" ".join(case[0]) or "none" for case in LOOKS])
def test_bold_is_for_terminals_and_for_who_asks(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], bold: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert OutputStyle.of_stdout().colour is bold  # captured: no terminal


@pytest.mark.parametrize(
    ("no_color", "term", "bold"), [("", "xterm", True), ("1", "xterm", False), ("", "dumb", False)]
)
def test_a_terminal_gets_bold_unless_it_cannot_or_must_not(
    monkeypatch: pytest.MonkeyPatch, no_color: str, term: str, bold: bool
) -> None:
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", no_color)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert OutputStyle.of_stdout().colour is bold
    os.close(ours)
