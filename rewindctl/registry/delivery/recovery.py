"""Results that were kept on this machine when their store was unreachable: listed, and brought to it, each once."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rewindctl.counting import count_of
from rewindctl.errors import BusyError, IntegrityError, RegistryError, RewindError, UsageError
from rewindctl.registry import records as tag
from rewindctl.registry.claiming import claim
from rewindctl.registry.claiming.ownership import Lease, OwnerWatch, now, this_process
from rewindctl.registry.delivery.outbox import Outbox, is_kept, kept_folder
from rewindctl.registry.experiments import experiment_of
from rewindctl.registry.models import model_of, unregistered, unregistered_text
from rewindctl.registry.records import RunRecord
from rewindctl.registry.registry import Registry
from rewindctl.registry.runs.opening import about_of, create_run, withdraw
from rewindctl.registry.runs.writer import RunWriter
from rewindctl.registry.store.address import absolute_uri, is_there
from rewindctl.specs import DenseSpec
from rewindctl.system.safe_text import redacted

State = Literal["uploaded", "registered", "ready", "there", "superseded", "unfinished", "busy", "failed"]
STAGE = (tag.KIND, tag.FINGERPRINT, tag.GROUP, tag.PARENT, tag.DENSE_RUN, tag.SCHEMA)


@dataclass(frozen=True)
class Recovered:
    """The outcome for the results in `folder`.

    `uploaded` now, or `there` since an earlier upload; `registered` now, a baseline that was no version of its model;
    `ready` for either (nothing was to be changed); `superseded` by a run that another process finished meanwhile;
    `unfinished`: the run's own command goes on with it; `busy`: a process is at them, or at their stage; `failed`: see
    `hint`. After the first two and `superseded` nothing is left here; what only had to be registered has no folder.
    """

    run_id: str
    name: str
    uri: str
    folder: str
    state: State
    text: str
    hint: str = ""
    lost: bool = False  # there is no such run any more


def recover(tracking_uri: str | None, *, dry_run: bool = False, fingerprint: str | None = None) -> list[Recovered]:
    """Upload all that is kept here, or what is kept of one stage, to the stores that it was made for.

    `tracking_uri` (None: as for every command) has the credentials of the store that it names.
    """
    found = []
    for folder, box in _boxes():
        if isinstance(box, Outbox):
            if fingerprint in (None, box.header["fingerprint"]):
                found.append(_recover(box, tracking_uri, dry_run))
        elif fingerprint is None:
            found.append(Recovered(folder.name, "", "", str(folder), "failed", box.message, box.hint))
    return found


def _boxes() -> Iterator[tuple[Path, Outbox | IntegrityError]]:
    """Each folder of results that wait here, with its outbox, or the error for one that was altered."""
    for folder in sorted(kept_folder().glob("*")) if kept_folder().is_dir() else ():
        with suppress(FileNotFoundError):  # its owner has just said everything
            if is_kept(folder):
                try:
                    box: Outbox | IntegrityError = Outbox(folder)
                except IntegrityError as error:
                    box = error
                yield folder, box


def register_rest(registry: Registry, *, dry_run: bool = False) -> list[Recovered]:
    """Register the finished baselines of an experiment that have no model version yet.

    A training that could not register its baseline is not affected: anyone with the right can do it here later.
    """
    found = []
    sound = [run for run in registry.search(kind="dense") if not run.damage]  # of others `verify` tells
    for run in unregistered(registry.client, sound):
        one: dict[str, Any] = {"run_id": run.run_id, "name": run.name, "uri": registry.display_uri, "folder": ""}
        model = model_of(run)
        try:
            if not dry_run:
                registry.register(run)
            text = f"is {'no' if dry_run else 'a'} version of {model}{' yet' if dry_run else ''}"
            found.append(Recovered(**one, state="ready" if dry_run else "registered", text=text))
        except RewindError as error:
            found.append(
                Recovered(**one, state="failed", text=f"is no version of {model}: {error.message}", hint=error.hint)
            )
    return found


def kept() -> Counter[str]:
    """Number of runs whose results wait here, by store ('' for altered results). Changes nothing."""
    return Counter(str(box.header["uri"]) if isinstance(box, Outbox) else "" for _, box in _boxes())


def _recover(box: Outbox, tracking_uri: str | None, dry_run: bool) -> Recovered:
    header = box.header
    one: dict[str, Any] = {"run_id": header["run_id"], "name": header["name"], "uri": header["uri"]}
    one["folder"] = str(box.folder)
    try:
        if not box.lock():
            return Recovered(**one, state="busy", text="another process is working on it")
        if not box.complete:
            return Recovered(
                **one, state="unfinished", text="is not fully trained: the command that made it resumes it"
            )
        if dry_run:
            box.check()
            size = sum(path.stat().st_size for path in box.folder.rglob("*") if path.is_file())
            return Recovered(
                **one, state="ready", text=f"is whole: {count_of(len(box.entries), 'entry', 'entries')}, {size:,} bytes"
            )
        state, text = _upload(box, _address(box, tracking_uri))
        return Recovered(**one, state=state, text=text)
    except BusyError as error:
        return Recovered(**one, state="busy", text=error.message)
    except RewindError as error:
        lost = isinstance(error, UsageError)  # there is no such run, or it was deleted
        restore = f"restore it (mlflow runs restore --run-id {header['run_id']}), or delete {box.folder}"
        return Recovered(**one, state="failed", text=error.message, hint=restore if lost else error.hint, lost=lost)
    finally:
        box.unlock()


def _address(box: Outbox, tracking_uri: str | None) -> str:
    """Where to upload to; no password was ever kept. Raises: RegistryError where one is missing, or the store is."""
    given, kept = absolute_uri(tracking_uri), absolute_uri(box.header["uri"])
    if redacted(given) == kept and is_there(given):
        return given
    if "***" in kept:
        raise RegistryError(
            f"the tracking store {kept} needs a user and a password", "give its whole address with --tracking-uri"
        )
    if is_there(kept):
        return kept
    if _has(given, box.header["run_id"]):  # moved: no other store has such a run
        return given
    raise RegistryError(f"the store {kept} no longer exists", "if it was moved, give its --tracking-uri")


def _has(uri: str, run_id: str) -> bool:
    """Whether there is a store with that run. Raises: RegistryError."""
    try:
        return is_there(uri) and bool(experiment_of(uri, run_id))
    except UsageError:
        return False


def _upload(box: Outbox, uri: str) -> tuple[State, str]:
    run_id, manifest = box.header["run_id"], box.entries[-1]["manifest"]
    registry = Registry(uri, experiment_of(uri, run_id))
    run = registry.get(run_id)
    if run.finished:
        if run.tags.get(tag.MANIFEST) != manifest:
            raise IntegrityError(
                f"run {run_id} is finished, but its results differ from those in {box.folder}",
                "compare both; delete the folder if the run is right",
            )
        box.remove()
        return "there", "was uploaded before"
    box.check()
    if not box.header["forced"] and (other := _rival(registry, run)) is not None:
        registry.mark_killed(run_id)
        box.remove()
        return "superseded", f"run {other.run_id} finished the same stage first: these results were dropped"
    box.unlock()  # the writer's now
    writer = regain(registry, run, about_of(run.fingerprint, run.name, forced=box.header["forced"]))
    try:
        finished = writer.finish()
    except BaseException as error:
        writer.fail(error)  # which leaves what is kept
        raise
    if finished.kind == "dense" and isinstance(spec := finished.spec, DenseSpec):  # a report has none
        try:
            registry.register(finished)
        except RegistryError as error:  # told again by whoever looks for such runs
            return "uploaded", unregistered_text(spec, error)
    return "uploaded", "is finished"


def _rival(registry: Registry, run: RunRecord) -> RunRecord | None:
    """A run of the same stage that was finished while ours could not be."""
    same = registry.same_stage(run.fingerprint, run.parent_id)
    return next((other for other in same if other.finished and not other.damage and other.run_id != run.run_id), None)


def regain(registry: Registry, run: RunRecord, about: dict[str, Any]) -> RunWriter:
    """Open an unfinished run again, its stage won against every other process. Raises: BusyError, StoreError."""
    if about["forced"]:
        return RunWriter.reopen(registry.client, run, claim.ticket_of(run), about)
    look = partial(registry.same_stage, run.fingerprint, run.parent_id)
    everyone = partial(registry.search, fingerprint=run.fingerprint)
    own = {key: run.tags[key] for key in STAGE if key in run.tags} | tag.spec_tags(tag.spec_text(run.tags))
    own |= {tag.OWNER: this_process(), tag.HEARTBEAT: now()}
    mine = create_run(registry.client, registry.experiment_id, own, run.name)
    try:
        ticket, others = claim.win(registry.client, mine, look, everyone, OwnerWatch())
        for other in others:
            if other.finished:  # since we looked
                raise claim.busy(other)
        return RunWriter.reopen(registry.client, run, ticket, about, Lease(registry.client, mine))
    finally:
        withdraw(registry.client, mine)
