"""More workers of one search on this machine: processes that run the same loop on the same storage."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from rewindctl.console import Console
from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.local import LOOK_SECONDS, Processes
from rewindctl.engines.work import ReportProgress, WorkerConfig, as_rewind_error
from rewindctl.pipeline import Pipeline
from rewindctl.registry import Registry
from rewindctl.specs import TuneSpec
from rewindctl.tuning.sampling import make_pruner, make_sampler
from rewindctl.tuning.search import Search
from rewindctl.tuning.space import distributions, space_of
from rewindctl.tuning.storage import open_storage, open_study
from rewindctl.tuning.trial import Trials


@dataclass(frozen=True)
class Work:
    """What a worker needs: the search as JSON, the prune run, the search's run, the storage, the trials wanted."""

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
def helpers(work: Work, count: int, say: Callable[[str], None]) -> Iterator[None]:
    """`count` further workers during the block; at its end they are waited for, at an error interrupted."""
    engine = Processes(work.site, count + 1, partial(Helper, work), taken=1)
    try:
        for number in range(count):
            engine.submit(Task(f"worker {number}", work.spec, work.parent_run_id))
        yield
        while count:
            for answer in engine.wait(LOOK_SECONDS):
                count -= 1
                if answer.crashed:
                    say(f"note: {answer.key}: {answer.message}; its trial is repeated")
    finally:
        engine.close()


class Helper:
    """A worker in a process of its own. An interrupt ends it: its trial is recorded and will be repeated."""

    def __init__(self, work: Work, site: WorkerConfig, report: ReportProgress) -> None:
        self.report = report
        self._work, self._console = work, Remarks(quiet=work.quiet)
        torch.set_num_threads(max(1, site.threads))
        opened = partial(Registry, site.tracking_uri, site.experiment)
        self._pipeline = Pipeline(opened, self._console, site.device, site.data_dir, site.policy)

    def run(self, task: Task) -> Answer:
        """Run trials until there is none to start; whatever ends it early ends this worker alone."""
        work = self._work
        try:
            registry = self._pipeline.registry
            parent, home = registry.get(work.parent_run_id), registry.get(work.home_run_id)
            trials = Trials(self._pipeline, TuneSpec.model_validate_json(work.spec), parent, home)
            work.search(self._console.say).work(trials.objective, wait=False)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            told = as_rewind_error(error)
            self._console.error(told)
            return Answer(task.key, message=told.message, hint=told.hint)
        return Answer(task.key)


class Remarks(Console):
    """A console of one of several workers: lines, no bars."""

    @contextmanager
    def progress(self, title: str, total: int, earlier: float = 0.0) -> Iterator[Callable[[int], None]]:
        yield lambda done: None
