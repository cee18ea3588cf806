"""The study of a search that is removed: left in its storage, the same search would find its trials done."""

from pathlib import Path

import optuna

from rewindctl.console import Console
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.tuning.storage import PARENT, default_place, open_storage


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
        console.say(f"note: study {study} stays in {place}: it is the original's, whose store was copied")
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
