"""The page has every table and figure, runs nothing, fetches nothing, and is the same whenever it is made."""

import base64
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from conftest import Cli
from report.conftest import Tiny
from study_rows import HOSTILE, TINY_STUDY, made_rows, text_of, tiny_study

from rewindctl.cli import run as run_command
from rewindctl.paper.study import shipped
from rewindctl.report.formats import formats
from rewindctl.report.page import how_made, html_page, markdown_page
from rewindctl.report.study import study_report


class Page(HTMLParser):
    """The tags of a page, the addresses in it, and its text; every tag that opens closes."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def written(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    (folder / "tiny.yaml").write_text(TINY_STUDY)
    line = ["compare", "--study", f"{folder}/tiny.yaml", "--report", "--output", f"{folder}/out", "--quiet"]
    assert run_command([*line, "--tracking-uri", tiny.uri]) == 0
    return folder / "out"


def test_html_stands_alone_and_escapes_every_name(written: Path) -> None:
    text = (written / "report.html").read_text()
    page = Page(text)
    assert HOSTILE in page.text
    assert not {"script", "link", "iframe", "object", "a", "form"} & set(page.tags)
    assert page.addresses
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    outside = re.sub(r'"data:[^"]*"', "", text).replace(HOSTILE.split("(")[-1].rstrip(")"), "")
    assert "http" not in outside.replace("http-equiv", "")
    assert "default-src 'none'" in text


def test_page_has_every_table_and_figure_and_how_it_was_made(written: Path, tiny: Tiny) -> None:
    page = Page((written / "report.html").read_text())
    assert page.tags.count("table") == len(tiny_study.tables) + 2  # the claims, and how it was made
    assert page.tags.count("img") == 1
    markdown = (written / "report.md").read_text()
    names = re.findall(r"!\[.*?(?<!\\)\]\((\S+)\)", markdown)
    assert names == ["tiny-scaled-x0.08.png"]
    assert all((written / name).is_file() for name in names)
    newest = max(tiny.registry().get(run_id).ended for run_id in tiny.runs.values())
    for text in (page.text, markdown):
        assert pd.Timestamp(newest, unit="ms").strftime("%Y-%m-%dT%H:%M:%SZ") in text
        for part in ("experiment rewindctl", "rewindctl reproduce tiny", "x0.08", "scaled x0.08"):
            assert part in text
    assert "<script" not in markdown


def test_figure_inside_is_the_one_that_is_written(written: Path) -> None:
    (address,) = Page((written / "report.html").read_text()).addresses
    assert base64.b64decode(address.partition(",")[2]) == (written / "tiny-scaled-x0.08.svg").read_bytes()


def test_page_made_again_is_the_same_to_the_byte(written: Path, tiny: Tiny, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY_STUDY)
    cli("compare", "--study", "tiny.yaml", "--report", "--output", "again", "--tracking-uri", tiny.uri)
    for path in written.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_claims_are_on_the_page_where_there_are_some() -> None:
    study = shipped()["table5"]
    report = study_report(made_rows(study), study)
    made = how_made(report.rows, "a test", [])
    claims = pd.DataFrame({"claim": ["<b>1</b>"], "verdict": ["not decided by 3 trials"]})
    for make in (markdown_page, html_page):
        assert "not decided by 3 trials" in make([report.section()], made, claims)
        assert "<b>" not in make([report.section()], made, claims)
        assert "Claims" not in make([report.section()], made)


@pytest.mark.slow
def test_report_of_everything_has_the_studies_that_have_runs(cli: Cli, tmp_path: Path) -> None:
    rows = pd.concat([made_rows(shipped()[name]) for name in ("fig3", "table2")], ignore_index=True)
    rows.drop_duplicates("run_id").to_csv(tmp_path / "runs.csv", index=False)
    answer = cli("compare", "--from", "runs.csv", "--report", "--output", "out")
    assert answer.code == 0, answer.err
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"fig3.png", "fig3.svg", "fig3.csv", "fig3-cells.txt", "curves.png", "results.txt", "table2.txt"} <= made
    assert not [name for name in made if name.startswith(("fig1", "table5"))]
    assert answer.out == (tmp_path / "out" / "results.txt").read_text()


def test_latex_of_every_table_is_a_tabular_that_compiles(tmp_path: Path) -> None:
    texts = []
    for name, scale in (("fig1", 1.0), ("fig1", 0.01), ("table1", 1.0), ("table3", 1.0), ("table4", 1.0)):
        study = shipped()[name].model_copy(update={"title": HOSTILE + "\n\\end{document}"})
        texts.append(text_of(study_report(made_rows(study, scale), study, scale=scale), "latex"))
    texts.append(formats["latex"](pd.DataFrame({"a": ["[x]", "*", 'é"|<>', "#$%&_{}~^\\"]})))
    for text in texts:
        lines = [line for line in text.splitlines() if not line.startswith("%")]
        assert (lines[0][:15], lines[-1]) == (r"\begin{tabular}", r"\end{tabular}")
        assert r"\end{document}" not in "\n".join(lines)
    if shutil.which("pdflatex"):  # where TeX is installed, TeX has the last word
        body = "\n\n".join(texts)
        (tmp_path / "all.tex").write_text(f"\\documentclass{{article}}\\begin{{document}}\n{body}\n\\end{{document}}")
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
