"""The report as a page: tables, figures, claims and how it was made, as Markdown and as one HTML file on its own."""

import base64
import html as html_text
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from rewindctl import __version__
from rewindctl.counting import count_of
from rewindctl.files import writing
from rewindctl.report.formats import Table, formats, html
from rewindctl.report.section import Drawing, Section
from rewindctl.report.tables import precision_name, scale_name
from rewindctl.safe_text import markdown
from rewindctl.temporary import temporary_folder

PACKAGES = ("pandas", "matplotlib")
TITLE = "Rewinding and fine-tuning: results"
NOTES = (
    "Every number is a median over n trials; a trial is a seed with its own dense baseline. Spreads are the 10th and "
    "90th percentiles of the trials; a single trial has none.",
    "A cell with fewer trials than planned says so and is never filled. Scaled runs are marked wherever they are "
    "shown and have no difference from the published numbers.",
)
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; color: #111; }
table { border-collapse: collapse; font-size: 13px; margin: 0.5rem 0; }
caption { text-align: left; font-weight: 600; padding: 0.3rem 0; }
th, td { padding: 0.15rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
.note { color: #444; font-size: 13px; margin: 0.2rem 0; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; }
"""
# Nothing of the page may run or be fetched, whatever a name in it says.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

HEAD = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{TITLE}</title>
<style>{STYLE}</style>
</head>"""


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
    parts = [f"<p>{html_text.escape(note)}</p>" for note in NOTES]
    for section in sections:
        parts.append(f"<h2>{html_text.escape(section.title)}</h2>")
        parts += [_html_figure(stem, drawing) for stem, drawing in section.drawings.items()]
        parts += [html(table) for table in section.tables.values()]
    if claims is not None:
        parts += ["<h2>Claims</h2>", html(claims)]
    parts += ["<h2>How it was made</h2>", html(made)]
    body = "\n".join([f"<h1>{TITLE}</h1>", *parts])
    return f"{HEAD}\n<body>\n{body}\n</body>\n</html>"


def _html_figure(stem: str, drawing: Drawing) -> str:
    with temporary_folder() as folder:
        path = Path(folder) / "figure.svg"
        with writing(path):
            drawing.save(path)
        data = base64.b64encode(path.read_bytes()).decode()
    alt = html_text.escape(drawing.alt)
    return (
        f'<figure><img alt="{alt}" src="data:image/svg+xml;base64,{data}">\n'
        f"<figcaption>{alt}. Rows and run IDs: {html_text.escape(stem)}.csv</figcaption></figure>"
    )


def _markdown(text: str) -> str:
    """A line of Markdown that is only text."""
    return markdown(" ".join(text.split()))
