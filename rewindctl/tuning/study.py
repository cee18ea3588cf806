"""One search from request to conclusions: its run, its workers, its end."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from rewindctl.counting import count_of
from rewindctl.engines.contract import Answer, Engine, Task
from rewindctl.engines.lanes import Lanes
from rewindctl.engines.local import LOOK_SECONDS, Processes, on_one_gpu, share
from rewindctl.engines.work import Reporter, ReportProgress, WorkerConfig, answer_to
from rewindctl.errors import BusyError, RegistryError, RewindError
from rewindctl.pipeline import Pipeline, labels
from rewindctl.pipeline.life import Life, live
from rewindctl.pipeline.replays import require_state
from rewindctl.registry import OwnerWatch, Registry, RunRecord, RunWriter
from rewindctl.registry import records as tag
from rewindctl.rewinding.methods import WEIGHTS
from rewindctl.specs import TuneSpec
from rewindctl.system.files import disk_error, writing
from rewindctl.tuning.request import TuneRequest, asked, comparison_seeds
from rewindctl.tuning.sampling import counted, make_pruner, make_sampler
from rewindctl.tuning.search import Search
from rewindctl.tuning.space import distributions, space_of
from rewindctl.tuning.storage import checked_place, default_place, open_storage, open_study, shown
from rewindctl.tuning.summary import BEST, conclude, note
from rewindctl.tuning.trial import SearchTrials


@dataclass(frozen=True)
class Work:
    """What a worker needs: search as JSON, prune run, run of the search, storage, search trials wanted."""

    site: WorkerConfig
    spec: str
    parent_run_id: str
    home_run_id: str
    storage: str
    longest: int
    target: int
    quiet: bool

    def search(self, say: Callable[[str], None]) -> Search:
        """Open the study of this work. Raises: RegistryError, UsageError."""
        spec = TuneSpec.model_validate_json(self.spec)
        sampler, pruner = make_sampler(spec), make_pruner(spec, self.longest)
        study = open_study(open_storage(self.storage), spec, self.parent_run_id, sampler, pruner)
        return Search(study, distributions(space_of(spec.space)), self.target, say)


@contextmanager
def helpers(work: Work, count: int, pipeline: Pipeline) -> Iterator[None]:
    """`count` workers beside `pipeline` during the block; at its end they are waited for, at an error interrupted.

    On one GPU they are threads of this process, elsewhere processes.
    """
    engine: Engine
    if on_one_gpu(work.site.device, count + 1):
        engine = Lanes(work.site, count + 1, partial(Helper, work, reports=True), pipeline)
    else:
        engine = Processes(work.site, count + 1, partial(Helper, work), taken=1)
    try:
        count = min(count, engine.slots)
        for number in range(count):
            engine.submit(Task(f"worker {number}", work.spec, work.parent_run_id))
        yield
        while count:
            for answer in engine.wait(LOOK_SECONDS):
                count -= 1
                if answer.crashed:
                    pipeline.console.say(f"note: {answer.key}: {answer.message}; its search trial is repeated")
    finally:
        engine.close()


class Helper:
    """A worker beside the caller. An interrupt ends it: its search trial is recorded and will be repeated."""

    def __init__(self, work: Work, site: WorkerConfig, report: ReportProgress, *, reports: bool = False) -> None:
        """`reports`: also while it trains; the report of a thread is what interrupts it."""
        self.report = report
        self._work, self._console = work, Remarks(report if reports else no_report, quiet=work.quiet)
        torch.set_num_threads(max(1, site.threads))
        opened = partial(Registry, site.tracking_uri, site.experiment)
        self.pipeline = Pipeline(opened, self._console, site.device, site.data_dir, site.policy)

    def run(self, task: Task) -> Answer:
        """Run search trials until there is none to start; whatever ends it early ends this worker alone."""
        self._console.key = task.key
        answer = answer_to(task.key, self._work_on)
        if answer.message:
            self._console.error(RewindError(answer.message, answer.hint))
        return answer

    def _work_on(self) -> None:
        work, registry = self._work, self.pipeline.registry
        parent, home = registry.get(work.parent_run_id), registry.get(work.home_run_id)
        trials = SearchTrials(self.pipeline, TuneSpec.model_validate_json(work.spec), parent, home)
        work.search(self._console.say).work(trials.objective, wait=False)


def no_report(key: str, done: int) -> None:
    """Where nobody looks at the progress of a search trial."""


class Remarks(Reporter):
    """A console of one of several workers: lines, no bars."""

    def __init__(self, report: ReportProgress = no_report, *, quiet: bool) -> None:
        super().__init__(report)
        self.quiet = quiet

    def pause(self, seconds: float) -> None:
        """The report is what interrupts the worker."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.report(self.key, 0)
            time.sleep(min(LOOK_SECONDS, left))


@dataclass(frozen=True)
class Tuned:
    """The run of a search and its conclusions, None while another worker is to draw them."""

    run: RunRecord
    best: dict[str, Any] | None
    reused: bool


def tune(pipeline: Pipeline, request: TuneRequest, reference: str) -> Tuned:
    """Search the settings of a retraining of the prune run `reference`; what is done already is kept.

    Raises: UsageError, RegistryError, RewindError when no search trial ends well.
    """
    try:
        return _tune(pipeline, request, reference)
    except StorageInternalError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise RegistryError(f"the study storage failed: {reason[:300]}", "the same command goes on") from None
    except OSError as error:  # the journal's; all else that is written says itself what failed
        place = Path(error.filename or request.storage or default_place(pipeline.registry.uri))
        raise disk_error(error, place) from None


