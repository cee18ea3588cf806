"""Writing one run: params, metrics in batches, artifacts with digests, the manifest last, then closed for good.

A store that goes away meanwhile gets everything afterwards (`delivery`, `outbox`), or by `rewindctl recover`.
"""

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rewindctl.errors import DiskError, KeptError, LimitError, NotHereError, RegistryError, RewindError, UsageError
from rewindctl.registry.claiming import ownership
from rewindctl.registry.delivery.outbox import END, FILE, Entry, Outbox
from rewindctl.registry.delivery.sender import Delivery
from rewindctl.registry.records import (
    ERROR,
    HEARTBEAT,
    MANIFEST,
    OWNER,
    RECORD,
    RESUME_POINT,
    TICKET,
    RunRecord,
    spec_text,
)
from rewindctl.registry.roots.binding import MisplacedError
from rewindctl.registry.runs import stored_point
from rewindctl.registry.runs.inputs import DataInput
from rewindctl.registry.runs.manifest import MANIFEST_FILE, RECORD_FILE, make_record
from rewindctl.registry.runs.reading import read
from rewindctl.registry.store import failures
from rewindctl.registry.store.address import local_path
from rewindctl.registry.store.client import Client
from rewindctl.registry.store.failures import AwayError, StoreError
from rewindctl.specs import Spec, parse_spec
from rewindctl.system import processes
from rewindctl.system.files import sha256, state_folder, writing
from rewindctl.system.safe_text import scrubbed
from rewindctl.system.temporary import temporary_folder


