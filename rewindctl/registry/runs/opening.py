"""Opening the run of a stage: made, claimed against other processes, new or gone on with, its spec written."""

import getpass
import json
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rewindctl.errors import KeptError
from rewindctl.registry import records as tag
from rewindctl.registry.claiming import claim, ownership
from rewindctl.registry.claiming.ownership import Lease, OwnerWatch
from rewindctl.registry.delivery.outbox import Entry, Outbox
from rewindctl.registry.records import RunRecord
from rewindctl.registry.runs import stored_point
from rewindctl.registry.runs.writer import RunWriter, resume_file
from rewindctl.registry.store import failures
from rewindctl.registry.store.client import Client
from rewindctl.registry.store.failures import AwayError, DeniedError, StoreError
from rewindctl.specs import SCHEMA_VERSION, Spec
from rewindctl.system import processes
from rewindctl.system.files import require_state_folder

LONGEST_PARAM = 6_000  # characters; MLflow cuts what is longer


@dataclass(frozen=True)
class Opening:
    """A request to open the run of a stage."""

    client: Client
    experiment_id: str
    spec: Spec
    name: str
    parent: RunRecord | None
    tags: dict[str, str]
    machine: stored_point.Machine | None = None  # None: stored resume points are not used

    def open(self, look: claim.Look, everyone: claim.Look, watch: OwnerWatch, resume: bool) -> RunWriter:
        """The run to write to; what `Registry.start` does. `look` reads all runs of the stage, `everyone` those of its
        fingerprint: under other parents, and in other precisions.

        Raises: BusyError; DiskError; KeptError when this machine has the stage's results, and only has to upload them.
        """
        require_state_folder()  # before work is done that could not be kept
        claim.refuse_if_busy(look, watch)
        began = processes.clock()  # it is made with a heartbeat
        lease = Lease(self.client, create_run(self.client, self.experiment_id, self._tags, self.name), began)
        try:
            writer = self._claim(lease, look, everyone, watch, resume)
        except BaseException:
            withdraw(self.client, lease.run_id)
            raise
        if writer.run_id != lease.run_id:
            withdraw(self.client, lease.run_id)
        self._describe(writer)
        return writer

    @cached_property
    def _tags(self) -> dict[str, str]:
        """What the run says of itself from its first moment."""
        own = {
            **common_tags(getattr(self.spec, "kind")),  # noqa: B009 (each spec has it)
            tag.FINGERPRINT: self.spec.fingerprint(),
            tag.GROUP: self.spec.group(self.parent.group if self.parent else None),
            **tag.spec_tags(self.spec.canonical()),
        }
        if self.parent is not None:
            own |= {tag.PARENT: self.parent.run_id, tag.DENSE_RUN: self.parent.dense_run_id}
        elif (project := project_run(self.client)) is not None:
            own[tag.PARENT] = project
        return {**own, **self.tags}

    def _claim(self, mine: Lease, look: claim.Look, everyone: claim.Look, watch: OwnerWatch, resume: bool) -> RunWriter:
        """Win the stage with the run of a lease, and open it or the one to go on with. Raises: BusyError."""
        ticket, others = claim.win(self.client, mine.run_id, look, everyone, watch)
        for run in others if resume else ():
            if run.finished:  # since the caller looked for one
                raise claim.busy(run)
        boxes = {run.run_id: Outbox.find(run.run_id) for run in others if tag.COPIED not in run.tags}
        done = {run_id: str(box.folder) for run_id, box in boxes.items() if box and box.complete}
        for run_id, folder in done.items() if resume else ():
            raise KeptError(run_id, folder, "this stage is finished but not uploaded")
        if resume:
            self._bring_points(mine.run_id, others)
        left = [run for run in others if run.status in ("RUNNING", "KILLED") and resume_file(run.run_id).is_file()]
        chosen = max(left, key=lambda run: run.age) if left and resume else None
        for run in others:
            if run is not chosen and run.run_id not in done:
                with mine.writing(ask=True):
                    self._close_abandoned(run, boxes.get(run.run_id))
        about = about_of(self.spec.fingerprint(), self.name, forced=not resume)
        if chosen:
            return RunWriter.reopen(self.client, chosen, ticket, about, mine)
        return RunWriter(self.client, mine.run_id, about, self._tags, mine.beaten)

    def _bring_points(self, mine: str, others: list[RunRecord]) -> None:
        """Download resume points that the store has. It may take long: meanwhile a heartbeat keeps the run `mine`."""
        stored = [run for run in others if run.status in ("RUNNING", "KILLED") and tag.RESUME_POINT in run.tags]
        if not stored or self.machine is None:
            return
        heartbeat = ownership.Heartbeat(self.client, mine)
        try:
            for run in stored:
                stored_point.bring(self.client, run, resume_file(run.run_id), self.machine)
        finally:
            heartbeat.stop(ownership.GIVE_UP_SECONDS)

    def _close_abandoned(self, run: RunRecord, box: Outbox | None) -> None:
        """Close a run that nobody goes on with, where its process ended without closing it."""
        if box is not None:
            box.remove()
        if run.status in ("RUNNING", "KILLED") and tag.RESUME_POINT in run.tags:
            with suppress(StoreError):  # else gc removes it with the run
                stored_point.drop(self.client, run.run_id)
        if run.status != "RUNNING":
            return
        if claim.is_choosing(run):  # it never was anybody's
            take_back(self.client, run.run_id)
        else:
            self.client.set_terminated(run.run_id, "KILLED")

    def _describe(self, writer: RunWriter) -> None:
        try:
            if self.parent is None:
                writer.tag({tag.DENSE_RUN: writer.run_id})
            spec = writer.own_spec(self.spec)
            writer.log_params(params_of(spec))
            writer.write_json("spec.json", json.loads(spec.canonical()))
        except BaseException as error:
            writer.fail(error)
            raise


