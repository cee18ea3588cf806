"""Shell completion: what is offered after each option, quickly, from real shells; and never an error."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest
from cli.test_help import HEAVY
from conftest import Chain

from rewindctl import names
from rewindctl.cli import complete
from rewindctl.cli import run as run_command
from rewindctl.datasets import datasets
from rewindctl.models import models
from rewindctl.paper.plan import Cell
from rewindctl.paper.request import NOT_FOR_SELECTION
from rewindctl.paper.study import shipped
from rewindctl.pruning.scores import criteria
from rewindctl.report.compare import Wanted
from rewindctl.report.figures import figures
from rewindctl.report.formats import formats
from rewindctl.report.runs import orders, value_of
from rewindctl.report.study_tables import study_tables
from rewindctl.report.tables import tables
from rewindctl.training.recipes import recipes

ROOT = Path(__file__).parents[2]
Offer = Callable[..., dict[str, str]]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offer:
    """What fish would show for a command line so far, each with its help; the line ends in a space or mid-word."""

    def ask(line: str) -> dict[str, str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setenv("_REWINDCTL_COMPLETE", "complete_fish")
            patch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
            patch.setenv("_TYPER_COMPLETE_ARGS", f"rewindctl {line}")
            with pytest.raises(SystemExit):
                run_command([])
        out, err = capsys.readouterr()
        assert err == ""
        rows = [row.partition("\t") for row in out.splitlines() if row]
        return {value: help for value, _, help in rows}

    return ask


# Names


CATALOGS = {
    "data set": datasets,
    "recipe": recipes,
    "criterion": criteria,
    "order": orders,
    "format": formats,
    "table": {*tables, *study_tables},
    "figure": {*figures, *(name for name, study in shipped().items() if study.part_of_paper and study.figures)},
    "study": shipped(),
}


@pytest.mark.parametrize("kind", CATALOGS)
def test_the_light_names_are_those_of_the_catalog(kind: str) -> None:
    assert sorted(names.BUILT_IN[kind]) == sorted(CATALOGS[kind])


def test_every_network_offered_can_be_built() -> None:
    assert [name for name in names.BUILT_IN["model"] if name not in models] == []


def test_every_table_and_figure_offered_can_be_asked_for() -> None:
    for figure in names.BUILT_IN["figure"]:
        Wanted(figure=figure).check()
    for table in ("results", "cells", "table1", "table5"):
        Wanted(table=table).check()


def test_every_column_offered_is_one_that_runs_and_cells_have(chain: Chain) -> None:
    runs = chain.registry().search()
    columns = names.BUILT_IN["column"]
    assert [column for column in columns if all(value_of(run, column) is None for run in runs)] == []
    cells = {field.name for field in fields(Cell)} - {*NOT_FOR_SELECTION} | {"compression"}
    assert set(names.BUILT_IN["cell column"]) == cells


OFFERED = [
    ("tra", {"train-dense"}),
    ("train-dense --model resnet1", {"resnet110"}),
    ("train-dense --model resnet8 --dataset cifar", {"cifar10", "cifar100"}),
    ("train-dense --recipe w", {"wrn"}),
    ("retrain --method ", {"finetune", "weight_rewind", "lr_rewind", "rewind"}),
    ("iterate --criterion m", {"magnitude"}),
    ("prune --criterion ", {"magnitude", "random", "gradient_magnitude"}),
    ("prune --structure s", {"structured"}),
    ("list --kind re", {"retrain", "replay", "report"}),
    ("list --sort c", {"compression"}),
    ("list --where compr", {"compression"}),
    ("list --where method=lr_rewind,test_accuracy_", {"method=lr_rewind,test_accuracy_best"}),
    ("reproduce --cells model=resnet20,sche", {"model=resnet20,schedule"}),
    ("reproduce fig", {f"fig{number}" for number in range(1, 7)}),
    ("reproduce fig1 lr", {"lr_clock"}),
    ("compare --table res", {"results"}),
    ("compare --figure c", {"curves"}),
    ("compare --format ", {"text", "markdown", "latex", "csv", "json"}),
    ("registry export all.bundle --study table", {f"table{number}" for number in range(1, 6)}),
    ("data fetch ", {"cifar10", "cifar100"}),
    ("tune --method l", {"lr_rewind"}),
]


@pytest.mark.parametrize(("line", "expected"), OFFERED, ids=[line for line, _ in OFFERED])
def test_names_are_offered(offer: Offer, tmp_path: Path, line: str, expected: set[str]) -> None:
    assert set(offer(line)) == expected
    assert list(tmp_path.iterdir()) == []


def test_imported_data_is_offered(offer: Offer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, name in (("given", "cells"), ("set", "leaves"), ("cache/rewindctl", "stars")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{name}.npz").touch()
    monkeypatch.setenv("REWINDCTL_DATA", str(tmp_path / "set"))
    assert {"leaves", "stars", "digits"} <= set(offer("demo --dataset "))
    assert set(offer(f"demo --data-dir {tmp_path / 'given'} --dataset c")) == {"cells", "cifar10", "cifar100"}


# Runs


def test_runs_are_offered_with_kind_and_name(chain: Chain, offer: Offer) -> None:
    shown = offer(f"show --tracking-uri {chain.uri} ")
    runs = chain.registry().search()
    assert {run.run_id: f"{run.kind}: {run.name}" for run in runs}.items() <= shown.items()
    assert set(shown) - {run.run_id for run in runs} == {"models:/resnet8-digits-dense@seed-0"}


KINDS = [
    ("prune --parent", {"dense", "finetune", "weight_rewind", "lr_rewind"}),
    ("retrain --parent", {"dense", "prune", "finetune", "weight_rewind", "lr_rewind"}),
    ("iterate --parent", {"dense"}),
    ("tune --parent", {"prune"}),
    ("lineage", {"dense", "prune", "finetune", "weight_rewind", "lr_rewind"}),
    ("verify", {"dense", "prune", "finetune", "weight_rewind", "lr_rewind"}),
    ("registry export a.bundle --run", {"dense", "prune", "finetune", "weight_rewind", "lr_rewind"}),
]


@pytest.mark.parametrize(("line", "stages"), KINDS, ids=[line for line, _ in KINDS])
def test_runs_of_the_right_kind_are_offered(chain: Chain, offer: Offer, line: str, stages: set[str]) -> None:
    group = "--tracking-uri " + chain.uri
    shown = {name for name in offer(f"{group} {line} ") if not name.startswith("models:/")}
    assert shown == {getattr(chain, stage) for stage in stages}
    assert set(offer(f"{group} {line} {chain.prune[:7]}")) == ({chain.prune} if "prune" in stages else set())


def test_a_run_under_way_is_shown_but_is_no_parent(copied_chain: Chain, offer: Offer) -> None:
    with closing(sqlite3.connect(copied_chain.store)) as store, store:
        store.execute("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", [copied_chain.prune])
        store.execute("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", [copied_chain.lr_rewind])
    group = "--tracking-uri " + copied_chain.uri
    shown = offer(f"{group} show ")
    assert shown[copied_chain.prune].startswith("prune, running: ")
    assert copied_chain.lr_rewind not in shown
    assert offer(f"{group} tune --parent ") == {}


def test_experiments_are_offered(chain: Chain, offer: Offer) -> None:
    assert set(offer(f"list --tracking-uri {chain.uri} --experiment ")) == {"Default", "rewindctl"}
    assert set(offer(f"--tracking-uri {chain.uri} --experiment re")) == {"rewindctl"}


def test_the_store_is_the_one_that_the_command_would_use(
    chain: Chain, offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert offer("show ") == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", chain.uri)
    assert chain.prune in offer("show ")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(chain.store.parent)
    assert chain.prune in offer("show ")


# Nothing to offer


@pytest.fixture
def locked(chain: Chain, tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "locked.db"
    path.write_bytes(chain.store.read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield f"sqlite:///{path}"


URIS = [
    "sqlite:///none.db",
    "sqlite:///file",
    "sqlite:///other.db",
    "sqlite:///",
    "http://127.0.0.1:1",
    "runs",
    "x://y",
]


@pytest.mark.parametrize("uri", URIS)
def test_without_a_store_that_can_be_read_nothing_is_offered(offer: Offer, tmp_path: Path, uri: str) -> None:
    (tmp_path / "file").write_text("no database\n" * 1000)
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE runs (name TEXT)")
    before = {path.name for path in tmp_path.iterdir()}
    assert offer(f"show --tracking-uri {uri} ") == {}
    assert offer(f"list --tracking-uri {uri} --experiment ") == {}
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_locked_store_offers_nothing(offer: Offer, locked: str) -> None:
    assert offer(f"show --tracking-uri {locked} ") == {}


@pytest.mark.parametrize("typed", ["%", "*", "[", "zz", "A", "0" * 40])
def test_what_is_no_run_finds_none(chain: Chain, offer: Offer, typed: str) -> None:
    assert offer(f"--tracking-uri {chain.uri} show {typed}") == {}


def test_a_folder_of_state_that_is_not_ours_is_nothing(
    offer: Offer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state" / "rewindctl").mkdir(parents=True)
    for text in ("{", "[]", "null", '{"model": 3}'):
        (tmp_path / "state" / "rewindctl" / "plugin-names.json").write_text(text)
        assert "resnet8" in offer("train-dense --model ")


# Plug-ins


@pytest.mark.slow
def test_names_of_plugins_are_offered_once_they_were_loaded(offer: Offer, tmp_path: Path) -> None:
    info = tmp_path / "site" / "theirs-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[rewindctl.plugins]\ntheirs = theirs\n")
    register = "from rewindctl import register_model\nregister_model('theirs_20')(lambda config: None)\n"
    (tmp_path / "site" / "theirs.py").write_text(register)
    assert offer("demo --model t") == {}
    program([*PYTHON, "data", "list"], PYTHONPATH=os.pathsep.join([str(tmp_path / "site"), str(ROOT)]))
    assert offer("demo --model t") == {"theirs_20": "of a plug-in"}
    program([*PYTHON, "data", "list"])
    assert offer("demo --model t") == {}, "removed"


# Real shells: in processes of their own

PYTHON = (sys.executable, "-m", "rewindctl")


def program(line: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    full = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path} | environment
    done = subprocess.run(line, env=full, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def bash(typed: list[str], source: str = 'eval "$(rewindctl --show-completion)"', **environment: str) -> list[str]:
    """What bash replies when TAB is pressed in the last of the words, taken apart as it does."""
    words = " ".join(f"'{word}'" for word in typed)
    script = f"{source}\nCOMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))\n"
    script += "_rewindctl_completion rewindctl; printf '%s\\n' \"${COMPREPLY[@]}\""
    done = program(["bash", "--norc", "-c", script], **environment)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_a_run(chain: Chain) -> None:
    typed = ["rewindctl", "tune", "--parent", chain.prune[:3]]
    assert bash(typed, MLFLOW_TRACKING_URI=chain.uri) == [chain.prune]


def test_bash_completes_after_a_store_that_it_took_apart(chain: Chain) -> None:
    uri = chain.uri.partition(":")
    assert bash(["rewindctl", "--tracking-uri", *uri, "iterate", "--method", "=", "lr"]) == ["lr_rewind"]
    assert bash(["rewindctl", "--tracking-uri", *uri, "tune", "--parent", ""]) == [chain.prune]


def test_installed_completion_is_there_in_the_next_shell(chain: Chain, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    # A second command, so that bash does not make way for rewindctl, which asks which shell called it.
    done = program(["bash", "--norc", "-c", "rewindctl --install-completion; true"], HOME=str(home))
    assert "completion installed" in done.stdout
    ready = program(["bash", "-ic", "complete -p rewindctl"], HOME=str(home))
    assert "_rewindctl_completion rewindctl" in ready.stdout
    reply = bash(["rewindctl", "retrain", "--method", "w"], 'source "$HOME/.bashrc"', HOME=str(home))
    assert reply == ["weight_rewind"]


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("complete_bash", "show "),
        ("complete_fish", "train-dense --model "),
    ],
)
def test_completion_loads_nothing_heavy(chain: Chain, shell: str, line: str) -> None:
    words = f"rewindctl {line}"
    done = program(
        [sys.executable, "-X", "importtime", "-m", "rewindctl"],
        MLFLOW_TRACKING_URI=chain.uri,
        _REWINDCTL_COMPLETE=shell,
        _TYPER_COMPLETE_FISH_ACTION="get-args",
        _TYPER_COMPLETE_ARGS=words,
        COMP_WORDS=words.replace(" ", "\n"),
        COMP_CWORD=str(len(words.split())),
    )
    loaded = {row.rpartition("|")[2].strip().partition(".")[0] for row in done.stderr.splitlines()}
    assert not loaded & HEAVY
    assert [row for row in done.stderr.splitlines() if not row.startswith("import time:")] == []
    assert (chain.prune if line == "show " else "resnet20") in done.stdout


def test_words_are_joined_for_bash_alone() -> None:
    for shell, expected in (("complete_bash", "a\nb:c=d\ne"), ("complete_zsh", "a\nb\n:\nc\n=\nd\ne")):
        environment = {"_REWINDCTL_COMPLETE": shell, "COMP_WORDS": "a\nb\n:\nc\n=\nd\ne", "COMP_CWORD": "6"}
        complete.join_words(environment)
        assert environment["COMP_WORDS"] == expected
    for at in ("", "x", "99"):
        complete.join_words({"_REWINDCTL_COMPLETE": "complete_bash", "COMP_WORDS": "", "COMP_CWORD": at})