class RunWriter:
    """An open run. `finish` or `fail` closes it; after that nothing is written to it.

    Until then a heartbeat says that its process lives. Should another process have taken it for dead and taken the run
    over (a machine that slept), every write is refused. An unreachable store holds nothing up: what is written then is
    kept on disk and delivered later; only `finish` waits for it.
    """

    def __init__(
        self,
        client: Client,
        run_id: str,
        about: Entry | None = None,
        tags: Mapping[str, str] | None = None,
        beaten: float = ownership.NEVER,
    ) -> None:
        """`about` is what an outbox says of the run besides its ID and its store, `tags` what the run has already.

        `beaten`: see `Lease`.
        """
        self.run_id = run_id
        ownership.hold(run_id)
        self.digests: dict[str, dict[str, Any]] = {}
        self.found: dict[str, str] = {}  # the tags of a run that is gone on with, as they were
        self._client = client.impatient()
        self._tags, self._points = dict(tags or {}), dict[str, dict[int, tuple[int, float]]]()
        self._began, self._clock = time.time() * 1000, processes.clock()
        with writing(Path(tempfile.gettempdir())):
            self._folder = temporary_folder()
        self._staging = Path(self._folder.name)
        self._open, self._manifest = True, ""
        self._stored = False  # whether the store may have a resume point of it
        self._heartbeat = ownership.Heartbeat(self._client, run_id, beaten)
        self._post = Delivery(self._client, run_id, self._heartbeat, about or {})

    @classmethod
    def reopen(
        cls,
        client: Client,
        run: RunRecord,
        ticket: int,
        about: Entry | None = None,
        claim: ownership.Lease | None = None,
    ) -> "RunWriter":
        """Go on writing to an unfinished run whose process is gone; metrics that it has are not written again.

        The caller has won `ticket` (see `claim`) with the run of the lease `claim`: no other process is at it.
        """
        ownership.hold(run.run_id)
        beaten = processes.clock()
        try:
            with claim.writing(ask=True) if claim else nullcontext():
                own = {OWNER: ownership.this_process(), HEARTBEAT: ownership.now(), TICKET: str(ticket)}
                for key, value in own.items():  # before it is RUNNING: then it is ours at once
                    client.set_tag(run.run_id, key, value)
                remove_half_uploads(run.artifact_uri)  # after the first that a store whose files are another's refuses
                client.update_run(run.run_id, status="RUNNING")
                if ERROR in run.tags:
                    client.delete_tag(run.run_id, ERROR)
            box = Outbox.find(run.run_id)
            writer = cls(client, run.run_id, about, beaten=beaten)
            writer.found, writer._stored = run.tags, RESUME_POINT in run.tags
            writer._began = max(writer._began, run.started)
            try:
                writer._catch_up(box)
            except BaseException:
                writer._close()
                raise
            return writer
        except BaseException:
            ownership.release(run.run_id)
            raise

    def _catch_up(self, box: Outbox | None) -> None:
        """Deliver what the run's last process had kept, and see what the store has. Raises: StoreError."""
        if box is not None:
            files = [entry for entry in box.entries if entry["do"] == FILE and entry["path"] != MANIFEST_FILE]
            self.digests = {entry["path"]: {"sha256": entry["sha256"], "size": entry["size"]} for entry in files}
            self._manifest = box.entries[-1]["manifest"] if box.complete else ""
            self._post.use(box)
            self._post.flush()
        data = self._client.get_run(self.run_id).data
        self._tags = dict(data.tags)
        for key in data.metrics:
            points = self._client.get_metric_history(self.run_id, key)
            self._points[key] = {point.step: (point.timestamp, point.value) for point in points}
            self._began = max([self._began, *(point.timestamp for point in points)])

    @property
    def resume_file(self) -> Path:
        """Where the run's resume point is kept, on this machine: `$XDG_STATE_HOME/rewindctl/resume`."""
        return resume_file(self.run_id)

    def own_spec(self, asked: Spec) -> Spec:
        """The spec that the run was opened with: one that is gone on with keeps what it was to record.

        Raises: IntegrityError.
        """
        text = spec_text(self.found) or asked.canonical()
        return asked if text == asked.canonical() else parse_spec(text, f"the spec of run {self.run_id}")

    def log_params(self, params: dict[str, str]) -> None:
        self._send({"do": "params", "rows": list(params.items())})

    def log_metrics(self, metrics: dict[str, float | None], step: int = 0) -> None:
        """All metrics of one step in one call; None is left out. Raises: RegistryError for NaN and infinity."""
        new = {key: value for key, value in metrics.items() if step not in self._points.get(key, {})}
        present = {key: float(value) for key, value in new.items() if value is not None}
        for key, value in present.items():
            if not math.isfinite(value):
                shown = "NaN" if math.isnan(value) else value
                raise RegistryError(f"metric {key} at step {step} is {shown}: not a valid result")
        now = self._now()
        self._send({"do": "metrics", "rows": [[key, value, now, step] for key, value in present.items()]})
        for key, value in present.items():
            self._points.setdefault(key, {})[step] = now, value

    def tag(self, tags: dict[str, str]) -> None:
        self._send({"do": "tags", "rows": list(tags.items())})
        self._tags |= tags

    def log_inputs(self, data: list[DataInput], source: RunRecord | None = None) -> None:
        """What the run is made from: parts of data sets, and the network of the run `source`."""
        parts = [asdict(part) for part in data]
        self._send({"do": "inputs", "data": parts, "source": source.run_id if source else None})

    def log_network(self, iteration: int) -> None:
        """That the run made a network, after so many iterations; its files are the run's checkpoints."""
        self._send({"do": "network", "iteration": iteration})

    @contextmanager
    def artifact(self, path: str) -> Iterator[Path]:
        """A local file to write; at the end of the block it is uploaded as `path` and its digest noted."""
        self._check_open()
        if self._manifest:
            raise RegistryError(f"run {self.run_id} has its manifest already: {path} cannot be added")
        local = self._staging / path
        with writing(local):
            local.parent.mkdir(parents=True, exist_ok=True)
            yield local
        self.digests[path] = {"sha256": sha256(local), "size": local.stat().st_size}
        self._send({"do": FILE, "path": path, **self.digests[path]}, local)

    def write_json(self, path: str, value: Any) -> None:
        with self.artifact(path) as local:
            local.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")

    def store_point(self, made_on: Mapping[str, str]) -> None:
        """Put the resume point of this machine, made where `made_on` says, into the artifact store too.

        May be called beside all else that is written. Raises: RegistryError, DiskError.
        """
        self._check_open()
        local = self._staging / stored_point.POINT
        with writing(local):
            stored_point.wrap(self.resume_file, local, made_on)
        if self._post.box is not None:  # looked at after the copy was made: what it builds on is here, not there
            raise StoreError(self._client.absence)
        with self._heartbeat.writing(ask=True):
            if not self._stored:
                self._client.set_tag(self.run_id, RESUME_POINT, stored_point.POINT)
                self._stored = True
            self._client.log_artifact(self.run_id, str(local), stored_point.FOLDER)

    def _drop_stored_point(self, say: Callable[[str], None]) -> None:
        """Before the run is closed: nothing is changed afterwards. Raises: AwayError."""
        try:
            if self._stored:
                with self._heartbeat.writing(ask=True):
                    stored_point.drop(self._client, self.run_id)
                self._stored = False
        except AwayError:
            raise
        except StoreError as error:
            say(f"note: the resume point of run {self.run_id} stays in the store: {error.message}")

    def seal(self) -> None:
        """Write the record and the manifest of all artifacts, and the digests of both as tags. Nothing follows."""
        with suppress(AwayError):  # whose it is shows before what is kept is delivered
            self._check_open()
            self._heartbeat.require(ask=True)
        record = make_record(self._tags, self._points)
        with self.artifact(RECORD_FILE) as local:
            local.write_text(record.text())
        manifest = json.dumps({"schema": 1, "artifacts": self.digests}, indent=2, sort_keys=True) + "\n"
        local = self._staging / MANIFEST_FILE
        with writing(local):
            local.write_text(manifest)
        digest, size = sha256(local), local.stat().st_size
        self._send({"do": FILE, "path": MANIFEST_FILE, "sha256": digest, "size": size}, local)
        self.tag({MANIFEST: digest, RECORD: record.digest()})
        self._manifest = digest

    def finish(self, say: Callable[[str], None] = lambda text: None) -> RunRecord:
        """Close the run as FINISHED; it must have been sealed. `say` is told when an unreachable store is retried.

        Raises: KeptError when it is not back after `$REWINDCTL_OUTAGE_SECONDS`, MisplacedError when it was moved; the
        results are then kept on disk.
        """
        self._check_open()
        if not self._manifest:
            raise RegistryError(f"run {self.run_id} has no manifest yet and cannot be finished")
        box = self._post.box
        end = box.entries[-1] if box and box.complete else self._end_entry()
        record, deadline = None, None
        while record is None:
            try:
                record = self._ended() if deadline else None
                record = record or self._end(end, say)
            except AwayError:
                if deadline is None:
                    self._keep(end)
                    limit = failures.limit_seconds()
                    say(f"{self._client.absence}; retrying for {limit:g} s, the results are on disk")
                    deadline = time.monotonic() + limit
                elif time.monotonic() >= deadline:
                    raise self._kept() from None
                time.sleep(failures.RETRY_SECONDS)
            except MisplacedError:  # whoever relocates it has them brought there
                self._keep(end)
                raise
        self._post.drop()
        self.resume_file.unlink(missing_ok=True)
        self._close()
        return record

    def _end_entry(self) -> Entry:
        return {"do": END, "at": self._now(), "manifest": self._manifest}

    def _end(self, end: Entry, say: Callable[[str], None]) -> RunRecord:
        self._post.flush()
        self._heartbeat.stop()
        self._drop_stored_point(say)
        self._post.deliver(end)
        return read(self._client, self.run_id)

    def _ended(self) -> RunRecord | None:
        """The run, where its end had reached the store though no answer came."""
        run = read(self._client, self.run_id)
        return run if run.finished and run.tags.get(MANIFEST) == self._manifest else None

    def _keep(self, end: Entry) -> None:
        """From here on a killed process loses nothing."""
        if self._post.box is None or not self._post.box.complete:
            self._post.keep(end)

    def _kept(self) -> KeptError:
        assert self._post.box is not None
        why = f"{self._client.absence}, retried for {failures.limit_seconds():g} s"
        return KeptError(self.run_id, str(self._post.box.folder), why)

    def fail(self, error: BaseException) -> None:
        """Close the run as KILLED for an interrupt, an end of time or what disk, store or machine refused, else FAILED.

        The reason is in a tag.

        Never raises. A request that turns out to be wrong leaves no run.
        A killed run keeps its resume point: the same command goes on with it. One that another process took over is
        left to it.
        """
        interrupted = isinstance(error, KeyboardInterrupt)  # an exit is a plug-in's, which ends no command of ours
        # None of these is the stage's fault: it goes on.
        killed = interrupted or isinstance(error, DiskError | StoreError | MisplacedError | LimitError | NotHereError)
        reason = "interrupted" if interrupted else (error.message if isinstance(error, RewindError) else repr(error))
        self._heartbeat.stop(ownership.GIVE_UP_SECONDS)
        if self._open and self._post.box is not None and self._post.box.complete:
            self._close()  # it did not fail: its store did
            return
        ours = self._open
        try:
            if ours:
                self._post.flush()
                with self._heartbeat.writing(ask=True):
                    self._client.set_tag(self.run_id, ERROR, " ".join(scrubbed(reason).split())[:500])
                    if not killed:
                        self._drop_stored_point(lambda text: None)
                    self._client.set_terminated(self.run_id, "KILLED" if killed else "FAILED")
                if isinstance(error, UsageError):
                    self._client.delete_run(self.run_id)
        except RewindError:
            # The store is what failed; the error under way says so, and the owner tag shows that the run is dead.
            ours = self._heartbeat.is_fresh
        if not killed and ours:
            self.resume_file.unlink(missing_ok=True)
            self._post.drop()
        self._close()

    def _now(self) -> int:
        """Unix milliseconds, by a clock that is not set anew: no point of the run is after its end.

        On another machine, whose clock is behind, time goes on from what the run has.
        """
        return int(self._began + (processes.clock() - self._clock) * 1000)

    def _send(self, entry: Entry, local: Path | None = None) -> None:
        self._check_open()
        self._post.send(entry, local)
        if local is not None:
            local.unlink(missing_ok=True)

    def check_ours(self) -> None:
        """Before files of the run on this machine are replaced, which a process elsewhere may share.

        Raises: RegistryError where the run is another's, as far as the store can be asked.
        """
        self._check_open()
        if self._post.box is None:
            with suppress(AwayError):
                self._heartbeat.require()

    def _check_open(self) -> None:
        if not self._open:
            raise RegistryError(f"run {self.run_id} is closed and cannot be written to", "make a new run with --force")
        if self._heartbeat.taken_by is not None:
            self._heartbeat.require()  # raises

    def _close(self) -> None:
        self._open = False
        self._heartbeat.stop(ownership.GIVE_UP_SECONDS)
        self._post.close()
        ownership.release(self.run_id)
        with suppress(OSError):
            self._folder.cleanup()


def remove_half_uploads(artifact_uri: str) -> None:
    """Remove what a killed process left beside the artifacts of a run: MLflow hides it, and keeps it for ever."""
    folder = local_path(artifact_uri)
    for path in folder.rglob(".artifact.uploading.*") if folder is not None else ():
        path.unlink(missing_ok=True)


def resume_file(run_id: str) -> Path:
    """The resume point of a run; there only while the run is not finished."""
    return state_folder() / "resume" / f"{run_id}.safetensors"
