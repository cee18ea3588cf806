"""One run on one screen: at most 40 lines of 80 columns, whatever the run and whatever is wrong with it."""

import math
import re
import textwrap
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from rewindctl.console import OutputStyle
from rewindctl.registry import RunRecord
from rewindctl.report.facts import RunFacts
from rewindctl.report.lineage import numbers_text
from rewindctl.report.runs import label
from rewindctl.system.safe_text import one_line

WIDTH = 80
KEY = 10  # columns of the words at the left
MOST_CHILDREN = 4
MOST_SPEC = 6
MOST_NUMBERS = 7
LONGEST_NAME = 34  # of a metric
USUAL_NUMBER = 9  # columns: what is beside what hangs on the names alone
MOST_LAYERS = 6
MOST_FILES = 6
POINTS = 40
BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.,-=+*#"
UNSHOWN = ("kind", "schema_version")  # said elsewhere, or the same for all
DIGESTS = ("data_digest", "parent_fingerprint")


def screen(facts: RunFacts, look: OutputStyle) -> str:
    """The run as text. What could not be read says so in its place."""
    run = facts.run
    head = f"{one_line(run.name)[: WIDTH - len(run.status) - 2]:{WIDTH - len(run.status) - 2}}  {run.status}"
    sections = (
        ("run", [_when(run)]),
        ("error", [one_line(facts.error)[:200]] if facts.error else []),
        ("parent", [_relative(facts.parent)] if facts.parent else [facts.problems.get("parent", "none")]),
        ("dense", [_relative(facts.dense)] if facts.dense else []),
        ("weights", [f"of iteration {at} of {source}" for source, at in facts.weights]),
        ("children", _children(facts)),
        ("numbers", _numbers(run)),
        ("accuracy", _accuracy(facts, look)),
        ("spec", _spec(facts)),
        ("layers", _layers(facts, look)),
        ("files", _files(facts)),
        ("again", _command(facts.command)),
    )
    lines = [look.strong(head)]
    for key, body in sections:
        for index, row in enumerate(_fitted(body) if key != "again" else body):
            lines.append(one_line(f"{key if index == 0 else '':{KEY}}{row}").rstrip())
    return "\n".join(lines)


def sparkline(values: Iterable[float], look: OutputStyle, width: int = POINTS) -> str:
    """A bar per value from the lowest to the highest; more than `width` values are thinned, the last one stays."""
    found = list(values)
    low, high = min(found), max(found)
    if len(found) > width:
        found = [found[round(index * (len(found) - 1) / (width - 1))] for index in range(width)]
    bars = BARS if look.unicode else PLAIN_BARS
    span = high - low or 1.0  # a share of it is never above 1; its reciprocal may be infinite
    return "".join(bars[round((value - low) / span * (len(bars) - 1))] for value in found)


def _fitted(rows: list[str]) -> Iterator[str]:
    """Rows too long for the screen are cut, with an ellipsis."""
    for row in rows:
        yield row if len(row) <= WIDTH - KEY else f"{row[: WIDTH - KEY - 3]}..."