def open_report(client: Client, experiment_id: str, name: str, note: str) -> RunWriter:
    """A new run of kind `report`, to write to."""
    tags = {**common_tags(tag.REPORT), tag.NOTE: note}
    if (project := project_run(client)) is not None:
        tags[tag.PARENT] = project
    run = client.create_run(experiment_id, tags=tags, run_name=name)
    return RunWriter(client, run.info.run_id, about_of("", name, forced=True), tags)


def project_run(client: Client) -> str | None:
    """The run of `mlflow run`, where we are inside one: what has no parent of ours is nested in it in the MLflow UI."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    try:
        there = run_id and client.get_run(run_id).info.lifecycle_stage == "active"
        return run_id if there else None
    except StoreError:
        return None  # of another store, or gone: the variable is left from elsewhere


def take_back(client: Client, run_id: str) -> None:
    """Delete a run that no process worked on; close it as KILLED where the user may not delete. Raises: StoreError."""
    try:
        client.delete_run(run_id)
    except DeniedError:
        client.set_terminated(run_id, "KILLED")


def withdraw(client: Client, run_id: str) -> None:
    """Take back a run that this process made and wrote nothing to."""
    try:
        take_back(client, run_id)
    except StoreError:
        pass  # the next process at this stage finds that nobody holds it
    finally:
        ownership.release(run_id)


def create_run(client: Client, experiment_id: str, tags: dict[str, str], name: str) -> str:
    """A new run that this process holds; its ID. A store that is unreachable is asked again, and makes no two of them.

    A run whose making was not answered is nobody's as soon as this returns or raises: the next look clears it away.
    """
    deadline = time.monotonic() + failures.limit_seconds()
    while True:
        choosing = f"{claim.CHOOSING}{uuid.uuid4().hex}"
        ownership.hold(choosing)
        try:
            run = client.create_run(experiment_id, tags={tag.TICKET: choosing, **tags}, run_name=name)
            ownership.hold(run.info.run_id)
            return str(run.info.run_id)
        except AwayError:
            if time.monotonic() >= deadline:
                raise
        finally:
            ownership.release(choosing)
        time.sleep(failures.RETRY_SECONDS)


def about_of(fingerprint: str, name: str, *, forced: bool) -> Entry:
    """What an outbox says of a run, to be read while its store is unreachable."""
    return {"fingerprint": fingerprint, "name": name, "forced": forced}


def common_tags(kind: str) -> dict[str, str]:
    """What every run of ours says of itself from its first moment."""
    return {
        tag.KIND: kind,
        tag.SCHEMA: str(SCHEMA_VERSION),
        tag.OWNER: ownership.this_process(),
        tag.HEARTBEAT: ownership.now(),
        "mlflow.source.name": "rewindctl",
        "mlflow.source.type": "LOCAL",
        tag.USER: _user(),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"  # a container's user need not have a name


def params_of(spec: Spec) -> dict[str, str]:
    """Every field as text; tuples joined by commas, None as `none`.

    A text that is longer than MLflow keeps ends with how many values there are: `spec.json` has them.
    """
    return {key: _short(_text(value), value) for key, value in spec.fields().items()}


def _short(text: str, value: Any) -> str:
    if len(text) <= LONGEST_PARAM:
        return text
    end = f",... ({len(value):,} values)" if isinstance(value, list) else "..."
    return text[: LONGEST_PARAM - len(end)] + end


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return ",".join(str(item) for item in value) if isinstance(value, list) else str(value)
