"""Writing one run: params, metrics in batches, artifacts with digests, the manifest last, then closed for good."""

import json
import math
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rewindctl.errors import DiskError, RegistryError, RewindError, UsageError
from rewindctl.files import sha256, state_folder, writing
from rewindctl.registry import ownership
from rewindctl.registry.inputs import DataInput, log_inputs, log_network
from rewindctl.registry.records import ERROR, HEARTBEAT, MANIFEST, OWNER, TICKET, RunRecord
from rewindctl.registry.store import Client, StoreError
from rewindctl.temporary import temporary_folder

METRICS_PER_BATCH = 1_000  # MLflow's limit
MANIFEST_FILE = "manifest.json"


class RunWriter:
    """An open run. `finish` or `fail` closes it; after that nothing is written to it.

    Until then a heartbeat says that its process lives. Should another process have taken it for dead and taken the run
    over (a machine that slept), every write is refused.
    """

    def __init__(self, client: Client, run_id: str) -> None:
        self.run_id = run_id
        ownership.hold(run_id)
        self.digests: dict[str, dict[str, Any]] = {}
        self._client = client
        self._logged: set[tuple[str, int]] = set()
        with writing(Path(tempfile.gettempdir())):
            self._folder = temporary_folder()
        self._staging = Path(self._folder.name)
        self._open, self._sealed = True, False
        self._heartbeat = ownership.Heartbeat(client, run_id)

    @classmethod
    def reopen(cls, client: Client, run: RunRecord, ticket: int) -> "RunWriter":
        """Go on writing to an unfinished run whose process is gone; metrics that it has are not written again.

        The caller has won `ticket` (see `claim`): no other process is at it.
        """
        ownership.hold(run.run_id)
        try:
            remove_half_uploads(run.artifact_uri)
            own = {OWNER: ownership.this_process(), HEARTBEAT: ownership.now(), TICKET: str(ticket)}
            for key, value in own.items():  # before it is RUNNING: then it is ours at once
                client.set_tag(run.run_id, key, value)
            client.update_run(run.run_id, status="RUNNING")
            if ERROR in run.tags:
                client.delete_tag(run.run_id, ERROR)
            history = [(key, client.get_metric_history(run.run_id, key)) for key in run.metrics]
            writer = cls(client, run.run_id)
            writer._logged = {(key, metric.step) for key, metrics in history for metric in metrics}
            return writer
        except BaseException:
            ownership.release(run.run_id)
            raise

    @property
    def resume_file(self) -> Path:
        """Where the run's resume point is kept, on this machine: `$XDG_STATE_HOME/rewindctl/resume`."""
        return resume_file(self.run_id)

    def log_params(self, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        self._batch(params=[Param(key, value) for key, value in params.items()])

    def log_metrics(self, metrics: dict[str, float | None], step: int = 0) -> None:
        """All metrics of one step in one call; None is left out. Raises: RegistryError for NaN."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = {key: value for key, value in metrics.items() if (key, step) not in self._logged}
        present = {key: value for key, value in new.items() if value is not None}
        for key, value in present.items():
            if math.isnan(value):
                raise RegistryError(f"metric {key} at step {step} is NaN: NaN is never a result")
        self._batch(metrics=[Metric(key, float(value), now, step) for key, value in present.items()])

    def tag(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self._batch(tags=[RunTag(key, value) for key, value in tags.items()])

    def log_inputs(self, data: list[DataInput], source: RunRecord | None = None) -> None:
        """What the run is made from: parts of data sets, and the network of the run `source`."""
        self._check_open()
        log_inputs(self._client, self.run_id, data, source)

    def log_network(self, iteration: int) -> None:
        """That the run made a network, after so many iterations; its files are the run's checkpoints."""
        self._check_open()
        log_network(self._client, self.run_id, iteration)

    @contextmanager
    def artifact(self, path: str) -> Iterator[Path]:
        """A local file to write; at the end of the block it is uploaded as `path` and its digest noted."""
        self._check_open()
        if self._sealed:
            raise RegistryError(f"run {self.run_id} has its manifest: {path} comes too late")
        local = self._staging / path
        with writing(local):
            local.parent.mkdir(parents=True, exist_ok=True)
            yield local
        folder = str(Path(path).parent)
        self._client.log_artifact(self.run_id, str(local), None if folder == "." else folder)
        self.digests[path] = {"sha256": sha256(local), "size": local.stat().st_size}
        local.unlink()

    def write_json(self, path: str, value: Any) -> None:
        with self.artifact(path) as local:
            local.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")

    def seal(self) -> None:
        """Write the manifest of all artifacts, and its own digest as a tag."""
        self._check_ours()
        manifest = json.dumps({"schema": 1, "artifacts": self.digests}, indent=2, sort_keys=True) + "\n"
        local = self._staging / MANIFEST_FILE
        with writing(local):
            local.write_text(manifest)
        self._client.log_artifact(self.run_id, str(local), None)
        self.tag({MANIFEST: sha256(local)})
        self._sealed = True

    def finish(self) -> RunRecord:
        """Close the run as FINISHED; it must have been sealed."""
        self._check_open()
        if not self._sealed:
            raise RegistryError(f"run {self.run_id} has no manifest yet and cannot be finished")
        self._heartbeat.stop()
        self._check_ours()
        self._client.set_terminated(self.run_id, "FINISHED")
        self.resume_file.unlink(missing_ok=True)
        self._close()
        return RunRecord.from_mlflow(self._client.get_run(self.run_id))

    def fail(self, error: BaseException) -> None:
        """Close the run as KILLED for an interrupt or what disk or store refused, else FAILED, the reason in a tag.

        Never raises. A request that turns out to be wrong leaves no run.
        A killed run keeps its resume point: the same command goes on with it. One that another process took over is
        left to it.
        """
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        killed = interrupted or isinstance(error, DiskError | StoreError)  # neither is the stage's fault: it goes on
        reason = "interrupted" if interrupted else (error.message if isinstance(error, RewindError) else repr(error))
        self._heartbeat.stop(ownership.GIVE_UP_SECONDS)
        try:
            if self._open and self._heartbeat.check():
                self.tag({ERROR: " ".join(reason.split())[:500]})
                self._client.set_terminated(self.run_id, "KILLED" if killed else "FAILED")
                if isinstance(error, UsageError):
                    self._client.delete_run(self.run_id)
        except RewindError:
            pass  # the store is what failed; the error under way says so, and the owner tag shows the run is dead
        if not killed and self._heartbeat.taken_by is None:
            self.resume_file.unlink(missing_ok=True)
        self._close()

    def _batch(self, **entities: Iterable[Any]) -> None:
        self._check_open()
        for kind, values in entities.items():
            rows = list(values)
            step = METRICS_PER_BATCH if kind == "metrics" else 100
            for start in range(0, len(rows), step):
                self._client.log_batch(self.run_id, **{kind: rows[start : start + step]})

    def _check_open(self) -> None:
        if not self._open:
            raise RegistryError(f"run {self.run_id} is closed and cannot be written to", "make a new run with --force")
        if self._heartbeat.taken_by is not None:
            other = ownership.shown(self._heartbeat.taken_by)
            raise RegistryError(
                f"run {self.run_id} was {f'taken over by {other}' if other else 'ended by another process'}: "
                "this one gave no sign of life for too long",
                "nothing finished is lost: the same command finds it, or waits for it",
            )

    def _check_ours(self) -> None:
        """As `_check_open`, with a look at the store instead of at what the last beat found."""
        if self._open:
            self._heartbeat.check()
        self._check_open()

    def _close(self) -> None:
        self._open = False
        ownership.release(self.run_id)
        with suppress(OSError):
            self._folder.cleanup()


def remove_half_uploads(artifact_uri: str) -> None:
    """Remove what a killed process left beside the artifacts of a run: MLflow hides it, and keeps it for ever."""
    parts = urlsplit(artifact_uri)
    if parts.scheme in ("", "file"):
        for path in Path(unquote(parts.path)).rglob(".artifact.uploading.*"):
            path.unlink(missing_ok=True)


def resume_file(run_id: str) -> Path:
    """The resume point of a run; there only while the run is not finished."""
    return state_folder() / "resume" / f"{run_id}.safetensors"