def _when(run: RunRecord) -> str:
    started = datetime.fromtimestamp(run.started / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    seconds = f", {(run.ended - run.started) / 1000:,.1f} s" if run.ended else ""
    return f"{run.run_id}  {run.kind or 'foreign'}, {started}{seconds}"


def _relative(run: RunRecord) -> str:
    return f"{run.run_id}  {label(run)}  {' '.join(numbers_text(run).split())}"


def _children(facts: RunFacts) -> list[str]:
    if "children" in facts.problems:
        return [facts.problems["children"]]
    shown = facts.children if len(facts.children) <= MOST_CHILDREN else facts.children[: MOST_CHILDREN - 1]
    rows = [_relative(child) for child in shown]
    if len(shown) < len(facts.children):
        rows.append(f"and {len(facts.children) - len(shown)} more: rewindctl lineage {facts.run.run_id[:8]}")
    return rows or ["none"]


def _numbers(run: RunRecord) -> list[str]:
    """The metrics in two columns, those of the result first."""
    first = ("test_accuracy", "delta_accuracy", "test_accuracy_best", "compression", "sparsity")
    keys = [key for key in first if key in run.metrics] + sorted(set(run.metrics) - set(first))
    cells = [(one_line(key)[:LONGEST_NAME], _number(run.metrics[key])) for key in keys]
    return _shortened(_in_two_columns(cells), MOST_NUMBERS, "rows") or ["none"]


def _in_two_columns(cells: list[tuple[str, str]]) -> list[str]:
    """The left column is as wide as the longest name; the first half of those that fit beside it are to the right."""
    if not cells:
        return []
    wide, number = max(len(key) for key, _ in cells), max(USUAL_NUMBER, *(len(value) for _, value in cells))
    room = WIDTH - KEY - (wide + number + 3) - (number + 1)
    short = [place for place, (key, _) in enumerate(cells) if place and len(key) <= room]
    right = short[: len(cells) // 2]
    left = [cells[place] for place in sorted({*range(len(cells))} - {*right})]
    width = max((len(cells[place][0]) for place in right), default=0)
    beside = [f"{cells[place][0]:{width}} {cells[place][1]}" for place in right] + [""] * (len(left) - len(right))
    return [f"{key:{wide}} {value:{number}}  {other}" for (key, value), other in zip(left, beside, strict=True)]


def _number(value: float) -> str:
    """Counts as they are, the rest to four digits."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e8 else f"{value:.4g}"


def _accuracy(facts: RunFacts, look: OutputStyle) -> list[str]:
    points = [(iteration, value) for iteration, value in facts.accuracies if math.isfinite(value)]
    if len(points) < 2:
        return []
    values, last = [value for _, value in points], points[-1][0]
    return [_drawn(values, f"between {min(values):.1%} and {max(values):.1%}, to iteration {last:,}", look)]


def _drawn(values: list[float], text: str, look: OutputStyle) -> str:
    """A sparkline, as long as the text beside it lets it be."""
    return f"{sparkline(values, look, min(POINTS, WIDTH - KEY - 1 - len(text)))} {text}"


def _spec(facts: RunFacts) -> list[str]:
    """Every field, wrapped; of a run without a readable spec its params."""
    fields = facts.spec if facts.spec is not None else dict(facts.run.params)
    words = []
    for key, value in fields.items():
        if key not in UNSHOWN:
            shown = ",".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
            words.append(f"{key}={shown[:12] if key in DIGESTS else shown}".replace(" ", "_"))
    rows = textwrap.wrap(one_line(" ".join(words)), WIDTH - KEY, break_on_hyphens=False)
    problem = [facts.problems["spec"]] if "spec" in facts.problems else []
    return [*problem, *_shortened(rows, MOST_SPEC - len(problem), "lines")] or ["none"]


def _layers(facts: RunFacts, look: OutputStyle) -> list[str]:
    """The share kept in each layer, then the layers, or those that lost least and most."""
    if not facts.layers:
        return [facts.problems["layers"]] if "layers" in facts.problems else []
    kept = [1 - layer.sparsity for layer in facts.layers]
    rows = [_drawn(kept, f"between {min(kept):.1%} and {max(kept):.1%} kept, {len(kept)} layers, in order", look)]
    room = MOST_LAYERS - 1
    chosen = facts.layers
    if len(chosen) > room:
        ranked = sorted(chosen, key=lambda layer: layer.sparsity)
        ends = {layer.name for layer in [*ranked[:2], *ranked[-(room - 2) :]]}
        chosen = [layer for layer in facts.layers if layer.name in ends]
    return rows + [
        f"{one_line(layer.name)[-34:]:34} {layer.kept:>11,} of {layer.weights:>11,} {layer.kept / layer.weights:>7.2%}"
        for layer in chosen
    ]


def _files(facts: RunFacts) -> list[str]:
    """Sizes and paths; the checkpoints to rewind to are one line."""
    if "files" in facts.problems:
        return [facts.problems["files"]]
    points = {path: size for path, size in facts.files.items() if path.startswith("checkpoints/0")}
    others = {path: size for path, size in facts.files.items() if path not in points}
    rows = [f"{size:>12,}  {one_line(path)}" for path, size in others.items()]
    if points:
        at = ", ".join(str(int(path[12:20])) for path in points if path[12:20].isdecimal())
        rows.insert(0, f"{sum(points.values()):>12,}  {len(points)} checkpoints, iterations {at}")
    if facts.omitted:
        rows.insert(0, f"{len(facts.omitted)} checkpoints were left out at export")
    return _shortened(rows, MOST_FILES, "files")


def _command(command: str | None) -> list[str]:
    """The command, broken between options so that it can be pasted as it is."""
    if command is None:
        return ["not known: the spec is not readable"]
    rows = [""]
    for part in re.split(r" (?=--)", command):
        if len(rows[-1]) + len(part) + 3 <= WIDTH - KEY:
            rows[-1] += f" {part}" if rows[-1] else part
        else:
            rows.append(f"  {part}")
    return [f"{row} \\" for row in rows[:-1]] + rows[-1:]


def _shortened(rows: list[str], most: int, what: str) -> list[str]:
    if len(rows) <= most:
        return rows
    return [*rows[: most - 1], f"and {len(rows) - most + 1} {what} more: --json shows all"]
