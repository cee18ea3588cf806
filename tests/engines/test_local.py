"""Real processes: the same bytes, one run a stage whatever is killed, nobody left behind."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from started import Started, on_one_core
from studies import panel, text_of

from rewindctl.engines import local
from rewindctl.engines.contract import Answer, Task
from rewindctl.engines.local import Processes, core_shares, default_jobs, devices, share
from rewindctl.engines.work import ReportProgress, WorkerConfig
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.registry.runs.writer import resume_file
from rewindctl.system.processes import interrupt, raise_if_interrupted

METHODS = [{"method": "finetune"}, {"method": "lr_rewind"}]
QUICK = panel(iterations=20, sparsities=[0.5], methods=METHODS)
LONG = panel(iterations=150, sparsities=[0.5], methods=METHODS)
STAGES = 4  # a baseline, a mask, two retrainings


def write(tmp_path: Path, *panels: dict[str, Any]) -> str:
    (tmp_path / "tiny.yaml").write_text(text_of(*panels))
    return "tiny.yaml"


@pytest.fixture
def start(tmp_path: Path, store: Path) -> Iterator[Callable[..., Started]]:
    """Start `rewindctl reproduce ...` as the leader of a group of its own; what is left of it at the end is killed."""
    started: list[Started] = []

    def call(*arguments: str, jobs: int = 2) -> Started:
        line = ("reproduce", *arguments, "--jobs", str(jobs), "--trials", "1", "--checkpoint-every", "0")
        process = Started(*line, "--device", "cpu", first=on_one_core)
        started.append(process)
        return process

    yield call
    for process in started:
        for pid in members(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def members(group: int) -> list[int]:
    """The processes of a group that are alive."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split() if folder.name.isdigit() else []
        except OSError:
            continue
        if fields and int(fields[2]) == group and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def wait_for(condition: Callable[[], Any], process: Started) -> Any:
    return process.until(condition, every=0.1, seconds=90)


def under_way() -> RunRecord | None:
    """The training that has a point to go on from."""
    return next((r for r in Registry().search() if r.status == "RUNNING" and resume_file(r.run_id).is_file()), None)


def runs(status: str) -> list[RunRecord]:
    return [run for run in Registry().search() if run.status == status]


def check_whole(stages: int = STAGES) -> None:
    """One finished run a stage, each the child of its parent, none under way."""
    finished = {run.run_id: run for run in runs("FINISHED")}
    assert len(finished) == len({run.fingerprint for run in finished.values()}) == stages
    assert runs("RUNNING") == []
    for run in finished.values():
        if run.kind == "dense":
            assert run.parent_id is None
        else:
            assert run.parent_id is not None
            assert run.params["parent_fingerprint"] == finished[run.parent_id].fingerprint
            assert finished[run.dense_run_id].kind == "dense"


def end(process: Started) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=150)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def digests() -> dict[str, dict[str, str]]:
    registry = Registry()
    return {
        run.fingerprint: {
            path: entry["sha256"]
            for path, entry in registry.manifest(run).items()
            if path not in ("environment.json", "record.json")
        }
        for run in runs("FINISHED")
    }


# Where a worker runs


def test_without_gpus_every_worker_has_the_device_asked_for() -> None:
    assert devices("cpu", 3) == ["cpu"] * 3
    assert devices("cuda:1", 2) == ["cuda:1"] * 2
    assert default_jobs("cpu") == 1


def test_gpus_are_given_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert devices("auto", 5) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert devices("cuda", 1) == ["cuda:0"]
    assert devices("cuda:1", 2) == ["cuda:1"] * 2
    assert devices("cpu", 2) == ["cpu"] * 2
    assert (default_jobs("auto"), default_jobs("cuda:1"), default_jobs("cpu")) == (2, 1, 1)


def test_workers_share_the_cores_and_each_has_one_at_least() -> None:
    cores = len(os.sched_getaffinity(0))
    for jobs in (1, 2, 3, 100):
        assert share(jobs) >= 1
        assert jobs * share(jobs) <= max(cores, jobs)


