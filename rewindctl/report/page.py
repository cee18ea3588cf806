"""The report: tables, figures, claims and how it was made, as Markdown, as one HTML file, and as a run in MLflow."""

import base64
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rewindctl import __version__
from rewindctl.counting import count_of
from rewindctl.registry import Registry, RunRecord
from rewindctl.report.formats import Table, as_table, formats, right_aligned
from rewindctl.report.section import Drawing, Section
from rewindctl.report.tables import precision_name, scale_name
from rewindctl.system.files import writing
from rewindctl.system.safe_text import markdown
from rewindctl.system.temporary import temporary_folder

if TYPE_CHECKING:
    from rewindctl.report.compare import ComparisonReport

PACKAGES = ("pandas", "matplotlib")
PAGE = Path(__file__).with_name("page.html")  # a template
TITLE = "Rewinding and fine-tuning: results"
NOTES = (
    "Every number is a median over n trials; a trial is a seed with its own dense baseline. Spreads are the 10th and "
    "90th percentiles of the trials; a single trial has none.",
    "A cell with fewer trials than planned says so and is never filled. Scaled runs are marked wherever they are "
    "shown and have no difference from the published numbers.",
)


def how_made(rows: pd.DataFrame, source: str, commands: Sequence[str]) -> pd.DataFrame:
    """What a reader needs to make the page again; its date is that of the newest run, so that it stays the same."""
    ended = [str(value) for value in rows["ended"] if pd.notna(value) and value]
    devices = sorted({str(device) for device in rows["device"] if pd.notna(device) and device})
    precisions = sorted({precision_name(row) for _, row in rows.iterrows()})
    scales = sorted(set(rows["scale"].dropna()))
    made = {
        "newest run": max(ended, default="unknown"),
        "runs from": source,
        "runs": f"{count_of(rows['run_id'].nunique(), 'result')}, "
        f"{count_of(rows['dense_run_id'].nunique(), 'dense baseline')}",
        "devices": "; ".join(devices) or "unknown",
        **({"precisions": ", ".join(precisions)} if len(precisions) > 1 else {}),
        "lengths": ", ".join(scale_name(scale) for scale in scales) or "none",
        "drawn with": f"rewindctl {__version__}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "versions of a run": "environment.json of the run (packages, driver, flags, commit)",
        **{f"command {number}": command for number, command in enumerate(commands, start=1)},
    }
    return pd.DataFrame({"what": made.keys(), "is": made.values()})


def markdown_page(sections: Sequence[Section], made: pd.DataFrame, claims: Table | None = None) -> str:
    """`report.md`; its figures are the PNG files beside it."""
    parts = [f"# {TITLE}", *NOTES]
    for section in sections:
        parts.append(f"## {_markdown(section.title)}")
        parts += [f"![{_markdown(drawing.alt)}]({stem}.png)" for stem, drawing in section.drawings.items()]
        parts += [formats["markdown"](table) for table in section.tables.values()]
    if claims is not None:
        parts += ["## Claims", formats["markdown"](claims)]
    parts += ["## How it was made", formats["markdown"](made)]
    return "\n\n".join(parts)


def html_page(sections: Sequence[Section], made: pd.DataFrame, claims: Table | None = None) -> str:
    """`report.html`: figures inside, no scripts, nothing fetched, every name escaped."""
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(PAGE.read_text())
    return page.render(
        title=TITLE,
        notes=NOTES,
        sections=sections,
        claims=None if claims is None else as_table(claims),
        made=as_table(made),
        svg=_svg,
        right_aligned=right_aligned,
    )


def _svg(drawing: Drawing) -> str:
    """A figure as base64."""
    with temporary_folder() as folder:
        path = Path(folder) / "figure.svg"
        with writing(path):
            drawing.save(path)
        return base64.b64encode(path.read_bytes()).decode()


def _markdown(text: str) -> str:
    """A line of Markdown that is only text."""
    return markdown(" ".join(text.split()))


LONGEST_NOTE = 4_500  # MLflow's stores take 5,000 characters


def log_report(registry: Registry, comparison: "ComparisonReport") -> RunRecord:
    """A finished run of kind `report` with the page, tables, figures and rows. Raises: RegistryError."""
    wanted = comparison.wanted
    names = [report.study.name for report in comparison.reports]
    writer = registry.start_report(f"report {' '.join(names) or 'of all runs'}"[:200], _note(comparison))
    try:
        params = {
            "studies": ",".join(names) or "none",
            "against": wanted.against,
            "scale": f"{wanted.scale:g}",
            "accuracy": wanted.accuracy,
            "delta": wanted.delta,
            "source": comparison.source,
        }
        writer.log_params(params)
        writer.log_metrics({"runs": float(comparison.rows["run_id"].nunique())})
        with temporary_folder() as folder:
            for path in comparison.write_files(Path(folder), pages=True):
                with writer.artifact(path.name) as local:
                    local.write_bytes(path.read_bytes())
        writer.seal()
        return writer.finish()
    except BaseException as error:
        writer.fail(error)
        raise


def _note(comparison: "ComparisonReport") -> str:
    """The main table in Markdown, as many of its rows as a note holds."""
    section = comparison.sections[0]
    table = formats["markdown"](next(iter(section.tables.values()))) if section.tables else ""
    marks = sorted({report.mark for report in comparison.reports if report.mark})
    title = f"**{', '.join([section.title, *marks])}**"
    text = f"{title}\n\nAll tables and figures: artifact `report.html`.\n\n{table}"
    if len(text) <= LONGEST_NOTE:
        return text
    return text[:LONGEST_NOTE].rpartition("\n")[0] + "\n\nThe rest is in `report.html`."
