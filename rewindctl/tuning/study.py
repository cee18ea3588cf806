"""One search from request to conclusions: its run, its workers, its end."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from rewindctl.counting import count_of
from rewindctl.engines.local import share
from rewindctl.engines.work import Site
from rewindctl.errors import KeptError, RegistryError, RewindError
from rewindctl.files import disk_error, writing
from rewindctl.pipeline import Pipeline, labels
from rewindctl.pipeline.waiting import bring_kept
from rewindctl.registry import RunRecord, RunWriter
from rewindctl.registry import records as tag
from rewindctl.registry.binding import MisplacedError
from rewindctl.rewinding.methods import WEIGHTS
from rewindctl.specs import TuneSpec
from rewindctl.training.device import device_name, environment
from rewindctl.tuning.request import TuneRequest, asked, comparison_seeds
from rewindctl.tuning.sampling import counted
from rewindctl.tuning.storage import checked_place, default_place, shown
from rewindctl.tuning.summary import BEST, conclude, note
from rewindctl.tuning.trial import Trials
from rewindctl.tuning.workers import Remarks, Work, helpers


@dataclass(frozen=True)
class Tuned:
    """The run of a search and its conclusions, None while another worker is to draw them."""

    run: RunRecord
    best: dict[str, Any] | None
    reused: bool


def tune(pipeline: Pipeline, request: TuneRequest, reference: str) -> Tuned:
    """Search the settings of a retraining of the prune run `reference`; what is done already is kept.

    Raises: UsageError, RegistryError, RewindError when no trial ends well.
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
        pipeline.require_state(pipeline.dense_run(parent), getattr(wanted.spec, name))
    storage = storage or default_place(registry.uri)
    if not pipeline.policy.force:
        bring_kept(registry, wanted.spec.fingerprint(), pipeline.console)
    if not pipeline.policy.force and (found := _done(pipeline, wanted.spec, parent, request.trials)) is not None:
        return _reused(pipeline, found)
    site = Site(registry.uri, registry.experiment, pipeline.device_name, pipeline.data_dir, pipeline.policy)
    work = Work(
        site,
        wanted.spec.canonical(),
        parent.run_id,
        "",
        storage,
        wanted.longest,
        request.trials,
        pipeline.console.quiet,
    )
    registry.require_own_files()  # before its study is made, or gone on with
    work.search(pipeline.console.say)  # a study of another search is refused before there is a run
    opened = _open_run(pipeline, wanted.spec, parent, request.trials, storage)
    home = registry.get(opened.run_id)
    if isinstance(opened, RunRecord) and opened.finished:
        return _reused(pipeline, opened)
    trials = Trials(pipeline, wanted.spec, parent, home)
    if isinstance(opened, RunRecord):
        pipeline.console.say(f"joining  {home.short} of {home.tags.get(tag.OWNER)}")
        _join(work, trials)
        return Tuned(registry.get(home.run_id), None, reused=False)
    try:
        return _lead(work, trials, opened, request)
    except BaseException as error:
        opened.fail(error)
        raise


def _reused(pipeline: Pipeline, run: RunRecord) -> Tuned:
    pipeline.console.say(f"reused   {run.short}")
    return Tuned(run, pipeline.registry.artifacts.read_json(run, BEST), reused=True)


def _done(pipeline: Pipeline, spec: TuneSpec, parent: RunRecord, trials: int) -> RunRecord | None:
    """A finished run of this search with that many trials or more."""
    same = pipeline.registry.search(fingerprint=spec.fingerprint())
    found = [run for run in same if run.finished and run.parent_id == parent.run_id]
    enough = [run for run in found if int(run.tags.get(tag.TRIALS, "0")) >= trials]
    return max(enough, key=lambda run: run.age, default=None)


def _open_run(
    pipeline: Pipeline, spec: TuneSpec, parent: RunRecord, trials: int, storage: str
) -> RunWriter | RunRecord:
    """A run of this search to write, or the one that another process is writing or has just finished.

    Raises: RegistryError.
    """
    tags = {
        **labels.inherited(parent),
        tag.STUDY: spec.study,
        tag.STORAGE: shown(storage),
        tag.TRIALS: str(trials),
    }
    name = labels.tune_name(spec.method, parent.tags, parent.metric("compression"))
    search = pipeline.registry.search
    resume = not any(run.finished for run in search(fingerprint=spec.fingerprint()))  # a longer search: a new run
    try:
        writer = pipeline.registry.start(spec, name, parent, tags, resume=resume)
    except (KeptError, MisplacedError):
        raise
    except RegistryError:
        same = search(fingerprint=spec.fingerprint())
        running = [run for run in same if run.status == "RUNNING" and run.parent_id == parent.run_id]
        if running:
            return running[-1]
        if (found := _done(pipeline, spec, parent, trials)) is not None:
            return found
        raise
    writer.tag(tags)  # a run gone on with may have been asked for fewer trials
    _mark(writer)  # interrupted, the same command goes on with this run: its trials are its children
    return writer


def _mark(writer: RunWriter) -> None:
    try:
        with writing(writer.resume_file):
            writer.resume_file.parent.mkdir(parents=True, exist_ok=True)
            writer.resume_file.touch()
    except BaseException as error:
        writer.fail(error)
        raise


def _join(work: Work, trials: Trials) -> None:
    """Work on trials until there is none to start; whoever opened the run draws the conclusions."""
    say = trials.pipeline.console.say
    work.search(say).work(trials.objective, wait=False)
    say(f"nothing left to start; {trials.home.tags.get(tag.OWNER)} draws the conclusions when the last trial ends")


def _lead(work: Work, trials: Trials, writer: RunWriter, request: TuneRequest) -> Tuned:
    """Work, with as many helpers as asked for, until every trial has ended; then conclude."""
    pipeline = trials.pipeline
    writer.tag({tag.DEVICE: device_name(pipeline.device)})
    writer.write_json("environment.json", environment(pipeline.device))
    work = replace(work, home_run_id=writer.run_id)
    with ExitStack() as stack:
        if request.jobs > 1:
            pipeline.console = Remarks(quiet=pipeline.console.quiet)
            torch.set_num_threads(share(request.jobs))
            stack.enter_context(helpers(work, request.jobs - 1))
        search = work.search(pipeline.console.say)
        search.work(trials.objective, wait=True)
    ended = counted(search.study)
    if not any(trial.state == TrialState.COMPLETE for trial in ended):
        raise RewindError(
            f"none of {count_of(len(ended), 'trial')} of study {trials.spec.study} ended well: all diverged",
            "search lower learning rates with --space FILE",
        )
    seeds = comparison_seeds(trials.spec, request.compare_seeds)
    best = conclude(search.study, trials, writer, seeds, work.storage)
    writer.tag({tag.NOTE: note(best)})
    writer.seal()
    return Tuned(writer.finish(), best, reused=False)
