"""rewindctl remove"""

import gc
import json
import os
import shlex
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import sqlalchemy.orm
from conftest import TINY, Chain, Cli, copy_chain, quickly

from rewindctl.cli import run as run_command
from rewindctl.registry import Registry
from rewindctl.registry import records as tag
from rewindctl.registry.claiming.ownership import this_process
from rewindctl.registry.roots.binding import MARKER
from rewindctl.registry.runs.writer import resume_file
from rewindctl.registry.store.connect import connect

STAGES = ("dense", "prune", "finetune", "weight_rewind", "lr_rewind")
RETRAINED = ("finetune", "weight_rewind", "lr_rewind")
ALIAS = "models:/resnet8-digits-dense@seed-0"


def at(chain: Chain) -> tuple[str, str]:
    return "--tracking-uri", chain.uri


def folder(chain: Chain, run: str) -> Path:
    uri = chain.registry().get(run, deleted=True).artifact_uri
    return Path(unquote(urlsplit(uri).path))


def files(chain: Chain) -> dict[str, int]:
    """Every file below the chain's folder but the store itself, and what binds it to its artifact root."""
    root = chain.store.parent
    found = {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}
    return {
        path: size
        for path, size in found.items()
        if not path.startswith(("mlflow.db", ".mlflow.db")) and MARKER not in path
    }


def rows(chain: Chain) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(chain.store)) as connection:
        return [
            row
            for query in (
                "SELECT run_uuid, status, lifecycle_stage FROM runs ORDER BY run_uuid",
                "SELECT run_uuid, key, value FROM tags ORDER BY run_uuid, key",
                "SELECT name, version, current_stage FROM model_versions ORDER BY version",
            )
            for row in connection.execute(query).fetchall()
        ]


def edit(chain: Chain, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(chain.store)) as connection, connection:
        assert connection.execute(sql, values).rowcount > 0


def run_under_way(chain: Chain, run: str, owner: str) -> None:
    edit(chain, "UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", run)
    edit(chain, "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?", owner, run, tag.OWNER)


def test_a_leaf_goes_with_every_byte_and_nothing_else(copied_chain: Chain, cli: Cli) -> None:
    before = files(copied_chain)
    own = {path: size for path, size in before.items() if f"/{copied_chain.finetune}/" in path}
    answer = cli("remove", copied_chain.finetune[:8], *at(copied_chain))
    assert (answer.code, answer.out) == (0, f"{copied_chain.finetune}\n")
    assert f"1 run removed, {sum(own.values()):,} bytes" in answer.err
    assert files(copied_chain) == {path: size for path, size in before.items() if path not in own}
    assert not folder(copied_chain, copied_chain.finetune).parent.exists()
    assert cli("show", copied_chain.finetune, *at(copied_chain)).code == 2
    assert {run.run_id for run in copied_chain.registry().search()} == {
        getattr(copied_chain, stage) for stage in STAGES if stage != "finetune"
    }


@pytest.mark.parametrize(("stage", "count"), [("dense", 4), ("prune", 3)])
def test_a_run_with_descendants_is_refused_and_they_are_listed(chain: Chain, cli: Cli, stage: str, count: int) -> None:
    before = files(chain), rows(chain)
    answer = cli("remove", getattr(chain, stage), *at(chain))
    *listed, error, hint = answer.err.splitlines()
    assert (answer.code, answer.out) == (2, "")
    assert f"run {getattr(chain, stage)} has {count} live descendants" in error
    assert "--recursive" in hint
    assert [line.split()[1] for line in listed] == ["retrain"] * 3 + ["prune"] * (count - 3)
    assert all(getattr(chain, name) in answer.err for name in RETRAINED)
    assert "finetune" in answer.err
    assert (files(chain), rows(chain)) == before


def test_a_dry_run_lists_bytes_and_touches_nothing(chain: Chain, cli: Cli) -> None:
    before = files(chain), rows(chain)
    line = ("remove", chain.dense, "--recursive", "--dry-run", *at(chain))
    answer = cli(*line)
    assert answer.code == 0
    assert [row.split()[0] for row in answer.out.splitlines()][-2:] == [chain.prune, chain.dense]
    assert f"5 runs would be removed, {sum(before[0].values()):,} bytes" in answer.err
    found = json.loads(cli(*line, "--json").out)
    assert (found["dry_run"], found["bytes"]) == (True, sum(before[0].values()))
    assert {row["run_id"] for row in found["runs"]} == {getattr(chain, stage) for stage in STAGES}
    assert (files(chain), rows(chain)) == before


