"""`registry relocate`: a copy gets its own files, a moved store finds its own; all or nothing, verified, repeatable."""

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from conftest import TINY, Chain, Cli
from moved import AWAY, at, begin, cp, cp_beside, cp_database, edit, mv, unbind, world
from started import Started

from rewindctl.registry import Registry
from rewindctl.registry.records import COPIED, KIND, STORAGE, STUDY
from rewindctl.registry.roots.binding import MARKER, Binding
from rewindctl.registry.roots.relocation import relocate
from rewindctl.registry.runs.opening import open_report
from rewindctl.registry.runs.writer import resume_file
from rewindctl.registry.store.address import local_path
from rewindctl.tuning.storage import open_storage

MOVED = ("mv", "the database moved away from its files", "the database renamed")


def uri_of(store: Path) -> str:
    return f"sqlite:///{store}"


def folder(store: Path, run: str) -> Path:
    found = local_path(Registry(uri_of(store)).get(run).artifact_uri)
    assert found is not None
    return found


def mentions(store: Path, text: str) -> list[str]:
    """The columns of a database in which a text is, but for what was written to be read by people."""
    found = []
    with closing(sqlite3.connect(store)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for column in [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]:
                (count,) = connection.execute(
                    f"SELECT COUNT(*) FROM {table} WHERE instr({column}, ?)", (text,)
                ).fetchone()
                found += [f"{table}.{column}"] * bool(count)
    return found


@pytest.mark.parametrize("how", AWAY)
def test_it_has_its_own_files_afterwards_wherever_they_were(
    copied_chain: Chain, cli: Cli, tmp_path: Path, how: str
) -> None:
    orig = copied_chain.store
    store = AWAY[how](orig, tmp_path / "elsewhere")
    answer = cli("registry", "relocate", "--json", *at(store))
    assert answer.code == 0, answer.err
    done = json.loads(answer.out)
    assert done["verified"] == 5
    assert done["copy_of"] == (None if how in MOVED else str(orig))
    assert (done["copied"] == 0) == (how in ("cp -r", "mv", "the database renamed"))
    assert cli("verify", "--all", *at(store)).code == 0
    place = Path(done["folders"]["rewindctl"])
    assert all(folder(store, run.run_id).is_relative_to(place) for run in Registry(uri_of(store)).search())
    if how != "the database renamed":
        old = local_path((Binding(store).homes()[0]).location)
        assert old == place
        assert "runs.artifact_uri" not in mentions(store, f"{orig.parent.as_uri()}/mlruns/rewindctl/")
    begin(store)
    if how not in MOVED:
        begin(orig)
        assert cli("verify", "--all", *at(orig)).code == 0
    again = cli("registry", "relocate", *at(store))
    assert (again.code, again.out) == (0, "")
    assert "nothing was changed" in again.err


def test_no_column_of_a_moved_store_names_the_old_place(copied_chain: Chain, tmp_path: Path) -> None:
    """Logged models, model versions and traces of other programs too."""
    old = f"{copied_chain.store.parent.as_uri()}/mlruns"
    number, run = 1, copied_chain.dense
    edit(
        copied_chain.store,
        "INSERT INTO logged_models (model_id, experiment_id, name, artifact_location, creation_timestamp_ms, "
        "last_updated_timestamp_ms, status) VALUES ('m-1', ?, 'one', ?, 1, 1, 2)",
        number,
        f"{old}/rewindctl/models/m-1/artifacts",
    )
    edit(
        copied_chain.store,
        "INSERT INTO trace_info (request_id, experiment_id, timestamp_ms, status) VALUES ('tr-1', ?, 1, 'OK')",
        number,
    )
    edit(
        copied_chain.store,
        "INSERT INTO trace_tags (key, value, request_id) VALUES ('mlflow.artifactLocation', ?, 'tr-1')",
        f"{old}/rewindctl/traces/tr-1/artifacts",
    )
    edit(copied_chain.store, "UPDATE model_versions SET storage_location = source WHERE run_id = ?", run)
    assert {"logged_models.artifact_location", "trace_tags.value", "model_versions.source"} < set(
        mentions(copied_chain.store, old)
    )
    store = mv(copied_chain.store, tmp_path / "elsewhere")
    relocate(uri_of(store))
    assert mentions(store, old) == []
    assert "model_versions.storage_location" in mentions(store, f"{store.parent.as_uri()}/mlruns/rewindctl")


@pytest.mark.parametrize("how", ["cp -r", "the database alone, beside"])
def test_a_copy_and_its_original_go_on_without_touching_each_other(
    copied_chain: Chain, cli: Cli, tmp_path: Path, how: str
) -> None:
    orig = copied_chain.store
    copy = AWAY[how](orig, tmp_path / "elsewhere")
    relocate(uri_of(copy))
    for one, other in ((copy, orig), (orig, copy)):
        root = folder(other, copied_chain.dense).parents[1]
        before = world(root)
        run = cli("train-dense", *TINY, "--seed", "5", *at(one)).run_id
        assert folder(one, run).is_dir()
        assert cli("remove", copied_chain.lr_rewind, "--yes", *at(one)).code == 0
        assert cli("remove", run, "--yes", *at(one)).code == 0
        assert cli("gc", "--yes", "--unfinished", "--orphans", "--unreferenced", *at(one)).code == 0
        assert world(root) == before
    assert cli("verify", "--all", *at(orig)).code == cli("verify", "--all", *at(copy)).code == 0


# Work under way


def left(store: Path) -> str:
    """A run that was interrupted, with its resume point."""
    run = begin(store)
    resume_file(run).parent.mkdir(parents=True, exist_ok=True)
    resume_file(run).write_bytes(b"point")
    edit(store, "UPDATE tags SET value = 'retrain' WHERE run_uuid = ? AND key = ?", run, KIND)
    return run


def test_resume_points_are_the_originals_and_go_with_a_moved_store(
    copied_chain: Chain, cli: Cli, tmp_path: Path
) -> None:
    run = left(copied_chain.store)
    copy = cp(copied_chain.store, tmp_path / "copy")
    relocate(uri_of(copy))
    there = Registry(uri_of(copy)).get(run)
    assert (there.status, there.tags[COPIED]) == ("FAILED", str(copied_chain.store))
    assert cli("gc", "--yes", "--unfinished", "--orphans", *at(copy)).code == 0
    assert cli("remove", run, "--yes", *at(copy)).code in (0, 2)
    assert resume_file(run).read_bytes() == b"point"
    assert Registry(uri_of(copied_chain.store)).get(run).status == "KILLED"
    moved = mv(copied_chain.store, tmp_path / "moved")
    relocate(uri_of(moved))
    assert Registry(uri_of(moved)).get(run).status == "KILLED"
    assert COPIED not in Registry(uri_of(moved)).get(run).tags
    assert cli("gc", "--yes", "--unfinished", "--orphans", *at(moved)).code == 0
    assert not resume_file(run).exists()


@pytest.mark.parametrize("beside", [True, False])
def test_a_study_is_the_originals_but_for_the_one_that_was_copied_too(
    copied_chain: Chain, cli: Cli, tmp_path: Path, beside: bool
) -> None:
    orig = copied_chain.store
    place = orig.with_name("optuna-journal.log") if beside else tmp_path / "shared.log"
    optuna.create_study(storage=open_storage(str(place)), study_name="rates").set_user_attr(
        "rewindctl.parent_run_id", None
    )
    run = begin(orig)
    for key, value in ((STUDY, "rates"), (STORAGE, str(place))):
        edit(orig, "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", key, value, run)
    edit(orig, "UPDATE tags SET value = 'tune' WHERE run_uuid = ? AND key = ?", run, KIND)
    copy = cp(orig, tmp_path / "copy")
    relocate(uri_of(copy))
    before = place.read_bytes()
    assert cli("remove", run, "--yes", *at(copy)).code == 0
    assert place.read_bytes() == before
    if beside:
        assert optuna.get_all_study_names(open_storage(str(copy.with_name(place.name)))) == []
    assert cli("remove", run, "--yes", *at(orig)).code == 0
    assert optuna.get_all_study_names(open_storage(str(place))) == []


def test_a_moved_store_waits_for_the_process_at_its_runs_and_a_copy_does_not(
    copied_chain: Chain, cli: Cli, tmp_path: Path
) -> None:
    registry = copied_chain.registry()
    writer = open_report(registry.client, registry.experiment_id, "begun", "")
    copy = cp(copied_chain.store, tmp_path / "copy")
    assert cli("registry", "relocate", *at(copy)).code == 0
    moved = mv(copied_chain.store, tmp_path / "moved")
    answer = cli("registry", "relocate", *at(moved))
    assert answer.code == 1
    assert f"run {writer.run_id} is running" in answer.err
    writer.fail(KeyboardInterrupt())


# All or nothing


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "damaged": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0"),
}


