"""Help: the frozen list of commands, an example each that parses, and nothing heavy loaded to show it."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import Cli

from rewindctl.cli import PANELS, ClickException, app
from rewindctl.cli.help import OTHER, examples_of, text_of
from rewindctl.datasets import datasets
from rewindctl.models import models
from rewindctl.pruning.scores import criteria
from rewindctl.rewinding.methods import methods
from rewindctl.training.recipes import recipes

# The external contract: a change here is a change of the contract.
COMMANDS = (
    "bench",
    "compare",
    "data fetch",
    "data import",
    "data list",
    "demo",
    "doctor",
    "gc",
    "init",
    "iterate",
    "lineage",
    "list",
    "prune",
    "recover",
    "registry export",
    "registry import",
    "registry relocate",
    "remove",
    "replay",
    "reproduce",
    "retrain",
    "show",
    "train-dense",
    "tune",
    "ui",
    "verify",
)
HEAVY = {"torch", "mlflow", "pandas"}


def leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command under its full name."""
    for name, child in command.commands.items():
        if hasattr(child, "commands"):
            yield from leaves(child, f"{name} ")
        else:
            yield path + name, child


ALL = dict(leaves(typer.main.get_command(app)))


def test_the_commands_are_those_of_the_contract() -> None:
    assert tuple(sorted(ALL)) == COMMANDS


# Options that name an entry of a catalog: what an example gives there must exist.
CATALOGS = {"model": models, "dataset": datasets, "method": methods, "criterion": criteria, "recipe": recipes}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_few_examples_and_they_parse(name: str) -> None:
    examples = examples_of(ALL[name].help)
    assert 2 <= len(examples) <= 4
    for example in examples:
        program, *words = shlex.split(example)
        depth = len(name.split())
        assert (program, " ".join(words[:depth])) == ("rewindctl", name)
        context = ALL[name].make_context(name, words[depth:], resilient_parsing=False)
        for option, catalog in CATALOGS.items():
            given = context.params.get(option)
            names = given if isinstance(given, list | tuple) else [given]  # some may be given again
            assert all(name is None or name in catalog for name in names), example


def test_a_wrong_example_would_not_parse() -> None:
    for words in (["--paernt", "abcdef"], ["--parent", "abcdef", "--sparsity", "much"], []):
        with pytest.raises(ClickException):
            ALL["prune"].make_context("prune", words, resilient_parsing=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_the_global_options(name: str) -> None:
    options = {option for parameter in ALL[name].params for option in parameter.opts}
    assert {"--tracking-uri", "--experiment", "--json", "--quiet"} <= options


@pytest.mark.parametrize("name", ["train-dense", "prune", "retrain", "iterate", "tune", "demo"])
def test_every_command_that_runs_something_can_be_forced_and_placed(name: str) -> None:
    options = {option for parameter in ALL[name].params for option in parameter.opts}
    assert {"--force", "--device", "--data-dir", "--wait"} <= options


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_line_of_help(name: str) -> None:
    for parameter in ALL[name].params:
        assert parameter.help or parameter.name == "help", parameter.name


def test_every_command_has_its_panel_and_every_panel_its_commands() -> None:
    named = [name for names in PANELS.values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) == {name.split()[0] for name in COMMANDS}


@pytest.mark.parametrize("columns", ["40", "80", "200"])
@pytest.mark.parametrize("line", [(), *(tuple(name.split()) for name in COMMANDS)], ids=" ".join)
def test_help_loses_nothing_at_any_width(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...], columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    answer = cli(*line, "--help")
    assert (answer.code, answer.err) == (0, "")
    if not line:
        assert [panel for panel in PANELS if f"\n{panel}:\n" not in answer.out] == []
        assert f"\n{OTHER}:\n" not in answer.out
        return
    command, said = ALL[" ".join(line)], squeezed(answer.out)  # long words are broken at 40 columns
    options = [option for parameter in command.params for option in parameter.opts if option.startswith("-")]
    texts = [text_of(command.help), *options, *(parameter.help or "" for parameter in command.params)]
    assert [text for text in texts if squeezed(text) not in said] == []
    assert [example for example in examples_of(command.help) if f"\n  {example}\n" not in answer.out] == []


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_brackets_of_help_are_not_taken_for_markup(cli: Cli) -> None:
    assert "[$MLFLOW_EXPERIMENT_NAME, rewindctl]" in " ".join(cli("--help").out.split())
    assert "train/<class>/" in cli("data", "import", "--help").out


# In processes of their own: what is loaded is the point.


def imported(names: Sequence[str]) -> list[tuple[str, set[str]]]:
    """What `rewindctl NAME --help` prints for each of the names, one after the other in one process.

    With it the top-level packages that were imported by then: nothing heavy after the last is nothing heavy ever.
    """
    source = """if True:
        import contextlib, io, json, sys
        from rewindctl.cli import run
        for name in json.load(sys.stdin):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                assert run([*name.split(), "--help"]) == 0
            print(json.dumps([out.getvalue(), sorted({module.partition(".")[0] for module in sys.modules})]))
    """
    line = [sys.executable, "-c", source]
    done = subprocess.run(line, input=json.dumps(names), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(answer) for answer in done.stdout.splitlines()]
    return [(out, set(packages)) for out, packages in answers]


def test_the_help_of_a_command_loads_nothing_heavy() -> None:
    (whole, _), *answers = imported(["", *COMMANDS])
    assert {name.split()[0] for name in COMMANDS} <= set(whole.split())
    for name, (out, packages) in zip(COMMANDS, answers, strict=True):
        assert f"Usage: rewindctl {name} [OPTIONS]" in out
        assert f"Examples:\n  rewindctl {name}" in out
        assert "typer" in packages
        assert not packages & HEAVY, name


def test_the_console_script_and_the_module_agree() -> None:
    script = Path(sys.executable).with_name("rewindctl")
    for arguments in (["--help"], ["prune", "--help"]):
        answers = [
            subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
            for program in ([script], [sys.executable, "-m", "rewindctl"])
        ]
        assert answers[0].returncode == answers[1].returncode == 0
        assert (answers[0].stdout, answers[0].stderr) == (answers[1].stdout, answers[1].stderr)
