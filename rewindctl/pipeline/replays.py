"""States of a training that it did not record: made again from the nearest earlier one, with the same bytes.

Every batch is a function of seed and position, so a training gone on with from any of its states ends with the bytes
of the unbroken one, where device and software are those that it was made with. A finished run stays closed: what is
made again is an artifact of a run of its own, of kind `replay`, whose parent is the training.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rewindctl.errors import IntegrityError, UsageError
from rewindctl.fused.pairs import missing_part
from rewindctl.pipeline.pipeline import Pipeline
from rewindctl.pipeline.requests import require_kind
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.runs.manifest import CHECKPOINTS, FINAL
from rewindctl.specs import DenseSpec, ReplaySpec, RetrainSpec
from rewindctl.training.device import environment
from rewindctl.training.records import Evaluation

# What else decides bytes, as `environment.json` names it. Threads are set to those of the run.
DECIDING = ("device", "cpu_capability", "cuda", "cudnn")


@dataclass(frozen=True)
class States:
    """The available states of a training: for each iteration, the run that has the file."""

    training: RunRecord
    runs: dict[int, RunRecord]

    @classmethod
    def of(cls, registry: Registry, training: RunRecord) -> "States":
        """Its own, and those that were made again of it. Raises: IntegrityError, RegistryError."""
        made_again = [run for run in registry.children(training) if run.kind == "replay" and run.finished]
        runs = {run.spec.iteration: run for run in made_again if isinstance(run.spec, ReplaySpec)}
        present = {iteration: run for iteration, run in runs.items() if iteration in _own(registry, run)}
        return cls(training, present | dict.fromkeys(_own(registry, training), training))

    @property
    def iterations(self) -> int:
        """The updates of the training."""
        spec = self.training.spec
        assert isinstance(spec, DenseSpec | RetrainSpec)
        return spec.iterations

    def nearest(self, iteration: int) -> int | None:
        """The last state before `iteration`; None when only the start of the training is before it."""
        return max((known for known in self.runs if known < iteration), default=None)

    def cost(self, iteration: int) -> int:
        """The updates that replaying to a state takes; 0 for an available one."""
        return 0 if iteration in self.runs else iteration - (self.nearest(iteration) or 0)

    def refusal(self, iteration: int, why: str) -> UsageError:
        """The error for a state that is missing and not replayed; its hint lists the available states."""
        points = ", ".join(str(known) for known in sorted(self.runs)) or "none here"
        training = f"{self.training.kind} run {self.training.run_id}"
        left_out = tag.OMITTED in self.training.tags
        missing = "not here: its checkpoints were left out at export" if left_out else "not recorded"
        return UsageError(
            f"iteration {iteration} of {training} is {missing}{why}",
            f"recorded: {points}; or train it again with that iteration among --rewind-points",
        )


def replay_of(pipeline: Pipeline, training: RunRecord, iteration: int) -> RunRecord | ReplaySpec:
    """The run that has the state of a finished training at an iteration, itself or a replay, or the replay to make.

    Raises: UsageError.
    """
    require_kind(training, "dense", "retrain")
    states = States.of(pipeline.registry, training)
    if not 0 <= iteration <= states.iterations:
        raise UsageError(
            f"--iteration {iteration} is outside the {states.iterations} iterations of run {training.run_id}",
            f"give an iteration from 0 to {states.iterations}",
        )
    return states.runs.get(iteration) or replay_spec(pipeline, states, iteration)


def replay_spec(pipeline: Pipeline, states: States, iteration: int) -> ReplaySpec:
    """The replay to an iteration from the nearest earlier state. Raises: UsageError where it cannot be made here."""
    _require_replayable(pipeline, states, iteration)
    spec = states.training.spec
    assert isinstance(spec, DenseSpec | RetrainSpec)
    return ReplaySpec(
        parent_fingerprint=spec.fingerprint(),
        iteration=iteration,
        from_iteration=states.nearest(iteration) or 0,
        evaluate_every=spec.evaluate_every,
    )


def require_state(pipeline: Pipeline, training: RunRecord, iteration: int | None) -> None:
    """Raises: UsageError when a training has no state of an iteration and cannot replay it."""
    states = None if iteration is None else States.of(pipeline.registry, training)
    if states is not None and iteration not in (None, states.iterations, *states.runs):
        assert iteration is not None
        _require_replayable(pipeline, states, iteration)


def _require_replayable(pipeline: Pipeline, states: States, iteration: int) -> None:
    if not pipeline.policy.replay:
        raise states.refusal(iteration, "")
    if why := difference(pipeline.registry, states.training, pipeline.device):
        raise states.refusal(iteration, f", and cannot be recomputed here: {why}")


def _own(registry: Registry, run: RunRecord) -> set[int]:
    """The iterations whose states are among the files of a run; the last one's file has no number."""
    files = {path for path in registry.manifest(run) if path.startswith(CHECKPOINTS)} - registry.artifacts.omitted(run)
    numbers = [re.fullmatch(rf"{CHECKPOINTS}([0-9]+)\.safetensors", path) for path in files]
    last = {run.spec.iterations} if FINAL in files and isinstance(run.spec, DenseSpec | RetrainSpec) else set()
    return {int(match[1]) for match in numbers if match} | last


def difference(registry: Registry, run: RunRecord, device: torch.device) -> str:
    """Why this process cannot reproduce the bytes of `run`; empty if it can."""
    if device.type == "cuda" and run.tags.get(tag.DETERMINISTIC) != str(True):
        return "it was trained without --deterministic"
    if run.tags.get(tag.STEP) == "fused" and (why := missing_part(device)):
        return f"its updates were computed by the fused kernels: {why}"
    there, here = registry.artifacts.read_json(run, "environment.json"), environment(device)
    pairs = {key: (_plain(there.get(key)), _plain(here[key])) for key in DECIDING}
    pairs["torch"] = tuple(str(one.get("packages", {}).get("torch")) for one in (there, here))  # type: ignore[assignment]
    for key, (was, is_now) in pairs.items():
        if was != is_now:
            return f"{key} was {was}, here it is {is_now}"
    return ""


def _plain(value: Any) -> str:
    """A device without its number of threads, which is set."""
    return re.sub(r" \([0-9]+ threads?\)$", "", str(value))


@contextmanager
def threads_of(registry: Registry, run: RunRecord, device: torch.device) -> Iterator[None]:
    """Use as many threads as the run did, since the thread count changes sums on a CPU."""
    before = torch.get_num_threads()
    wanted = registry.artifacts.read_json(run, "environment.json").get("threads", before)
    if device.type != "cpu" or not isinstance(wanted, int) or not 0 < wanted <= 1024:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare(registry: Registry, training: RunRecord, evaluations: tuple[Evaluation, ...]) -> None:
    """Compare the replay with the training at an iteration that both evaluated.

    Raises: IntegrityError, since another loss means other bytes.
    """
    losses = registry.curve(training, "test_loss")
    for evaluation in evaluations:
        was = losses.get(evaluation.iteration)
        if was is not None and was != evaluation.test_loss:
            raise IntegrityError(
                f"the replay of {training.kind} run {training.run_id} differs from its training: at iteration "
                f"{evaluation.iteration} the test loss is {evaluation.test_loss}, it was {was}",
                "rewind to a recorded iteration, or train it again with --rewind-points",
            )