@pytest.mark.parametrize("what", DAMAGES)
@pytest.mark.parametrize("file", ["manifest.json", "checkpoints/final.safetensors"])
@pytest.mark.parametrize("how", ["mv", "the database alone"])
def test_a_file_that_is_not_whole_is_named_and_nothing_changed(
    copied_chain: Chain, cli: Cli, tmp_path: Path, how: str, file: str, what: str
) -> None:
    DAMAGES[what](folder(copied_chain.store, copied_chain.finetune) / file)
    store = AWAY[how](copied_chain.store, tmp_path / "elsewhere")
    before = world(tmp_path)
    answer = cli("registry", "relocate", *at(store))
    assert (answer.code, answer.out) == (1, "")
    assert f"{copied_chain.finetune}" in answer.err
    assert f"{file} of run" in answer.err
    assert f" is {what}" in answer.err
    assert world(tmp_path) == before
    done = json.loads(cli("registry", "relocate", "--keep-damaged", "--json", *at(store)).out)
    assert (done["damaged"], done["verified"]) == ([copied_chain.finetune], 4)
    assert cli("remove", copied_chain.finetune, "--yes", *at(store)).code == 0
    assert cli("verify", "--all", *at(store)).code == 0


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(copied_chain: Chain, cli: Cli, tmp_path: Path) -> None:
    store = cp_database(copied_chain.store, tmp_path / "elsewhere")
    before = world(tmp_path)
    answers = [json.loads(cli("registry", "relocate", "--json", *dry, *at(store)).out) for dry in (("--dry-run",), ())]
    assert [answer.pop("dry_run") for answer in answers] == [True, False]
    assert answers[0] == answers[1]
    assert world(tmp_path) != before
    files = [path for path in (store.parent / "mlruns").rglob("*.*") if path.is_file() and path.name != MARKER]
    assert answers[0]["bytes"] == sum(path.stat().st_size for path in files)


