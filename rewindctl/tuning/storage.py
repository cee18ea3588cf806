"""Where Optuna keeps a study (a journal file that several workers may write, or a database), and its removal."""

import hashlib
import json
import logging
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import TrialState

from rewindctl.console import Console
from rewindctl.errors import IntegrityError, RegistryError, UsageError
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.store.address import sqlite_path
from rewindctl.specs import TuneSpec
from rewindctl.system.files import disk_hint, require_state_folder, state_folder
from rewindctl.system.processes import hold_interrupts
from rewindctl.system.safe_text import redacted, remember, scrubbed

JOURNAL = "optuna-journal.log"
DEAD_LOCK_SECONDS = 60.0
SPEC, PARENT = "rewindctl.spec", "rewindctl.parent_run_id"
DAMAGED = (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, RecursionError)
OWNER, BEAT, REPEATS = "owner", "beat", "repeats"  # of a search trial


def default_place(tracking_uri: str) -> str:
    """A journal beside a SQLite store; for a server, one of its own in the user's state folder."""
    store = sqlite_path(tracking_uri)
    if store is not None:
        return str(store.with_name(JOURNAL))
    name = hashlib.sha256(redacted(tracking_uri).encode()).hexdigest()[:12]
    return str(state_folder() / "optuna" / f"{name}.log")


def checked_place(place: str, jobs: int) -> str:
    """A path made absolute, a URL as it is. Raises: UsageError for several workers on SQLite."""
    remember(place)
    if "://" not in place:
        return str(Path(place).expanduser().absolute())
    if place.lower().startswith(("sqlite:", "sqlite+")) and jobs > 1:
        raise UsageError(
            f"--jobs {jobs} on {shown(place)}: SQLite does not support several workers",
            "give --storage a path: a journal file",
        )
    return place


def shown(place: str) -> str:
    """The place without a password; what `optuna-dashboard` takes."""
    return redacted(place)


def open_storage(place: str) -> BaseStorage:
    """Raises: RegistryError when it cannot be opened or is damaged."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    try:
        if "://" in place:
            return RDBStorage(place)
        if Path(place).is_relative_to(state_folder()):
            require_state_folder()
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        _remove_dead_locks(Path(place))
        mend(Path(place))
        return JournalStorage(_Journal(place))
    except Exception as error:  # SQLAlchemy, drivers, JSON, the file system: each has errors of its own
        reason = next((scrubbed(line) for line in str(error).splitlines() if line.strip()), type(error).__name__)
        otherwise = "give --storage another path, or the URL of a database"
        raise RegistryError(
            f"the study storage {shown(place)} cannot be used: {reason[:300]}",
            disk_hint(error, otherwise) if isinstance(error, OSError) else otherwise,
        ) from None


class _Journal(JournalFileBackend):
    """Optuna's lock, broken into as it is given back, stays behind, and says that a file is missing."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with hold_interrupts():
            super().append_logs(logs)


def _remove_dead_locks(journal: Path) -> None:
    """A lock that is given back is renamed, then removed: a process killed between the two leaves it for ever."""
    for path in journal.parent.glob(f"{journal.name}.lock*.rename"):
        with suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime > DEAD_LOCK_SECONDS:  # a living process is about to remove it
                path.unlink()


def mend(journal: Path) -> None:
    """Cut off the half line that a power loss left at the end: what comes after it could not be read."""
    if not journal.is_file() or journal.stat().st_size == 0:
        return
    with journal.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() == b"\n":
            return
    lock = JournalFileSymlinkLock(str(journal))
    with hold_interrupts():
        lock.acquire()  # another worker may be in the middle of a line
        try:
            data = journal.read_bytes()
            if not data.endswith(b"\n"):
                os.truncate(journal, data.rfind(b"\n") + 1)
        finally:
            lock.release()


def open_study(
    storage: BaseStorage, spec: TuneSpec, parent_run_id: str, sampler: BaseSampler, pruner: BasePruner
) -> optuna.Study:
    """The study of `spec`, made where it is missing.

    Raises: UsageError when the name is that of another search; IntegrityError for a damaged one.
    """
    try:
        return _opened(storage, spec, parent_run_id, sampler, pruner)
    except DAMAGED as error:  # a last line that is none shows when the next one is written
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise IntegrityError(
            f"the storage of study {spec.study!r} is damaged: {reason[:300]}", "restore it, or give another --storage"
        ) from None


