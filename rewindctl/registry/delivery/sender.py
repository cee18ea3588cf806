"""Entries of a run brought to its store: at once, or in their order when a store that was unreachable is back.

Delivery is idempotent: without an answer, the store may still have stored the entry.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rewindctl.errors import DiskError
from rewindctl.registry.claiming.ownership import Heartbeat
from rewindctl.registry.delivery.outbox import END, FILE, Entry, Outbox
from rewindctl.registry.roots.binding import MisplacedError
from rewindctl.registry.runs.inputs import DataInput, log_inputs, log_network
from rewindctl.registry.store.client import Client
from rewindctl.registry.store.failures import AwayError, despite_conflicts
from rewindctl.system import processes

METRICS_PER_BATCH = 1_000  # MLflow's limits
OTHERS_PER_BATCH = 100
LOCK_SECONDS = 60.0  # a `recover` looks at an outbox for a moment; one that was stopped keeps it
LOOK_SECONDS = 0.05
UNREACHED = (AwayError, MisplacedError)  # the store took nothing; what it was to take is worth keeping


def deliver(client: Client, run_id: str, entry: Entry, local: Path | None) -> None:
    """Carry out one entry. `local`: the file of a `file` entry. Raises: AwayError, StoreError."""
    despite_conflicts(lambda: _carry_out(client, run_id, entry, local))


def _carry_out(client: Client, run_id: str, entry: Entry, local: Path | None) -> None:
    match entry["do"]:
        case "params" | "tags" | "metrics":
            log_rows(client, run_id, entry["do"], entry["rows"])
        case "inputs":
            log_inputs(client, run_id, [DataInput(**part) for part in entry["data"]], entry["source"])
        case "network":
            log_network(client, run_id, entry["iteration"])
        case "register":
            pass  # kept by an earlier version: a run is registered when it is finished
        case kind if kind == FILE:
            folder = str(Path(entry["path"]).parent)
            client.log_artifact(run_id, str(local), None if folder == "." else folder)
        case kind if kind == END:
            client.set_terminated(run_id, "FINISHED", entry["at"])


def log_rows(client: Client, run_id: str, kind: str, rows: Iterable[Sequence[Any]]) -> None:
    """Write `params` or `tags` (key, value) or `metrics` (key, value, time, step), in batches that MLflow takes.

    Metrics carry their times: MLflow's SQL stores keep a point that they have, with its time, only once.
    """
    from mlflow.entities import Metric, Param, RunTag

    make: dict[str, Any] = {"params": Param, "tags": RunTag, "metrics": Metric}
    made = [make[kind](*row) for row in rows]
    size = METRICS_PER_BATCH if kind == "metrics" else OTHERS_PER_BATCH
    for start in range(0, len(made), size):
        client.log_batch(run_id, **{kind: made[start : start + size]})


class Delivery:
    """Sends the entries of a run to its store, or keeps them in an outbox while it is unreachable.

    The first that finds the store away, or moved, opens an outbox; from then on nothing is sent until the heartbeat has
    reached the store again, so that a training stands still once at most.
    """

    def __init__(self, client: Client, run_id: str, heartbeat: Heartbeat, about: Entry) -> None:
        self.box: Outbox | None = None
        self._client, self._run_id, self._heartbeat, self._about = client, run_id, heartbeat, about
        self._sent, self._away = 0, 0.0

    def send(self, entry: Entry, local: Path | None = None) -> None:
        """Deliver an entry, or keep it. Raises: StoreError for what the store refuses."""
        if self.box is None:
            try:
                self.deliver(entry, local)
                return
            except UNREACHED:
                self._away = processes.clock()
        self.keep(entry, local)
        if self._heartbeat.beaten > self._away:  # it takes writes again
            with suppress(*UNREACHED):
                self.flush()

    def deliver(self, entry: Entry, local: Path | None = None) -> None:
        """Raises: StoreError; RegistryError when another process has the run."""
        with self._heartbeat.writing(ask=entry["do"] in (FILE, END)):  # what cannot be taken back
            deliver(self._client, self._run_id, entry, local)

    def keep(self, entry: Entry, local: Path | None = None) -> None:
        """Keep an entry on this machine's disk for later. Raises: DiskError."""
        if self.box is None:
            if (left := Outbox.find(self._run_id)) is not None:
                self.use(left)  # of an earlier life of the run, unless another process is at it
                self.drop()
            self.use(Outbox.make(self._run_id, {"uri": self._client.display_uri, **self._about}))
        assert self.box is not None
        self.box.append(entry, local)

    def use(self, box: Outbox) -> None:
        """Continue an outbox after locking it. Raises: DiskError when another process uses it or has emptied it."""
        deadline = time.monotonic() + LOCK_SECONDS
        while not box.lock():
            if not box.folder.is_dir():
                raise DiskError(
                    f"what was kept in {box.folder} is gone: another process has uploaded it",
                    "run the same command again: it finds the uploaded results",
                )
            if time.monotonic() >= deadline:
                raise DiskError(
                    f"{box.folder} cannot be written: another process is using it",
                    "wait until rewindctl recover ends, then run the same command again",
                )
            time.sleep(LOOK_SECONDS)
        self.box, self._sent = box, 0

    def flush(self) -> None:
        """Deliver the kept entries, except the end of the run. Raises: as `deliver`; IntegrityError."""
        if self.box is None:
            return
        try:
            self._heartbeat.require(ask=True)
            for entry in self.box.entries[self._sent :]:
                if entry["do"] != END:
                    self.deliver(entry, self.box.local(entry))
                    self._sent += 1
        except UNREACHED:
            self._away = processes.clock()
            raise
        if not self.box.complete:
            self.drop()

    def drop(self) -> None:
        """Delete the queue: delivered or obsolete."""
        if self.box is not None:
            self.box.remove()
            self.close()

    def close(self) -> None:
        """Unlock the kept entries, so that another process can deliver them."""
        if self.box is not None:
            self.box.unlock()
        self.box = None