def test_a_disk_that_fills_up_leaves_nothing_behind(
    copied_chain: Chain, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cp_database(copied_chain.store, tmp_path / "elsewhere")
    before = world(tmp_path)
    copied, room = shutil.copyfile, [20]

    def full(source: Path, target: Path) -> object:
        room[0] -= 1
        if room[0] < 0:
            Path(target).write_bytes(b"half")
            raise OSError(28, os.strerror(28))
        return copied(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    answer = cli("registry", "relocate", *at(store))
    assert answer.code == 1
    assert "free some space" in answer.err
    assert world(tmp_path) == before
    monkeypatch.undo()
    os.chdir(tmp_path)
    assert cli("registry", "relocate", *at(store)).code == 0


class Killer:
    """SIGKILL for its own process before a write by its number: of a file's name, or in the transaction."""

    def __init__(self, number: int) -> None:
        self.left = number

    def watch(self) -> None:
        replaced, connected = Path.replace, Binding.connection

        def replace(path: Path, target: Path) -> Path:
            self.write()
            return replaced(path, target)

        def connection(binding: Binding) -> sqlite3.Connection:
            made = connected(binding)
            made.set_trace_callback(lambda text: self.write() if text.startswith(STEPS) else None)
            return made

        Path.replace = replace  # type: ignore[method-assign, assignment]
        Binding.connection = connection  # type: ignore[method-assign]

    def write(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


STEPS = ("BEGIN", "UPDATE runs SET artifact_uri", "UPDATE experiments", "COMMIT")


def whole(store: Path, run: str) -> bool:
    """Whether the store has its own files and they are those of the run's manifest."""
    registry = Registry(uri_of(store))
    record = registry.get(run)
    paths = [registry.artifact(record, path) for path in registry.manifest(record)]
    return bool(paths) and all(path.is_relative_to(store.parent) for path in paths)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["the database alone", "cp -r"])
def test_killed_before_any_write_it_is_as_it_was_or_done_and_the_same_command_ends_it(
    store: Path, cli: Cli, tmp_path: Path, how: str
) -> None:
    orig = tmp_path / "orig" / "mlflow.db"
    orig.parent.mkdir()
    shutil.move(store, orig)
    registry = Registry(uri_of(orig))
    writer = open_report(registry.client, registry.experiment_id, "page", "")
    writer.write_json("page.json", {})
    writer.seal()
    run = writer.finish().run_id
    before, codes = world(orig.parent), list[int | None]()
    while 0 not in codes:
        copy = AWAY[how](orig, tmp_path / str(len(codes)))
        process = Started("registry", "relocate", *at(copy), first=Killer(len(codes) + 1).watch)
        codes.append(process.wait(60))
        killed = process.returncode != 0
        assert [bool(Binding(copy).trouble(home)) for home in Binding(copy).homes()] == [killed]
        assert Registry(uri_of(copy)).get(run).finished
        assert cli("registry", "relocate", *at(copy)).code == 0
        assert whole(copy, run)
        begin(copy)
        assert not [path for path in copy.parent.rglob(".*") if path.name not in (MARKER, ".mlflow.db.lock")]
    assert codes[:-1] == [-signal.SIGKILL] * (5 if how == "cp -r" else 8)
    assert world(orig.parent) == before


def test_two_at_once_end_well(copied_chain: Chain, cli: Cli, tmp_path: Path) -> None:
    store = cp_database(copied_chain.store, tmp_path / "elsewhere")
    processes = [Started("registry", "relocate", *at(store)) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0], [process.communicate() for process in processes]
    assert sorted(len(process.communicate()[0].splitlines()) for process in processes) == [0, 1]
    assert cli("verify", "--all", *at(store)).code == 0


# Who needs none


@pytest.mark.parametrize("how", ["cp -r", "mv", "the database alone", "the database alone, beside"])
def test_an_earlier_store_is_relocated_like_any(copied_chain: Chain, cli: Cli, tmp_path: Path, how: str) -> None:
    unbind(copied_chain.store)
    store = AWAY[how](copied_chain.store, tmp_path / "elsewhere")
    done = relocate(uri_of(store))
    assert (done.verified, done.original) == (5, None if how == "mv" else str(copied_chain.store))
    begin(store)
    assert cli("verify", "--all", *at(store)).code == 0
    if how != "mv":
        begin(copied_chain.store)
        assert cli("verify", "--all", *at(copied_chain.store)).code == 0


def test_a_backup_beside_a_moved_store_does_not_make_it_a_copy(copied_chain: Chain, tmp_path: Path) -> None:
    cp_beside(copied_chain.store, tmp_path)
    run = left(copied_chain.store)
    moved = mv(copied_chain.store, tmp_path / "moved")
    assert relocate(uri_of(moved)).original is None
    assert Registry(uri_of(moved)).get(run).status == "KILLED"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "postgresql://127.0.0.1:1/runs"])
def test_what_is_no_sqlite_store_is_refused(cli: Cli, uri: str) -> None:
    answer = cli("registry", "relocate", "--tracking-uri", uri)
    assert (answer.code, answer.out) == (2, "")
    assert "is not a SQLite store" in answer.err


def test_a_store_that_is_not_there_is_not_made(cli: Cli, tmp_path: Path) -> None:
    answer = cli("registry", "relocate")
    assert (answer.code, answer.out) == (1, "")
    assert list(tmp_path.iterdir()) == []
