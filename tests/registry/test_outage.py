"""A tracking server that goes away: nothing is lost, nothing appears twice, and nothing waits that need not."""

import json
import re
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Chain, Cli
from servers import BACKENDS, POSTGRESQL, Cable, Postgres, Server

from rewindctl.checks.verify import verify
from rewindctl.errors import KeptError, UsageError
from rewindctl.pipeline.train_run import RunObserver
from rewindctl.registry import Registry, RunRecord, RunWriter
from rewindctl.registry.claiming import ownership
from rewindctl.registry.delivery import sender as delivery
from rewindctl.registry.delivery.outbox import Outbox, kept_folder
from rewindctl.registry.records import HEARTBEAT
from rewindctl.registry.store import failures
from rewindctl.report.compare import ComparisonReport
from rewindctl.training.records import Evaluation
from rewindctl.tuning import study

LINE = ("train-dense", "--model", "resnet8", "--dataset", "digits", "--iterations", "24", "--batch-size", "32")
LINE += ("--evaluate-every", "4", "--rewind-points", "6,12", "--checkpoint-every", "0")
CURVES = ("train_loss", "lr", "test_loss", "test_accuracy", "sparsity", "compression", "delta_accuracy")
SECRET = "s3cret-word"

At = Callable[[int, Callable[[], object]], None]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "RETRY_SECONDS", 0.05)
    monkeypatch.setenv("REWINDCTL_OUTAGE_SECONDS", "60")


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """Do something when a training has come to an iteration, all before its evaluation written, and it not yet."""
    todo: dict[int, list[Callable[[], object]]] = {}
    evaluated = RunObserver.evaluated

    def hooked(self: RunObserver, evaluation: Evaluation) -> None:
        actions = todo.pop(evaluation.iteration, [])
        if actions:
            self.background.wait()
        for action in actions:
            action()
        evaluated(self, evaluation)

    monkeypatch.setattr(RunObserver, "evaluated", hooked)
    return lambda iteration, action: todo.setdefault(iteration, []).append(action)


@pytest.fixture(scope="module")
def unbroken(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int, float]]]:
    """The curves of the same training on a server that was there all the time."""
    from rewindctl.cli import run

    assert run([*LINE, "--tracking-uri", server.uri, "--experiment", "unbroken", "--quiet"]) == 0
    return curves(Registry(server.uri, "unbroken"))


def curves(registry: Registry) -> dict[str, list[tuple[int, float]]]:
    """Every point of the only run's curves, in the order that it was made."""
    (run,) = registry.search()
    return {key: [(step, value) for step, _, value in by_time(registry, run, key)] for key in CURVES}


def by_time(registry: Registry, run: RunRecord, key: str) -> list[tuple[int, int, float]]:
    return sorted(registry.shown_history(run, key), key=lambda point: (point[1], point[0]))


def whole(server: Server, experiment: str, expected: dict[str, list[tuple[int, float]]]) -> RunRecord:
    """The only run of an experiment: finished, intact, with the very points of `expected`."""
    registry = Registry(server.uri, experiment)
    (run,) = registry.search()
    assert run.finished
    assert verify(registry, run) == []
    assert curves(registry) == expected
    assert {"checkpoints/00000006.safetensors", "checkpoints/final.safetensors"} <= set(registry.manifest(run))
    assert len(registry.client.search_model_versions(f"run_id = '{run.run_id}'")) == 1
    assert len(registry.client.get_run(run.run_id).outputs.model_outputs) == 1
    assert not list(kept_folder().glob("*"))
    return run


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """An experiment of the test's own."""
    return f"{request.node.originalname}-{uuid.uuid4().hex}"


@pytest.fixture
def train(cli: Cli, cable: Cable, name: str) -> Callable[..., object]:
    return lambda *more: cli(*LINE, "--tracking-uri", cable.uri, "--experiment", name, *more)