def test_without_a_terminal_a_tree_needs_yes(chain: Chain, cli: Cli) -> None:
    before = files(chain), rows(chain)
    answer = cli("remove", chain.dense, "--recursive", *at(chain))
    assert (answer.code, answer.out) == (2, "")
    assert "5 runs" in answer.err.splitlines()[0]
    assert "--yes" in answer.err.splitlines()[1]
    assert (files(chain), rows(chain)) == before


def test_a_tree_goes_leaf_first_to_the_last_byte(copied_chain: Chain, cli: Cli) -> None:
    line = ("remove", ALIAS, "--recursive", "--yes", "--json", *at(copied_chain))
    answer = cli(*line)
    assert answer.code == 0
    order = [row["run_id"] for row in json.loads(answer.out)["runs"]]
    assert order[-2:] == [copied_chain.prune, copied_chain.dense]
    assert files(copied_chain) == {}
    assert copied_chain.registry().search() == []
    client = connect(copied_chain.uri)
    assert list(client.search_registered_models()) == []
    assert list(client.search_logged_models([copied_chain.registry().experiment_id])) == []


def test_all_of_a_tree_may_be_named_instead(copied_chain: Chain, cli: Cli) -> None:
    named = [getattr(copied_chain, stage) for stage in STAGES]
    assert cli("remove", *named, *at(copied_chain)).code == 0
    assert files(copied_chain) == {}