def _tune(pipeline: Pipeline, request: TuneRequest, reference: str) -> Tuned:
    storage = None if request.storage is None else checked_place(request.storage, request.jobs)
    registry = pipeline.registry
    parent = registry.resolve(reference)
    dense = pipeline.dense_of(parent)
    pipeline.require_step(dense)
    wanted = asked(request, parent, dense, pipeline.dataset(dense.dataset))
    for name in WEIGHTS:
        require_state(pipeline, pipeline.dense_run(parent), getattr(wanted.spec, name))
    site = WorkerConfig(registry.uri, registry.experiment, pipeline.device_name, pipeline.data_dir, pipeline.policy)
    work = Work(
        site,
        wanted.spec.canonical(),
        parent.run_id,
        "",
        storage or default_place(registry.uri),
        wanted.longest,
        request.trials,
        pipeline.console.quiet,
    )
    leader = _Leader(pipeline, request, wanted.spec, parent, work)
    try:
        outcome = live(leader.life, pipeline)
    except BusyError as error:
        home = registry.get(error.run_id)
        if home.status != "RUNNING":
            raise
        return _join(pipeline, work, SearchTrials(pipeline, wanted.spec, parent, home))
    if outcome.reused:
        pipeline.console.say(f"reused   {outcome.run.short}")
        return Tuned(outcome.run, registry.artifacts.read_json(outcome.run, BEST), reused=True)
    return Tuned(outcome.run, leader.best, reused=False)


def _join(pipeline: Pipeline, work: Work, trials: SearchTrials) -> Tuned:
    """Work on search trials until there is none to start; whoever opened the run draws the conclusions."""
    say, home = pipeline.console.say, trials.home
    say(f"joining  {home.short} of {home.tags.get(tag.OWNER)}")
    work.search(say).work(trials.objective, wait=False)
    say(f"nothing left to start; {home.tags.get(tag.OWNER)} writes the summary when the last search trial ends")
    return Tuned(pipeline.registry.get(home.run_id), None, reused=False)


@dataclass
class _Leader:
    """Whoever opens the run of a search, and draws its conclusions: `best`."""

    pipeline: Pipeline
    request: TuneRequest
    spec: TuneSpec
    parent: RunRecord
    work: Work
    best: dict[str, Any] = field(default_factory=dict)

    @property
    def life(self) -> Life:
        find = partial(_done, self.pipeline, self.spec, self.parent, self.request.trials)
        forced = self.pipeline.policy.force
        return Life(self.spec.fingerprint(), find, self.claim, self.lead, forced=forced, wait=False)

    def claim(self, *, watch: OwnerWatch) -> RunWriter:
        """Open a run of this search. Raises: BusyError, RegistryError, UsageError."""
        registry, spec, parent = self.pipeline.registry, self.spec, self.parent
        registry.require_own_files()  # before its study is made, or gone on with
        self.work.search(self.pipeline.console.say)  # a study of another search is refused before there is a run
        name = labels.tune_name(spec.method, parent)
        resume = not any(run.finished for run in registry.search(fingerprint=spec.fingerprint()))
        return registry.start(spec, name, parent, self.tags, resume=resume, watch=watch)  # a longer search: a new run

    @property
    def tags(self) -> dict[str, str]:
        own = {tag.STUDY: self.spec.study, tag.STORAGE: shown(self.work.storage)}
        return {**labels.inherited(self.parent), **own, tag.TRIALS: str(self.request.trials)}

    def lead(self, writer: RunWriter) -> None:
        """Work, with as many helpers as asked for, until every search trial has ended; then conclude."""
        writer.tag(self.tags)  # a run gone on with may have been asked for fewer search trials
        # Interrupted, the same command goes on with this run: its search trials are the run's children.
        with writing(writer.resume_file):
            writer.resume_file.parent.mkdir(parents=True, exist_ok=True)
            writer.resume_file.touch()
        pipeline, jobs = self.pipeline, self.request.jobs
        work = replace(self.work, home_run_id=writer.run_id)
        trials = SearchTrials(pipeline, self.spec, self.parent, pipeline.registry.get(writer.run_id))
        with ExitStack() as stack:
            if jobs > 1:
                pipeline.console = Remarks(quiet=pipeline.console.quiet)
                torch.set_num_threads(share(jobs))
                stack.enter_context(helpers(work, jobs - 1, pipeline))
            search = work.search(pipeline.console.say)
            search.work(trials.objective, wait=True)
        ended = counted(search.study)
        if not any(trial.state == TrialState.COMPLETE for trial in ended):
            raise RewindError(
                f"none of {count_of(len(ended), 'search trial')} of study {self.spec.study} finished: all diverged",
                "search lower learning rates with --space FILE",
            )
        seeds = comparison_seeds(self.spec, self.request.compare_seeds)
        self.best = conclude(search.study, trials, writer, seeds, work.storage)
        writer.tag({tag.NOTE: note(self.best)})


def _done(pipeline: Pipeline, spec: TuneSpec, parent: RunRecord, trials: int) -> RunRecord | None:
    """A finished run of this search with that many search trials or more."""
    same = pipeline.registry.search(fingerprint=spec.fingerprint())
    found = [run for run in same if run.finished and run.parent_id == parent.run_id]
    enough = [run for run in found if int(run.tags.get(tag.TRIALS, "0")) >= trials]
    return max(enough, key=lambda run: run.age, default=None)