@pytest.fixture
def kept(train: Cli, cable: Cable, at: At, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is left of a training whose server went away and did not come back; the cable is pulled."""
    at(8, cable.pull)
    monkeypatch.setenv("REWINDCTL_OUTAGE_SECONDS", "0")
    answer = train()
    assert (answer.code, answer.out) == (1, "")
    (folder,) = kept_folder().iterdir()
    assert f"the results of run {folder.name} are kept in {folder}" in answer.err
    assert "rewindctl recover" in answer.err
    return folder


# Away for a while

AWAY: dict[str, Callable[[Cable], object]] = {
    "pulled": lambda cable: cable.pull(),
    "a batch written, its answer lost": lambda cable: cable.lose_answer(b"runs/log-batch"),
    "a file written, its answer lost": lambda cable: cable.lose_answer(b"PUT /api/2.0/mlflow-artifacts"),
}


@pytest.mark.parametrize("server", BACKENDS, indirect=True)
@pytest.mark.parametrize("way", AWAY)
@pytest.mark.slow
def test_a_server_away_for_a_while_gets_everything_once_and_in_order(
    train: Cli, cable: Cable, server: Server, name: str, at: At, unbroken: dict[str, list[tuple[int, float]]], way: str
) -> None:
    at(8, lambda: AWAY[way](cable))
    at(20, cable.plug)
    answer = train()
    assert (answer.code, answer.run_id) == (0, whole(server, name, unbroken).run_id), answer.err


@pytest.mark.parametrize("server", [POSTGRESQL], indirect=True)
@pytest.mark.slow
def test_a_server_whose_database_is_away_for_a_while_gets_everything(
    train: Cli, server: Server, postgres: Postgres, name: str, at: At, unbroken: dict[str, list[tuple[int, float]]]
) -> None:
    """It answers, and says that it cannot."""
    at(8, postgres.stop)
    at(20, postgres.start)
    answer = train()
    assert (answer.code, answer.run_id) == (0, whole(server, name, unbroken).run_id), answer.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_killed_and_started_again_during_a_training(
    empty_store: Path,
    tmp_path: Path,
    at: At,
    cli: Cli,
    name: str,
    unbroken: dict[str, list[tuple[int, float]]],
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REWINDCTL_OUTAGE_SECONDS", "300")  # it has to import everything to start
    store = Path(shutil.copy(empty_store, tmp_path / "server.db"))
    server = Server(tmp_path, f"sqlite:///{store}").start().wait()
    try:
        at(8, lambda: server.stop(number))
        at(20, server.start)
        assert cli(*LINE, "--tracking-uri", server.uri, "--experiment", name).code == 0
        whole(server.wait(), name, unbroken)
    finally:
        server.stop()


@pytest.mark.slow
def test_what_was_kept_is_delivered_as_soon_as_the_heartbeat_reaches_the_server(
    train: Cli,
    cable: Cable,
    server: Server,
    name: str,
    at: At,
    unbroken: dict[str, list[tuple[int, float]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.02)
    seen: list[set[int]] = []

    def look() -> None:
        registry = Registry(server.uri, name)
        (run,) = registry.search()
        seen.append(set(registry.curve(run, "test_accuracy")))

    def wait_for_a_beat() -> None:
        cable.plug()
        registry, beat = Registry(server.uri, name), ""
        while (tags := registry.search()[0].tags)[HEARTBEAT] in (beat or tags[HEARTBEAT]):
            beat = beat or tags[HEARTBEAT]
            time.sleep(0.05)

    at(8, cable.pull)
    at(16, look)
    at(16, wait_for_a_beat)
    at(20, look)
    assert train().code == 0
    assert seen == [{0, 4}, {0, 4, 8, 12, 16}]
    whole(server, name, unbroken)


@pytest.mark.slow
def test_the_end_of_a_run_waits_for_its_server(
    train: Cli, cable: Cable, server: Server, name: str, at: At, unbroken: dict[str, list[tuple[int, float]]]
) -> None:
    def plug_when_all_is_kept() -> None:
        while not any(Outbox(folder).complete for folder in kept_folder().glob("*") if Outbox.find(folder.name)):
            time.sleep(0.05)
        cable.plug()

    at(8, cable.pull)
    at(8, threading.Thread(target=plug_when_all_is_kept).start)
    answer = train()
    assert answer.code == 0
    assert "is unreachable; retrying for 60 s" in answer.err
    whole(server, name, unbroken)


@pytest.mark.parametrize("request_", [b"runs/update", b"model-versions/create", b"logged-models HTTP", b"outputs"])
@pytest.mark.slow
def test_a_lost_answer_makes_nothing_twice(
    train: Cli, cable: Cable, server: Server, name: str, at: At, unbroken: dict[str, object], request_: bytes
) -> None:
    """The end of the run, its version, its network: what the store itself would make again."""

    def plug_when_pulled() -> None:
        while cable._listener is not None:
            time.sleep(0.05)
        cable.plug()

    at(24, lambda: cable.lose_answer(request_))
    at(24, threading.Thread(target=plug_when_pulled, daemon=True).start)
    assert train().code == 0
    assert cable.lost == 1
    whole(server, name, unbroken)


@pytest.mark.slow
def test_a_run_whose_making_was_not_answered_is_cleared_away(
    train: Cli, cable: Cable, server: Server, name: str, unbroken: dict[str, object]
) -> None:
    Registry(server.uri, name)

    def plug_when_pulled() -> None:
        while cable._listener is not None:
            time.sleep(0.05)
        cable.plug()

    cable.lose_answer(b"runs/create")
    threading.Thread(target=plug_when_pulled, daemon=True).start()
    assert train().code == 0
    assert cable.lost == 1
    whole(server, name, unbroken)


@pytest.mark.slow
def test_a_server_that_never_answers_is_asked_by_one_write_alone(
    train: Cli, cable: Cable, at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that asked at each evaluation would stand still for a timeout each."""
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 3600.0)  # a beat asks too
    asked: list[int] = []
    at(8, lambda: monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1"))
    at(8, cable.freeze)
    for iteration in (12, 16, 20, 24):
        at(iteration, lambda: asked.append(cable.refused))
    at(24, lambda: monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30"))
    at(24, cable.plug)
    assert train().code == 0
    assert asked == [2] * 4  # MLflow asks again once


@pytest.mark.slow
def test_an_interrupted_training_goes_on_with_what_was_kept(
    train: Cli, cable: Cable, server: Server, name: str, at: At, unbroken: dict[str, list[tuple[int, float]]]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    at(8, cable.pull)
    at(16, interrupt)
    assert train().code == 130
    assert len(list(kept_folder().iterdir())) == 1
    cable.plug()
    (left,) = Registry(server.uri, name).search()
    answer = train()
    assert "resuming run" in answer.err
    assert whole(server, name, unbroken).run_id == answer.run_id == left.run_id


@pytest.mark.slow
def test_a_heartbeat_outlives_an_outage(
    chain: Chain, cable: Cable, server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "HEARTBEAT_SECONDS", 0.02)
    writer = Registry(cable.uri, name).start(chain.registry().get(chain.dense).spec, "a run", None, {})
    cable.pull()
    time.sleep(0.3)
    registry = Registry(server.uri, name)
    registry.client.set_tag(writer.run_id, HEARTBEAT, "1")
    cable.plug()
    while registry.get(writer.run_id).tags[HEARTBEAT] == "1":
        time.sleep(0.02)
    writer.fail(KeyboardInterrupt())


@pytest.mark.slow
def test_reading_waits_for_a_server_that_went_away(cable: Cable, server: Server, name: str) -> None:
    registry = Registry(cable.uri, name)
    cable.pull()
    threading.Timer(0.3, cable.plug).start()
    assert registry.search() == []


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_limit_that_is_no_time_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("REWINDCTL_OUTAGE_SECONDS", text)
    with pytest.raises(UsageError, match=re.escape(f"$REWINDCTL_OUTAGE_SECONDS is '{text}'")):
        failures.limit_seconds()


# Away for too long


@pytest.mark.parametrize("server", BACKENDS, indirect=True)
@pytest.mark.slow
def test_kept_results_are_recovered_once(
    kept: Path, cli: Cli, cable: Cable, server: Server, name: str, unbroken: dict[str, list[tuple[int, float]]]
) -> None:
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file() and path.name != "lock"}
    dry = cli("recover", "--dry-run", "--json")
    assert (dry.code, [row["state"] for row in json.loads(dry.out)]) == (0, ["ready"])
    away = cli("recover")
    assert (away.code, away.out) == (1, "")
    assert f"run {kept.name} was not recovered" in away.err
    assert {path: path.read_bytes() for path in before} == before
    cable.plug()
    answer = cli("recover")
    assert (answer.code, answer.out) == (0, f"{kept.name}\n")
    assert whole(server, name, unbroken).run_id == kept.name
    again = cli("recover")
    assert (again.code, again.out, again.err) == (0, "", "no results are kept here\n")


@pytest.mark.slow
def test_kept_results_are_this_users_alone(kept: Path) -> None:
    assert kept.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_the_same_command_uploads_kept_results(
    kept: Path, train: Cli, cable: Cable, server: Server, name: str, unbroken: dict[str, object]
) -> None:
    cable.plug()
    answer = train("--json")
    assert (json.loads(answer.out)["run_id"], json.loads(answer.out)["reused"]) == (kept.name, True)
    whole(server, name, unbroken)


@pytest.mark.slow
def test_a_search_uploads_what_was_kept_of_it(
    train: Cli, cli: Cli, cable: Cable, server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--tracking-uri", cable.uri, "--experiment", name)
    prune = cli("prune", "--parent", train().run_id, "--compression", "5", *where).run_id
    search = ("tune", "--parent", prune, "--trials", "1", "--iterations", "4", "--compare-seeds", "0", "--json")
    line = (*search, "--pruner", "none", *where)
    with monkeypatch.context() as patch:
        note = study.note
        patch.setattr(study, "note", lambda best: (note(best), cable.pull())[0])
        patch.setenv("REWINDCTL_OUTAGE_SECONDS", "0")
        assert cli(*line).code == 1
    (folder,) = kept_folder().iterdir()
    cable.plug()
    answer = cli(*line)
    assert answer.code == 0
    assert f"kept results of run {folder.name}: is finished" in answer.err
    assert Registry(server.uri, name).get(folder.name).finished
    assert not list(kept_folder().iterdir())


@pytest.mark.slow
def test_the_next_report_uploads_the_one_that_was_kept(
    train: Cli, cli: Cli, cable: Cable, server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--tracking-uri", cable.uri, "--experiment", name)
    prune = cli("prune", "--parent", train().run_id, "--compression", "5", *where).run_id
    cli("retrain", "--parent", prune, "--method", "lr_rewind", "--iterations", "4", *where)
    line = ("compare", "--log", *where)
    written = ComparisonReport.write_files
    with monkeypatch.context() as patch:
        patch.setattr(
            ComparisonReport, "write_files", lambda *wanted, **how: (written(*wanted, **how), cable.pull())[0]
        )
        patch.setenv("REWINDCTL_OUTAGE_SECONDS", "0")
        answer = cli(*line)
    (folder,) = kept_folder().iterdir()
    assert answer.code == 1
    assert f"the results of run {folder.name} are kept in {folder}" in answer.err
    cable.plug()
    answer = cli(*line)
    assert answer.code == 0
    assert f"kept results of run {folder.name}: is finished" in answer.err
    registry = Registry(server.uri, name)
    first, second = registry.search(kind="report")
    assert first.run_id == folder.name
    assert first.finished
    assert second.finished
    assert set(registry.manifest(first)) == set(registry.manifest(second)) != set()
    assert not list(kept_folder().iterdir())


@pytest.mark.slow
def test_nobody_here_takes_a_stage_whose_results_are_kept(
    kept: Path, cable: Cable, server: Server, name: str, train: Cli
) -> None:
    cable.plug()
    registry = Registry(server.uri, name)
    spec = registry.get(kept.name).spec
    with pytest.raises(KeptError, match=kept.name):
        registry.start(spec, "a run", None, {})
    assert [run.run_id for run in registry.search()] == [kept.name]


@pytest.mark.parametrize("entry", [0, 9, -1])
@pytest.mark.slow
def test_a_recovery_that_is_interrupted_is_done_again(
    kept: Path,
    cli: Cli,
    cable: Cable,
    server: Server,
    name: str,
    unbroken: dict[str, list[tuple[int, float]]],
    entry: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cable.plug()
    deliver, left = delivery.deliver, [entry % len(Outbox(kept).entries)]

    def interrupted(*values: object) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        deliver(*values)

    with monkeypatch.context() as patch:
        patch.setattr(delivery, "deliver", interrupted)
        assert cli("recover").code == 130
    assert cli("recover").out == f"{kept.name}\n"
    whole(server, name, unbroken)


@pytest.mark.slow
def test_a_recovery_killed_after_the_end_reached_the_store_only_clears_up(
    kept: Path, cli: Cli, cable: Cable, server: Server, name: str, unbroken: dict[str, object], tmp_path: Path
) -> None:
    shutil.copytree(kept, tmp_path / "copy")
    cable.plug()
    assert cli("recover").code == 0
    shutil.copytree(tmp_path / "copy", kept)
    ended = Registry(server.uri, name).get(kept.name).ended
    answer = cli("recover")
    assert (answer.code, answer.out) == (0, f"{kept.name}\n")
    assert "was uploaded before" in answer.err
    assert whole(server, name, unbroken).ended == ended


def edit_journal(folder: Path, old: str, new: str) -> None:
    text = (folder / "journal.jsonl").read_text()
    assert old in text
    (folder / "journal.jsonl").write_text(text.replace(old, new, 1))


ALTERED: dict[str, Callable[[Path], object]] = {
    "a metric": lambda folder: edit_journal(folder, '["test_accuracy", 0.', '["test_accuracy", 0.9'),
    "a line less": lambda folder: edit_journal(
        folder, (folder / "journal.jsonl").read_text().splitlines(keepends=True)[3], ""
    ),
    "no JSON": lambda folder: edit_journal(folder, '{"chain"', "{chain"),
    "a file": lambda folder: next((folder / "files").rglob("final.safetensors")).write_bytes(b"ruins"),
    "a file less": lambda folder: next((folder / "files").rglob("final.safetensors")).unlink(),
}


@pytest.mark.parametrize("how", ALTERED)
@pytest.mark.slow
def test_altered_results_are_refused(kept: Path, cli: Cli, train: Cli, cable: Cable, server: Server, how: str) -> None:
    cable.plug()
    ALTERED[how](kept)
    for call in (lambda: cli("recover", "--dry-run"), lambda: cli("recover")):
        answer = call()
        assert (answer.code, answer.out) == (1, "")
        assert "altered" in answer.err
        assert kept.is_dir()


@pytest.mark.slow
def test_a_line_half_written_by_a_killed_process_is_dropped(kept: Path) -> None:
    journal = kept / "journal.jsonl"
    entries, text = Outbox(kept).entries, journal.read_bytes()
    for length in (1, len(text.splitlines()[-1]) // 2):
        journal.write_bytes(text + text[:length])
        box = Outbox(kept)
        assert box.entries == entries
        assert journal.read_bytes() == text + text[:length], "who only looks changes nothing: it may be being written"
        assert box.lock()
        assert (box.entries, journal.read_bytes()) == (entries, text)
        box.unlock()


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From here on this process stands for another machine, with a state of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))


@pytest.mark.slow
def test_a_stage_finished_elsewhere_meanwhile_makes_kept_results_needless(
    kept: Path, cli: Cli, server: Server, cable: Cable, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        elsewhere(patch, tmp_path)
        other = cli(*LINE, "--tracking-uri", server.uri, "--experiment", name).run_id
    cable.plug()
    answer = cli("recover", "--json")
    (row,) = json.loads(answer.out)
    assert (answer.code, row["state"]) == (0, "superseded")
    assert f"run {other} finished the same stage first" in row["text"]
    registry = Registry(server.uri, name)
    assert {run.run_id: run.status for run in registry.search()} == {kept.name: "KILLED", other: "FINISHED"}
    assert not kept.exists()


@pytest.mark.slow
def test_a_stage_that_is_under_way_elsewhere_keeps_the_results_where_they_are(
    kept: Path,
    cli: Cli,
    server: Server,
    cable: Cable,
    name: str,
    tmp_path: Path,
    unbroken: dict[str, list[tuple[int, float]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry(server.uri, name)
    with monkeypatch.context() as patch:
        elsewhere(patch, tmp_path)
        other: RunWriter = registry.start(registry.get(kept.name).spec, "a run", None, {})
    cable.plug()
    (row,) = json.loads(cli("recover", "--json").out)
    assert row["state"] == "busy"
    assert other.run_id in row["text"]
    assert {run.run_id: run.status for run in registry.search()} == {kept.name: "KILLED", other.run_id: "RUNNING"}
    other.fail(ValueError("a reason"))
    assert cli("recover").out == f"{kept.name}\n"
    registry.client.delete_run(other.run_id)
    whole(server, name, unbroken)


@pytest.mark.slow
def test_no_password_is_kept(
    cli: Cli, cable: Cable, server: Server, name: str, at: At, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_uri = cable.uri.replace("//", f"//user:{SECRET}@")
    at(8, cable.pull)
    with monkeypatch.context() as patch:
        patch.setenv("REWINDCTL_OUTAGE_SECONDS", "0")
        answers = [cli(*LINE, "--tracking-uri", whole_uri, "--experiment", name, "--debug")]
    answers += [cli("recover", "--tracking-uri", whole_uri, "--debug")]
    cable.plug()
    answers += [cli("recover")]
    assert [answer.code for answer in answers] == [1, 1, 1]
    assert "give its whole address with --tracking-uri" in answers[2].err
    answers += [cli("recover", "--tracking-uri", whole_uri)]
    assert answers[3].code == 0
    assert not [answer for answer in answers if SECRET in answer.out + answer.err]
    for place in (tmp_path, server.folder):
        files = (path for path in place.rglob("*") if path.is_file())
        assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_two_recoveries_at_once_are_one(kept: Path, cli: Cli, cable: Cable) -> None:
    cable.plug()
    box = Outbox(kept)
    assert box.lock()
    (row,) = json.loads(cli("recover", "--json").out)
    assert (row["state"], row["text"]) == ("busy", "another process is working on it")
    box.unlock()
    assert cli("recover").out == f"{kept.name}\n"


@pytest.mark.slow
def test_a_run_that_its_store_lost_is_kept_and_named(kept: Path, cli: Cli, cable: Cable, server: Server) -> None:
    cable.plug()
    Registry(server.uri).client.delete_run(kept.name)
    answer = cli("recover")
    assert (answer.code, answer.out) == (1, "")
    assert f"run {kept.name} was deleted" in answer.err
    assert kept.is_dir()
