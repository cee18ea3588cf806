"""More workers of one search on this machine: processes that run the same loop on the same storage."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess

import torch

from rewindctl.console import Console
from rewindctl.engines.local import devices, share
from rewindctl.engines.work import Site
from rewindctl.errors import RewindError
from rewindctl.pipeline import Pipeline
from rewindctl.processes import interrupt
from rewindctl.registry import Registry
from rewindctl.specs import TuneSpec
from rewindctl.tuning.sampling import make_pruner, make_sampler
from rewindctl.tuning.search import Search
from rewindctl.tuning.space import distributions, space_of
from rewindctl.tuning.storage import open_storage, open_study
from rewindctl.tuning.trial import Trials

GRACE_SECONDS = 60


@dataclass(frozen=True)
class Work:
    """What a worker needs: the search as JSON, the prune run, the search's run, the storage, the trials wanted."""

    site: Site
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
def helpers(work: Work, count: int) -> Iterator[None]:
    """`count` further workers during the block; at its end they are waited for, at an error interrupted."""
    context = multiprocessing.get_context("spawn")
    jobs = count + 1
    sites = [replace(work.site, device=one, threads=share(jobs)) for one in devices(work.site.device, jobs)[1:]]
    processes: list[BaseProcess] = [
        context.Process(target=_help, args=(replace(work, site=site),), name=f"worker-{index}")
        for index, site in enumerate(sites)
    ]
    for process in processes:
        process.start()
    try:
        yield
        for process in processes:
            process.join()
    finally:
        for process in processes:
            _end(process)


def _end(process: BaseProcess) -> None:
    """As Ctrl-C does: the trial under way is recorded and will be repeated."""
    if process.is_alive():
        process.terminate()
        process.join(GRACE_SECONDS)
    if process.is_alive():
        process.kill()
    process.join()


def _help(work: Work) -> None:
    """In a new process: Ctrl-C is the parent's to pass on, as SIGTERM; without the parent nobody draws conclusions."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupt)
    threading.Thread(target=_follow_parent, daemon=True).start()
    console = Remarks(quiet=work.quiet)
    try:
        torch.set_num_threads(max(1, work.site.threads))
        registry = Registry(work.site.tracking_uri, work.site.experiment)
        site = work.site
        pipeline = Pipeline(lambda: registry, console, site.device, site.data_dir, site.policy)
        parent, home = registry.get(work.parent_run_id), registry.get(work.home_run_id)
        trials = Trials(pipeline, TuneSpec.model_validate_json(work.spec), parent, home)
        work.search(console.say).work(trials.objective, wait=False)
    except RewindError as error:
        console.error(error)
        os._exit(1)
    except KeyboardInterrupt:
        os._exit(130)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_SECONDS)
    os._exit(1)


class Remarks(Console):
    """A console of one of several workers: lines, no bars."""

    @contextlib.contextmanager
    def progress(self, title: str, total: int, earlier: float = 0.0) -> Iterator[Callable[[int], None]]:
        yield lambda done: None
