"""Several trials of one command: in turn, or at once on an engine. One that fails keeps no other from running."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from rewindctl.arithmetic import AUTO
from rewindctl.console import Console
from rewindctl.engines.local import Engine
from rewindctl.engines.run import SAME_FAILURES, Finished, run_plan
from rewindctl.engines.work import told_of
from rewindctl.errors import RewindError
from rewindctl.pipeline import Outcome, Pipeline
from rewindctl.pipeline.plan import Plan, Stage
from rewindctl.pipeline.trials import Trial, run_trial
from rewindctl.registry import Registry, RunRecord
from rewindctl.specs import DenseSpec

NOT_TRIED = RewindError("it was not tried: the others before it failed, all in the same way")
Result = Outcome | RewindError


def in_turn(pipeline: Pipeline, trials: list[Trial]) -> Iterator[Result]:
    """One trial after the other, each result as soon as it is there. After some equal failures none is tried."""
    streak: list[str] = []
    for trial in trials:
        if len(streak) >= SAME_FAILURES:
            yield NOT_TRIED
            continue
        try:
            outcome = run_trial(pipeline, trial)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plug-in's exit or cancellation is a failure too
            told = told_of(error)
            streak = [*streak, told.message] if streak[-1:] == [told.message] else [told.message]
            yield told
        else:
            streak = []
            yield outcome


@dataclass
class Work:
    """Trials as a plan: every stage under a key of its own, those that are done, and the last stage of each trial.

    The key of a run that is there is its ID, that of a stage to run its fingerprint below its parent's key: runs that
    were forced have equal fingerprints and are different parents.
    """

    registry: Registry
    force: bool = False
    precision: str = AUTO
    plan: Plan = field(default_factory=Plan)
    done: dict[str, str] = field(default_factory=dict)
    stages_of: list[list[str]] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        """Raises: RegistryError, IntegrityError when the parent's lineage leads nowhere."""
        above, run = self._ancestors(trial.parent), trial.parent
        added = []
        for spec in trial.specs:
            fingerprint = spec.fingerprint()
            key = f"{above}/{fingerprint}" if above else fingerprint
            self.plan.stages.setdefault(key, Stage(key, spec, above))
            if not self.force and (above is None or run is not None):
                run = self.registry.find(fingerprint, run, self.precision)
                self.done |= {key: run.run_id} if run else {}
            above = key
            added.append(key)
        self.stages_of.append(added)

    def _ancestors(self, parent: RunRecord | None) -> str | None:
        """The key of a parent, which is added with all that is above it."""
        above = None
        for run in self.registry.lineage(parent) if parent else ():
            self.plan.stages.setdefault(run.run_id, Stage(run.run_id, run.spec, above))
            self.done[run.run_id] = run.run_id
            above = run.run_id
        return above

    @property
    def left(self) -> list[Stage]:
        """The stages to run."""
        return [stage for key, stage in self.plan.stages.items() if key not in self.done]

    @property
    def trials_left(self) -> int:
        """The different trials that have something to run."""
        return len({stages[-1] for stages in self.stages_of if stages[-1] not in self.done})

    def denses(self) -> list[DenseSpec]:
        """The baseline of each stage to run."""
        return [self.plan.dense_of(stage) for stage in self.left]

    def run(self, engine: Engine, console: Console) -> list[Result]:
        """What became of each trial, in the order in which they were added. An interrupt is passed on."""
        finished = run_plan(self.plan, self.done, engine, console) if self.left else Finished(self.done, [], "")
        return [self._result(stages, finished) for stages in self.stages_of]

    def _result(self, stages: list[str], finished: Finished) -> Result:
        key = stages[-1]
        if key in finished.runs:
            reused = key in self.done or key in finished.reused
            return Outcome(self.registry.get(finished.runs[key]), reused)
        for failure in finished.failures:
            if failure.key in stages:
                return RewindError(failure.message, failure.hint)
        return NOT_TRIED
