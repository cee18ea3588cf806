"""The pages: links lead somewhere, commands parse, the tutorial's run and answer as shown, the reference is fresh."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Template
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml
from conftest import Chain, Cli
from started import Started

from rewindctl.cli import app
from rewindctl.registry import Registry, RunRecord

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("examples/*.ipynb"))
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "benchmarks" / "README.md", *NOTEBOOKS]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    .*\n|^\n)+", re.MULTILINE)
SHELL = ("console", "bash", "sh", "")


def text_of(page: Path) -> str:
    """Its Markdown; of a notebook that of its text cells."""
    if page.suffix != ".ipynb":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def without_code(text: str) -> str:
    return re.sub(r"`[^`]*`", "", INDENTED.sub("\n", FENCE.sub("", text)))


def anchors(page: Path) -> set[str]:
    """What `#...` can name in a page: its headings in lower case, blanks as hyphens, other signs left out."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", LINK.sub("", heading)).strip().lower().replace(" ", "-") for heading in headings]
    return {
        name if not plain[:place].count(name) else f"{name}-{plain[:place].count(name)}"
        for place, name in enumerate(plain)
    }


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def broken(page: Path, target: str) -> str | None:
    """What is wrong with a link, None when it leads somewhere. Other sites are not asked."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return None if parts.scheme == "https" and "." in parts.netloc else "no https:// address"
    file = (page.parent / parts.path).resolve() if parts.path else page
    if not file.is_relative_to(ROOT):
        return "not of this repository"
    if not file.exists():
        return "no such file"
    if parts.fragment and (file.suffix != ".md" or parts.fragment not in anchors(file)):
        return "no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    found = {target: broken(page, target) for target in LINK.findall(without_code(text_of(page)))}
    assert {target: problem for target, problem in found.items() if problem} == {}


def test_broken_links_are_noticed() -> None:
    page = ROOT / "docs" / "concepts.md"
    assert broken(page, "../README.md") is None
    assert broken(page, "#stage") is None
    for target in ("nowhere.md", "tutorial.md#nowhere", "#nowhere", "http://example.org", "../../outside.md"):
        assert broken(page, target) is not None, target


@pytest.mark.parametrize("page", ["tutorial", "concepts", "how-to", "reference", "faq"])
def test_every_page_is_reached_from_the_front_door(page: str) -> None:
    assert f"docs/{page}.md" in LINK.findall((ROOT / "README.md").read_text())


# Commands


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, child in command.commands.items():
        if hasattr(child, "commands"):
            yield from leaves(child, (*path, name))
        else:
            yield (*path, name), child


COMMANDS = dict(leaves(typer.main.get_command(app)))


def shell_lines(text: str) -> Iterator[str]:
    """The commands in code blocks, prompts taken off, lines that go on put together; output is left out."""
    blocks = [body for language, body in FENCE.findall(text) if language in SHELL]
    blocks += [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in INDENTED.findall(FENCE.sub("", text))]
    for block in blocks:
        joined = block.replace("\\\n", " ").replace("\n> ", "\n$ ")
        prompted = re.search(r"^\$ ", joined, re.MULTILINE)
        for line in joined.splitlines():
            if not prompted or line.startswith("$ "):
                yield line.removeprefix("$ ")


def calls(line: str) -> Iterator[list[str]]:
    """The words of every call of rewindctl in a line of shell, the program's name taken off."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = list(lexer)
    for place, word in enumerate(words):
        if word == "rewindctl" and (place == 0 or words[place - 1] in ("(", "|", "&&", ";", "do")):
            rest = words[place + 1 :]
            end = next((i for i, other in enumerate(rest) if set(other) <= set("();<>|&")), len(rest))
            yield rest[:end]


def parse(words: list[str]) -> None:
    """As the command line would, up to running. Raises: whatever Typer says of wrong usage."""
    if words[0].startswith("--"):
        assert words[0] in {"--help", "--version", "--install-completion", "--show-completion"}, words
        return
    path = next((path for path in COMMANDS if tuple(words[: len(path)]) == path), None)
    assert path is not None, f"no command {words}"
    arguments = [word for word in words[len(path) :] if word not in ("--help", "--debug")]
    if "--help" in words:
        arguments = []
    if "--help" not in words:
        COMMANDS[path].make_context(" ".join(path), arguments)