def test_each_worker_on_a_cpu_has_cores_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours, together all that this process may use; where they are too few nobody is kept to any."""
    for cores in ({0}, {0, 1}, {3, 4, 5, 9, 12}, set(range(64))):
        monkeypatch.setattr("os.sched_getaffinity", lambda process, cores=cores: cores)
        for jobs in range(1, 70):
            shares = core_shares(jobs)
            if jobs > len(cores):
                assert shares == [frozenset()] * jobs
                continue
            assert sorted(core for own in shares for core in own) == sorted(cores)
            assert [core for own in shares for core in sorted(own)] == sorted(cores)
            assert min(map(len, shares)) == share(jobs)  # as many threads compute


class Kept:
    """Answers with the cores that its process is kept to."""

    def __init__(self, site: WorkerConfig, report: ReportProgress) -> None:
        self.report = report

    def run(self, task: Task) -> Answer:
        return Answer(task.key, message=" ".join(map(str, sorted(os.sched_getaffinity(0)))))


def test_processes_are_kept_to_their_cores() -> None:
    here, jobs = os.sched_getaffinity(0), 2
    engine = Processes(WorkerConfig("sqlite:///none.db", "none", "cpu"), jobs, Kept)
    try:
        for number in range(jobs):
            engine.submit(Task(str(number), "{}", None))
        answers: list[Answer] = []
        while len(answers) < jobs:
            answers += engine.wait(1)
    finally:
        engine.close()
    one, other = (set(map(int, answer.message.split())) for answer in answers)
    if len(here) < jobs:
        assert one == other == here
    else:
        assert not one & other
        assert one | other == here
    assert os.sched_getaffinity(0) == here


def test_processes_on_gpus_are_kept_to_no_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    engine = Processes(WorkerConfig("sqlite:///none.db", "none", "auto"), 2)
    assert engine._cores == [frozenset(), frozenset()]
    engine = Processes(WorkerConfig("sqlite:///none.db", "none", "cpu"), 2, taken=1)
    assert engine._cores == core_shares(2)[1:]


def test_an_interrupt_of_one_task_does_not_reach_the_next_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        report = staticmethod(lambda key, done: None)

        def run(self, task: Task) -> Answer:
            interrupt(signal.SIGTERM, None)
            return Answer(task.key)

    monkeypatch.setattr(local._here, "runner", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        local._run(Task("key", "{}", None))
    raise_if_interrupted()


# Whole studies


def to_parent(process: Started, number: signal.Signals) -> None:
    process.send_signal(number)


def to_group(process: Started, number: signal.Signals) -> None:
    os.killpg(process.pid, number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jobs", "send", "number"),
    [
        (2, to_group, signal.SIGINT),
        (2, to_parent, signal.SIGTERM),
    ],
)
def test_an_interrupted_study_goes_on_where_it_was(
    start: Callable[..., Started],
    tmp_path: Path,
    jobs: int,
    send: Callable[[Started, signal.Signals], None],
    number: signal.Signals,
) -> None:
    study = write(tmp_path, LONG)
    process = start(study, jobs=jobs)
    run = wait_for(under_way, process)
    send(process, number)
    code, out, err = end(process)
    assert (code, out) == (130, ""), err
    assert "error: interrupted" in err
    wait_gone(process)
    assert [(killed.run_id, killed.tags[tag.ERROR]) for killed in runs("KILLED")] == [(run.run_id, "interrupted")]
    assert runs("RUNNING") == []
    assert resume_file(run.run_id).is_file()
    if number == signal.SIGINT and send is to_group:
        assert end(start(study, jobs=jobs))[0] == 0
        check_whole()
        assert len(Registry().search()) == STAGES
        assert Registry().get(run.run_id).finished


def wait_gone(process: Started) -> None:
    deadline = time.monotonic() + 30
    while members(process.pid):
        assert time.monotonic() < deadline, "processes are left behind"
        time.sleep(0.1)


@pytest.mark.slow
def test_an_interrupt_while_processes_start_ends_them_too(start: Callable[..., Started], tmp_path: Path) -> None:
    process = start(write(tmp_path, LONG))
    wait_for(lambda: len(members(process.pid)) > 1, process)
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = end(process)
    assert (code, out) == (130, ""), err
    wait_gone(process)
    assert runs("RUNNING") == runs("FINISHED") == []


@pytest.mark.slow
def test_processes_without_a_parent_record_what_they_do_and_end(start: Callable[..., Started], tmp_path: Path) -> None:
    study = write(tmp_path, LONG)
    process = start(study)
    run = wait_for(under_way, process)
    process.kill()
    process.wait()
    wait_gone(process)
    assert [killed.run_id for killed in runs("KILLED")] == [run.run_id]
    assert end(start(study, "--cells", "method=finetune"))[0] == 0
    check_whole(3)
    assert Registry().get(run.run_id).finished


@pytest.mark.slow
def test_a_study_in_this_process_says_what_ends(store: Path, tmp_path: Path, cli: Cli) -> None:
    answer = cli("reproduce", write(tmp_path, QUICK), "--trials", "1", "--jobs", "1")
    assert answer.code == 0, answer.err
    ended = [line.partition("] ")[2].split(" (")[0] for line in answer.err.splitlines() if line.startswith("[")]
    assert ended == [
        "finished dense s0 resnet8-digits",
        "finished prune 2x s0 resnet8-digits",
        "finished finetune 2x s0 resnet8-digits",
        "finished lr_rewind 2x s0 resnet8-digits",
    ]
    check_whole()