@pytest.mark.parametrize("answer", ["y", "n"])
def test_on_a_terminal_it_asks_and_shows_what_would_go(
    copied_chain: Chain, cli: Cli, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    before = files(copied_chain)
    ours, theirs = os.openpty()
    os.write(ours, f"{answer}\n".encode())
    with os.fdopen(os.dup(theirs), "r") as keys, os.fdopen(os.dup(theirs), "w") as screen:
        monkeypatch.setattr(sys, "stdin", keys)
        monkeypatch.setattr(sys, "stderr", screen)
        code = cli("remove", copied_chain.prune, "--recursive", *at(copied_chain)).code
    os.close(theirs)
    shown = ""
    with suppress(OSError):  # what a terminal is closed with, after all that it was sent
        while part := os.read(ours, 100_000).decode():
            shown += part
    os.close(ours)
    assert code == (0 if answer == "y" else 2)
    assert "4 runs" in shown
    assert all(getattr(copied_chain, stage) in shown for stage in ("prune", *RETRAINED))
    assert (files(copied_chain) == before) == (answer == "n")


def test_a_run_that_a_living_process_is_at_is_refused(copied_chain: Chain, cli: Cli) -> None:
    run_under_way(copied_chain, copied_chain.lr_rewind, f"{this_process().rsplit(':', 4)[0]}:{os.getppid()}")
    before = files(copied_chain), rows(copied_chain)
    for line in ((copied_chain.lr_rewind,), (copied_chain.dense, "--recursive", "--yes")):
        answer = cli("remove", *line, *at(copied_chain))
        assert (answer.code, answer.out) == (1, "")
        assert f"run {copied_chain.lr_rewind} is running" in answer.err
        assert str(os.getppid()) in answer.err
    assert (files(copied_chain), rows(copied_chain)) == before


def test_a_run_of_a_dead_process_goes_with_its_resume_point(copied_chain: Chain, cli: Cli) -> None:
    run_under_way(copied_chain, copied_chain.lr_rewind, f"{this_process().split(':')[0]}:{2**22 + 1}")
    point = resume_file(copied_chain.lr_rewind)
    point.parent.mkdir(parents=True)
    point.write_bytes(b"12345")
    size = sum(path.stat().st_size for path in folder(copied_chain, copied_chain.lr_rewind).rglob("*.*"))
    answer = cli("remove", copied_chain.lr_rewind, "--json", *at(copied_chain))
    assert json.loads(answer.out)["bytes"] == size + 5
    assert not point.exists()


class KilledError(BaseException):
    """What stands for SIGKILL: whoever catches it can change nothing more."""


class Moments:
    """Counts what changes the store or a folder, and ends the process, so to speak, at the moment before one."""

    def __init__(self) -> None:
        self.seen, self.last = 0, 0
        self.watching = False
        sys.addaudithook(self.audited)
        sqlalchemy.event.listen(sqlalchemy.orm.Session, "before_commit", lambda session: self.moment())

    def audited(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in ("os.remove", "os.rmdir"):
            self.moment()

    def moment(self) -> None:
        self.seen += self.watching
        if self.watching and 0 < self.last <= self.seen:  # nothing more is done, whoever catches the first
            raise KilledError

    @contextmanager
    def watched(self, last: int = 0) -> Iterator[None]:
        gc.collect()
        gc.disable()  # folders of earlier tests' registries go when they are collected: not in here
        self.seen, self.last, self.watching = 0, last, True
        try:
            yield
        finally:
            self.watching = False
            gc.enable()


@pytest.fixture(scope="module")
def moments(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> tuple[Moments, int]:
    """The counter, and how many moments the removal of a chain has."""
    copy, counter = copy_chain(chain, tmp_path_factory.mktemp("moments") / "copied"), Moments()
    with counter.watched():
        assert run_command(["remove", copy.dense, "--recursive", "--yes", "--quiet", *at(copy)]) == 0
    assert counter.seen > 50
    return counter, counter.seen


@pytest.mark.parametrize("sixth", [quickly(one, 1, 4) for one in range(6)])
def test_killed_anywhere_it_leaves_no_child_without_parent_and_the_same_command_finishes(
    moments: tuple[Moments, int], copied_chain: Chain, cli: Cli, sixth: int
) -> None:
    counter, total = moments
    line = ("remove", copied_chain.dense, "--recursive", "--yes", *at(copied_chain))
    with counter.watched(1 + total * sixth // 6):
        killed = cli(*line)
    assert (killed.code, "KilledError" in killed.err) == (1, True)
    left = copied_chain.registry().search()
    assert all(run.parent_id is None or run.parent_id in {one.run_id for one in left} for run in left)
    for run in left:
        assert not run.finished or cli("verify", run.run_id, *at(copied_chain)).code == 0
    assert cli(*line).code == 0
    assert files(copied_chain) == {}
    assert copied_chain.registry().search() == []
    assert list(connect(copied_chain.uri).search_registered_models()) == []


def test_the_same_command_again_has_nothing_left_to_do(copied_chain: Chain, cli: Cli) -> None:
    line = ("remove", copied_chain.finetune, *at(copied_chain))
    assert cli(*line).code == 0
    again = cli(*line)
    assert again.code == 0
    assert "0 bytes" in again.err


def test_a_run_deleted_in_mlflow_gives_back_its_space(copied_chain: Chain, cli: Cli) -> None:
    connect(copied_chain.uri).delete_run(copied_chain.finetune)
    assert folder(copied_chain, copied_chain.finetune).is_dir()
    assert cli("remove", copied_chain.finetune[:10], *at(copied_chain)).code == 0
    assert not folder(copied_chain, copied_chain.finetune).exists()


def test_a_removed_run_that_is_restored_in_mlflow_does_not_count(copied_chain: Chain, cli: Cli) -> None:
    assert cli("remove", copied_chain.lr_rewind, *at(copied_chain)).code == 0
    connect(copied_chain.uri).restore_run(copied_chain.lr_rewind)
    again = cli("retrain", "--parent", copied_chain.prune, "--method", "lr_rewind", *at(copied_chain))
    assert again.code == 0
    assert again.run_id != copied_chain.lr_rewind
    assert "its files are gone" in copied_chain.registry().get(copied_chain.lr_rewind).tags[tag.ERROR]


def test_the_alias_goes_to_the_longest_run_of_the_seed_that_is_left(copied_chain: Chain, cli: Cli) -> None:
    newer = cli("train-dense", *TINY, "--seed", "0", "--force", *at(copied_chain)).run_id
    cli("train-dense", *TINY, "--seed", "0", "--iterations", "12", *at(copied_chain))
    other = cli("train-dense", *TINY, "--seed", "1", *at(copied_chain)).run_id
    registry = copied_chain.registry()
    assert registry.resolve(ALIAS).run_id == newer
    assert cli("remove", newer, *at(copied_chain)).code == 0
    assert registry.resolve(ALIAS).run_id == copied_chain.dense
    assert registry.resolve(ALIAS.replace("-0", "-1")).run_id == other


REFUSED = [
    ("remove 0123456789abcdef0123456789abcdef", 2, "no run '0123456789abcdef0123456789abcdef'"),
    ("remove {finetune} abc", 2, "'abc' is not a run"),
    ("remove models:/resnet8-digits-dense@seed-7", 2, "no model models:/resnet8-digits-dense@seed-7"),
]


@pytest.mark.parametrize(("line", "code", "words"), REFUSED, ids=[case[0] for case in REFUSED])
def test_what_is_not_there_is_named_and_nothing_goes(chain: Chain, cli: Cli, line: str, code: int, words: str) -> None:
    before = files(chain)
    answer = cli(*shlex.split(line.format(finetune=chain.finetune)), *at(chain))
    assert (answer.code, answer.out) == (code, "")
    assert words in answer.err.splitlines()[0]
    assert files(chain) == before


def test_other_programs_runs_are_never_removed(copied_chain: Chain, cli: Cli) -> None:
    """Neither a project run above a baseline nor a run that somebody nested below one of ours."""
    client, registry = connect(copied_chain.uri), copied_chain.registry()
    above = client.create_run(registry.experiment_id).info.run_id
    client.set_tag(copied_chain.dense, tag.PARENT, above)
    below = client.create_run(registry.experiment_id, tags={tag.PARENT: copied_chain.finetune}).info.run_id
    before = files(copied_chain), rows(copied_chain)
    for run, named in ((above, above), (copied_chain.finetune, below)):
        answer = cli("remove", run, "--recursive", "--yes", *at(copied_chain))
        assert (answer.code, answer.out) == (2, "")
        assert f"run {named} is not a run of rewindctl" in answer.err
    assert (files(copied_chain), rows(copied_chain)) == before
    client.delete_run(below)
    assert cli("remove", copied_chain.dense, "--recursive", "--yes", *at(copied_chain)).code == 0
    assert client.get_run(above).info.lifecycle_stage == "active"


def test_a_version_of_somebody_elses_model_keeps_its_run(copied_chain: Chain, cli: Cli) -> None:
    client = connect(copied_chain.uri)
    client.create_registered_model("production")
    client.create_model_version("production", "file:///nowhere", copied_chain.finetune)
    answer = cli("remove", copied_chain.finetune, *at(copied_chain))
    assert answer.code == 1
    assert "version 1 of 'production'" in answer.err
    assert folder(copied_chain, copied_chain.finetune).is_dir()


@pytest.mark.parametrize("place", ["elsewhere/{run}/artifacts", "copied/mlruns/rewindctl", "copied"])
def test_files_outside_the_artifact_root_are_never_touched(
    copied_chain: Chain, cli: Cli, tmp_path: Path, place: str
) -> None:
    target = tmp_path / place.format(run=copied_chain.finetune)
    target.mkdir(parents=True, exist_ok=True)
    (target / "precious").write_text("somebody's")
    edit(copied_chain, "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", target.as_uri(), copied_chain.finetune)
    before = files(copied_chain), rows(copied_chain)
    answer = cli("remove", copied_chain.finetune, *at(copied_chain))
    assert answer.code == 1
    assert "outside the store's artifact root" in answer.err
    assert (target / "precious").exists()
    assert (files(copied_chain), rows(copied_chain)) == before


def test_where_files_cannot_be_deleted_the_run_stays_as_it_was(copied_chain: Chain, cli: Cli, tmp_path: Path) -> None:
    """A store that refuses: the folder is a link, which no artifact store follows to delete."""
    place = folder(copied_chain, copied_chain.finetune)
    place.rename(tmp_path / "moved")
    place.symlink_to(tmp_path / "moved")
    before = rows(copied_chain)
    answer = cli("remove", copied_chain.finetune, *at(copied_chain))
    assert answer.code == 1
    assert f"did not delete the files of run {copied_chain.finetune}" in answer.err
    assert (tmp_path / "moved" / "manifest.json").exists()
    assert rows(copied_chain) == before
    assert cli("verify", copied_chain.finetune, *at(copied_chain)).code == 0


def test_a_report_run_is_a_run_like_others(copied_chain: Chain, cli: Cli) -> None:
    registry = Registry(copied_chain.uri)
    writer = registry.start_report("a report", "made of others")
    writer.write_json("report.json", {})
    writer.seal()
    report = writer.finish()
    assert cli("remove", report.run_id, *at(copied_chain)).code == 0
    assert not folder(copied_chain, report.run_id).exists()


def test_a_run_is_made_anew_after_its_removal(copied_chain: Chain, cli: Cli) -> None:
    assert cli("remove", copied_chain.dense, "--recursive", "--yes", *at(copied_chain)).code == 0
    again = cli("train-dense", *TINY, "--seed", "0", "--json", *at(copied_chain))
    assert json.loads(again.out)["reused"] is False
    assert copied_chain.registry().resolve(ALIAS).run_id == json.loads(again.out)["run_id"]