def all_calls(page: Path) -> list[list[str]]:
    lines = shell_lines(text_of(page))
    return [call for line in lines if re.search(r"\brewindctl\b", line) for call in calls(line)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_shown_parses(page: Path) -> None:
    for words in all_calls(page):
        parse(words)


def test_there_are_commands_to_parse() -> None:
    assert {name_of(page): len(all_calls(page)) > 3 for page in PAGES[:1]} == {"README.md": True}
    assert len(all_calls(ROOT / "docs" / "how-to.md")) > 25


@pytest.mark.parametrize(
    "line",
    [
        "rewindctl prnue",
        "X=$(rewindctl prune --parent a --sparsty 0.5)",
        "rewindctl data fetch | cat",
        "rewindctl --nosuch",
    ],
)
def test_wrong_commands_are_noticed(line: str) -> None:
    (words,) = calls(line)
    with pytest.raises(Exception, match=r"no command|No such option|Missing|nosuch"):
        parse(words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_named_in_the_text_are_those_of_their_command(page: Path) -> None:
    prose = INDENTED.sub("\n", FENCE.sub("", text_of(page)))
    for call in re.findall(r"`rewindctl ([^`]+)`", prose):
        words = call.split()
        path = next((path for path in COMMANDS if tuple(words[: len(path)]) == path), None)
        groups = {path[0] for path in COMMANDS if len(path) > 1}
        assert path or words[0] in groups or words[0].startswith("--"), call
        known = (
            {text for option in COMMANDS[path].params for text in (*option.opts, *option.secondary_opts)}
            if path
            else set()
        )
        assert not path or {word for word in words if word.startswith("--")} <= known | {"--help"}, call


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_and_project_entry_points_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    entries = set(yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"])
    code = "\n".join([*shell_lines(text_of(page)), *re.findall(r"`([^`]+)`", text_of(page))])
    assert set(re.findall(r"^ *make ([a-z-]+)", code, re.MULTILINE)) <= targets
    assert set(re.findall(r"mlflow run .* -e (\w+)", code)) <= entries


# The tutorial, run


def told(text: str) -> list[tuple[str, list[str]]]:
    """The commands of the blocks marked `<!-- run -->`, each with the lines shown below it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"<!-- run -->\n```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
    return found


def masked(line: str) -> str:
    """Without what differs from run to run: folders, IDs, numbers, devices, widths."""
    line = re.sub(r"/\S*/", "/", line)
    line = re.sub(r"\b[0-9a-f]{8}(?:[0-9a-f]{24})?\b", "ID", line)
    line = re.sub(r" on .+ one at a time", " on DEVICE one at a time", line)
    line = re.sub(r"[▁-█]+", "CURVE", line)
    line = re.sub(r"[-+]?\d[\d,.:]*", "N", line)
    return re.sub(r"\s+", " ", re.sub(r"-{2,}", "--", line)).strip()


def fits(shown: list[str], answered: list[str]) -> bool:
    """Whether an answer is what is shown; `...` stands for any lines. A slow machine says on the way how far it is."""
    answered = [line for line in answered if not re.search(r"\d of [\d,]+ iterations, .* left$", line)]
    pattern = "".join(r"(?:.*\n)*" if line == "..." else re.escape(masked(line)) + "\n" for line in shown)
    return re.fullmatch(pattern, "".join(f"{masked(line)}\n" for line in answered)) is not None


def test_what_is_masked_and_what_is_not() -> None:
    shown = ["finished dense s0 resnet8-digits (57b65fe6): test accuracy 98.37%", "...", "wrote /home/you/plots/a.png"]
    answered = [
        "finished dense s1 resnet8-digits (00000000): test accuracy 9.1%",
        "and more",
        "wrote /tmp/x/plots/a.png",
    ]
    assert fits(shown, answered)
    assert fits(shown, [answered[0], answered[2]])
    for wrong in (
        answered[:2],
        ["", *answered],
        [*answered, ""],
        [answered[0].replace("dense", "prune"), *answered[1:]],
    ):
        assert not fits(shown, wrong)


@pytest.mark.slow
def test_the_tutorial_answers_as_it_shows(tmp_path: Path) -> None:
    commands = told((ROOT / "docs" / "tutorial.md").read_text())
    assert len(commands) > 8
    variables: dict[str, str] = {}
    for command, shown in commands:
        assigned, line = re.fullmatch(r"(?:(\w+)=\$\()?rewindctl (.*?)\)?", command).groups()
        process = Started(*shlex.split(Template(line).substitute(variables)), merged=not assigned)
        out, err = process.communicate()
        assert process.returncode == 0, f"{command}\n{out}{err}"
        if assigned:
            variables[assigned] = out.strip()
        answer = err if assigned else out
        assert fits(shown, answer.splitlines()), f"{command}\n{answer}"


@pytest.mark.parametrize(("page", "plot"), [("README.md", "digits"), ("docs/tutorial.md", "cifar10-scaled")])
def test_tables_of_measured_runs_are_those_beside_their_figures(page: str, plot: str) -> None:
    table = (ROOT / "plots" / plot / "results.txt").read_text().splitlines()
    assert "\n".join(f"    {line}" for line in table) in (ROOT / page).read_text()


# The reference


def words() -> ModuleType:
    spec = importlib.util.spec_from_file_location("words", ROOT / "docs" / "making" / "words.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_fresh_whatever_is_installed_and_however_wide_the_terminal_is(tmp_path: Path) -> None:
    info = tmp_path / "greedy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greedy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rewindctl.plugins]\ngreedy = greedy\n")
    source = "from rewindctl import register_model\nregister_model('greedy')(print)\nraise SystemExit('loaded')\n"
    (tmp_path / "greedy.py").write_text(source)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "COLUMNS": "30", "LC_ALL": "C"}
    line = [sys.executable, str(ROOT / "docs" / "make_reference.py"), "--check"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def check_contents(registry: Registry, run: RunRecord) -> None:
    """Everything in a run is in the reference, and everything that the reference promises of its kind is in it."""
    known, kind = words(), run.kind
    paths = {re.sub(r"/\d+\.", "/<iteration>.", path) for path in registry.artifacts.paths(run)}
    tags = {name for name in run.tags if name.startswith("rewindctl.")}
    metrics = {re.sub(r"_seed_\d+$", "", name) for name in run.metrics}
    for what, found, table in (
        ("tag", tags, known.TAGS),
        ("metric", metrics, known.METRICS),
        ("file", paths, known.ARTIFACTS),
    ):
        promised = {name for name, (kinds, _) in table.items() if kind in kinds}
        assert promised <= found | set(run.tags), (what, promised - found)
        extra = found - set(table)
        assert kind == "report" or not extra, (what, extra)


@pytest.mark.parametrize("name", ["dense", "prune", "finetune", "weight_rewind", "lr_rewind"])
def test_the_reference_has_all_that_is_in_a_stages_run(chain: Chain, name: str) -> None:
    registry = chain.registry()
    check_contents(registry, registry.get(getattr(chain, name)))


@pytest.mark.slow
def test_the_reference_has_all_that_is_in_a_search_and_a_report(copied_chain: Chain, cli: Cli) -> None:
    uri = ("--tracking-uri", copied_chain.uri)
    search = ("tune", "--parent", copied_chain.prune, "--trials", "2", "--compare-seeds", "1")
    assert cli(*search, *uri, "--quiet").code == 0
    assert cli("compare", "--report", "--log", *uri).code == 0
    registry = copied_chain.registry()
    runs = [run for run in registry.search() if run.kind in ("tune", "trial", "report")]
    assert {run.kind for run in runs} == {"tune", "trial", "report"}
    for run in runs:
        check_contents(registry, run)
