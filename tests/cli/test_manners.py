"""Manners: nothing is broken at 40 columns, nothing is taken for markup, and Ctrl-C says how to go on."""

import re
import shlex
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Answer, Chain, Cli, copy_chain
from started import Started

from rewindctl.cli import _typed
from rewindctl.cli.session import KEPT_RUNS

READING = ("list", "show {run}", "lineage {run}", "verify {run}", "list --json", "lineage {run} --format dot")


@pytest.mark.parametrize("line", READING)
def test_data_is_the_same_at_any_width(chain: Chain, cli: Cli, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    def at(columns: str) -> Answer:
        monkeypatch.setenv("COLUMNS", columns)
        return cli(*line.format(run=chain.prune).split(), "--tracking-uri", chain.uri)

    narrow = at("40")
    assert narrow == at("80") == at("400")
    if line.split(maxsplit=1)[0] in ("list", "lineage"):
        assert {chain.dense, chain.prune, chain.finetune} <= set(re.findall(r"[0-9a-f]{32}", narrow.out))


PLACES = [r"C:\runs\[x]\mlflow.db", r"runs[/red]", r"C:\new\table[bold]"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("columns", ["40", "200"])
def test_errors_have_the_value_as_it_was_typed(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, place: str, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")
    lines = [
        cli("list", "--where", place),
        cli("registry", "import", place),
        cli("train-dense", "--model", place, "--dataset", "digits"),
        cli("reproduce", place),
        cli("prune", "--parent", place, "--sparsity", "much"),
    ]
    for answer in lines[:4]:
        message = answer.err.splitlines()[0]
        assert place in message or repr(place)[1:-1] in message
    for answer in lines:
        assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 2), answer
        assert "\x1b" not in answer.err


def test_the_command_to_go_on_with_can_be_typed_and_has_no_password() -> None:
    words = ["list", "--where", "compression>5", "--tracking-uri", "http://me:s3cret@host/x"]
    assert _typed(words) == "rewindctl list --where 'compression>5' --tracking-uri 'http://***@host/x'"
    assert shlex.split(_typed(["data", "import", "a b", "it's"])) == ["rewindctl", "data", "import", "a b", "it's"]


# Ctrl-C, at work: processes of their own

LONG = ("--iterations", "1000000")
COMMANDS = {
    "train-dense": ("train-dense", "--model", "resnet8", "--dataset", "digits", "--seed", "7", *LONG),
    "retrain": ("retrain", "--parent", "{prune}", "--method", "finetune", *LONG),
    "iterate": ("iterate", "--parent", "{dense}", "--method", "finetune", "--until", "0.9", *LONG),
    "demo": ("demo", "--seeds", "9", *LONG),
    "tune": ("tune", "--parent", "{prune}", "--trials", "2", *LONG),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupted_command_says_what_is_kept_and_how_to_go_on(chain: Chain, tmp_path: Path, name: str) -> None:
    copied = copy_chain(chain, tmp_path / "copied")
    words = [word.format(prune=copied.prune, dense=copied.dense) for word in COMMANDS[name]]
    words += ["--tracking-uri", copied.uri, "--device", "cpu"]
    words += ["--evaluate-every", "5"] if name in ("train-dense", "tune") else []
    process = Started(*words)
    process.until(lambda: under_way(copied.store))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, ""), err
    *_, error, hint = err.splitlines()
    kept = "finished search trials are kept" if name == "tune" else KEPT_RUNS
    assert error.startswith(f"error: interrupted; {kept}")
    assert shlex.split(hint.removeprefix("hint: go on with: ")) == ["rewindctl", *words]
    if name != "tune":
        kept = r"(kept up to iteration [0-9,]+|nothing saved yet)"
        assert re.search(rf"^stopped  .* \([0-9a-f]{{8}}\): {kept}$", err, re.MULTILINE)


def under_way(store: Path) -> bool:
    with closing(sqlite3.connect(store, timeout=20)) as connection:
        query = """
            SELECT COUNT(*) FROM metrics JOIN runs USING (run_uuid) JOIN tags USING (run_uuid)
            WHERE status = 'RUNNING' AND tags.key = 'rewindctl.kind' AND tags.value != 'prune'
        """
        return bool(connection.execute(query).fetchone()[0])