def _opened(
    storage: BaseStorage, spec: TuneSpec, parent_run_id: str, sampler: BaseSampler, pruner: BasePruner
) -> optuna.Study:
    study = optuna.create_study(
        study_name=spec.study,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        sampler=sampler,
        pruner=pruner,
    )
    known = study.user_attrs
    if SPEC not in known and study.get_trials(deepcopy=False):
        raise UsageError(f"study {spec.study!r} was not made by rewindctl tune", "choose another --study")
    if study.directions != [StudyDirection.MAXIMIZE]:  # neither its search trials nor the search could end
        raise UsageError(f"study {spec.study!r} does not maximise one value", "choose another --study")
    if SPEC not in known:
        study.set_user_attr(PARENT, parent_run_id)
        study.set_user_attr(SPEC, spec.canonical())
        return study
    try:
        difference = _difference(known, spec, parent_run_id)
    except (ValueError, TypeError, AttributeError, RecursionError):  # whoever can write the storage can write anything
        difference = "its attributes do not describe a search of rewindctl"
    if difference:
        raise UsageError(
            f"study {spec.study!r} is another search: {difference}", "give the same options, or another --study"
        )
    _check_trials(study)
    return study


def _check_trials(study: optuna.Study) -> None:
    """Raises: IntegrityError for a search trial that says what none of ours does: what follows counts on it."""
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        notes = trial.user_attrs
        right = isinstance(notes.get(OWNER, ""), str) and _is_number(notes.get(BEAT, 0.0))
        right = right and notes.get(REPEATS, 0) in range(len(trials)) and _is_number(trial.value or 0.0)
        right = right and all(fits(value, trial.distributions[name]) for name, value in trial.params.items())
        if not right or (trial.state == TrialState.COMPLETE and trial.value is None):
            raise IntegrityError(
                f"search trial {trial.number} of study {study.study_name!r} was altered",
                "restore its storage from a backup",
            )


def fits(value: Any, among: BaseDistribution) -> bool:
    """Whether a setting is a number that may be drawn from `among`; a logarithm and back may miss an end a little."""
    if isinstance(among, CategoricalDistribution):
        return _is_number(value) and value in among.choices
    if not (isinstance(among, FloatDistribution | IntDistribution) and _is_number(value)):
        return False
    return among.low <= value <= among.high or any(math.isclose(value, end) for end in (among.low, among.high))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _difference(known: dict[str, Any], spec: TuneSpec, parent_run_id: str) -> str | None:
    if known.get(PARENT) != parent_run_id:
        return f"its parent is run {known.get(PARENT)}"
    before, now = json.loads(known[SPEC]), spec.fields()
    for key in sorted(set(before) | set(now)):
        if before.get(key) != now.get(key):
            return f"its {key} is {before.get(key)!r:.150}, now {now.get(key)!r:.150}"
    return None


def forget_study(registry: Registry, run: RunRecord, console: Console) -> None:
    """Delete the study of the search `run` from its storage, unless another run of the same search is there.

    Raises: RegistryError when the storage cannot be opened.
    """
    study, place = run.tags.get(tag.STUDY), run.tags.get(tag.STORAGE)
    if run.kind != "tune" or study is None or place is None or _has_others(registry, run):
        return
    if "***" in place:
        console.say(f"note: study {study} stays in {place}, whose password is not kept")
        return
    if "://" not in place and not Path(place).is_file():
        return  # never written, removed by hand, or another machine's
    if tag.COPIED in run.tags and place != default_place(registry.uri):
        console.say(
            f"note: study {study} stays in {place}: it belongs to the original store, of which this one is a copy"
        )
        return
    storage = open_storage(place)
    try:
        found = optuna.load_study(study_name=study, storage=storage)
    except KeyError:
        return
    if found.user_attrs.get(PARENT) == run.parent_id:
        optuna.delete_study(study_name=study, storage=storage)


def _has_others(registry: Registry, run: RunRecord) -> bool:
    same = registry.search(kind="tune", fingerprint=run.fingerprint)
    return any(other.run_id != run.run_id and other.parent_id == run.parent_id for other in same)
