"""Where a study is kept: places, damage, and names that belong to another search."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from rewindctl.errors import IntegrityError, RegistryError, UsageError
from rewindctl.specs import TuneSpec
from rewindctl.system.processes import interrupt, raise_if_interrupted
from rewindctl.tuning.sampling import make_pruner, make_sampler
from rewindctl.tuning.storage import checked_place, default_place, open_storage, open_study, shown


def spec(**changes: object) -> TuneSpec:
    fields = {
        "parent_fingerprint": "0" * 64,
        "study": "a",
        "method": "finetune",
        "space": '{"lr":{"high":0.1,"log":true,"low":1e-05,"type":"float"}}',
        "seeds": (0,),
        "holdout_fraction": 0.1,
        "holdout_seed": 0,
        "evaluate_every": 1,
        "sampler_seed": 0,
        "startup_trials": 4,
        "pruner": "halving",
    }
    return TuneSpec(**(fields | changes))


def study(place: str, of: TuneSpec, parent: str = "p" * 32) -> optuna.Study:
    return open_study(open_storage(place), of, parent, make_sampler(of), make_pruner(of, 16))


def test_the_journal_is_beside_a_sqlite_store_and_the_users_own_for_a_server(tmp_path: Path) -> None:
    assert default_place(f"sqlite:///{tmp_path}/mlflow.db") == str(tmp_path / "optuna-journal.log")
    places = {default_place(f"http://{host}:5000") for host in ("user:secret@a", "other:word@a", "b")}
    assert len(places) == 2, "one journal a server, whoever asks"
    assert all(place.startswith(str(tmp_path / "state")) and "secret" not in place for place in places)


def test_sqlite_is_refused_for_several_workers() -> None:
    assert checked_place("sqlite:///a.db", 1) == "sqlite:///a.db"
    with pytest.raises(UsageError, match="SQLite does not support several workers"):
        checked_place("sqlite:///a.db", 2)
    assert checked_place("postgresql://a/b", 9) == "postgresql://a/b"
    assert Path(checked_place("a.log", 9)).is_absolute()


def test_a_password_is_not_shown() -> None:
    assert "secret" not in shown("postgresql://user:secret@host/db")


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_a_study_is_there_again_by_its_name(tmp_path: Path, kind: str) -> None:
    place = str(tmp_path / "deep" / "a.log") if kind == "journal" else f"sqlite:///{tmp_path}/a.db"
    first = study(place, spec())
    first.tell(first.ask(), 0.5)
    again = study(place, spec())
    assert [trial.value for trial in again.trials] == [0.5]
    assert study(place, spec(study="b")).trials == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "lr_rewind"}, "its method is 'finetune', now 'lr_rewind'"),
        ({"seeds": (0, 1)}, r"its seeds is \[0\], now \[0, 1\]"),
        ({"holdout_seed": 5}, "its holdout_seed is 0, now 5"),
        ({"pruner": "none"}, "its pruner is 'halving', now 'none'"),
        ({"parent_fingerprint": "1" * 64}, "its parent_fingerprint"),
    ],
)
def test_a_name_of_another_search_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    place = str(tmp_path / "a.log")
    study(place, spec())
    with pytest.raises(UsageError, match=words):
        study(place, spec(**change))


def test_the_same_mask_made_again_is_another_search(tmp_path: Path) -> None:
    place = str(tmp_path / "a.log")
    study(place, spec())
    with pytest.raises(UsageError, match=f"its parent is run {'p' * 32}"):
        study(place, spec(), "q" * 32)


def test_a_study_of_somebody_else_is_refused(tmp_path: Path) -> None:
    foreign = optuna.create_study(study_name="a", storage=open_storage(str(tmp_path / "a.log")))
    foreign.tell(foreign.ask(), 1.0)
    with pytest.raises(UsageError, match="was not made by rewindctl tune"):
        study(str(tmp_path / "a.log"), spec())


@pytest.mark.parametrize("directions", [["minimize"], ["maximize", "maximize"]])
def test_a_study_of_another_aim_is_refused(tmp_path: Path, directions: list[str]) -> None:
    place = str(tmp_path / "a.log")
    optuna.create_study(study_name="a", storage=open_storage(place), directions=directions)
    with pytest.raises(UsageError, match="does not maximise one value"):
        study(place, spec())


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_journal_that_ends_in_half_a_line_goes_on(tmp_path: Path, cut: int) -> None:
    place = tmp_path / "a.log"
    first = study(str(place), spec())
    first.tell(first.ask(), 0.5)
    lines = place.read_bytes().splitlines(keepends=True)
    place.write_bytes(b"".join(lines[:-1]) + lines[-1][:-cut])
    again = study(str(place), spec())
    assert len(again.trials) == 1
    again.tell(again.ask(), 0.25)
    assert study(str(place), spec()).trials[1].value == 0.25


DAMAGES = {
    "not a journal": b"a letter\nin two lines\n",
    "not text": bytes(range(256)) + b"\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "a.log").write_bytes(DAMAGES[damage])
    with pytest.raises(RegistryError, match=r"a\.log cannot be used"):
        study(str(tmp_path / "a.log"), spec())


ALTERED = {
    "an owner": ("owner", 7),
    "a sign of life": ("beat", "soon"),
    "a sign of life that is no number": ("beat", float("nan")),
    "a repetition": ("repeats", 99),
    "a repetition that is no number": ("repeats", "x"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_a_trial_that_says_what_none_of_ours_does_is_named(tmp_path: Path, what: str) -> None:
    first = study(str(tmp_path / "a.log"), spec())
    first.ask().set_user_attr(*ALTERED[what])
    with pytest.raises(IntegrityError, match="trial 0 of study 'a' was altered"):
        study(str(tmp_path / "a.log"), spec())


@pytest.mark.parametrize("place", ["sqlite:////no/such/folder/a.db", "nosuchdb://a/b", "/proc/a/b.log"])
def test_a_place_that_cannot_be_opened_is_named(place: str) -> None:
    with pytest.raises(RegistryError, match="cannot be used"):
        open_storage(place)


def test_a_lock_that_a_killed_process_was_giving_back_goes(tmp_path: Path) -> None:
    dead, fresh = (tmp_path / f"journal.log.lock{name}.rename" for name in ("1a", "2b"))
    for path in (dead, fresh):
        path.symlink_to("nowhere")
    os.utime(dead, (0, 0), follow_symlinks=False)
    study(str(tmp_path / "journal.log"), spec())
    assert not dead.is_symlink()
    assert fresh.is_symlink(), "its process may be about to remove it"


@contextmanager
def interrupted_at(line: int, code_of: Callable[..., Any], fired: list[int]) -> Iterator[None]:
    """Ctrl-C before the given one of the lines that run in the file of a function, counted from 0."""
    file = code_of.__code__.co_filename
    seen = iter(range(10**6))

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != file:
            return None
        if event == "line" and next(seen) == line:
            fired.append(line)
            signal.raise_signal(signal.SIGINT)
        return trace

    before, tracer = signal.signal(signal.SIGINT, interrupt), sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(tracer)
        signal.signal(signal.SIGINT, before)
        with suppress(KeyboardInterrupt):
            raise_if_interrupted()  # it was not dropped, and no later training is to end by it


def test_an_interrupt_at_any_line_of_a_write_leaves_the_journal_whole_and_unlocked(tmp_path: Path) -> None:
    place = tmp_path / "a.log"
    opened = study(str(place), spec())
    for line in range(1000):
        fired: list[int] = []
        try:
            with interrupted_at(line, JournalFileBackend.append_logs, fired):
                opened.set_user_attr("line", line)
        except KeyboardInterrupt:
            assert fired
        else:
            assert not fired, "an interrupt is not lost"
            break
        assert [path.name for path in tmp_path.glob("a.log*")] == ["a.log"], f"a lock is left, line {line}"
        assert place.read_bytes().endswith(b"\n")
        assert study(str(place), spec()).user_attrs["line"] == line, "what was begun was written"
    assert line > 20


def test_a_setting_outside_its_interval_is_named(tmp_path: Path) -> None:
    journal = tmp_path / "a.log"
    first = study(str(journal), spec()).ask()
    drawn = first.suggest_float("lr", 1e-5, 0.1, log=True)
    study(str(journal), spec())
    text = journal.read_text()
    assert str(drawn) in text
    journal.write_text(text.replace(str(drawn), "5.0"))
    with pytest.raises(IntegrityError, match="trial 0 of study 'a' was altered"):
        study(str(journal), spec())
