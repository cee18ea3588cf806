"""The tree around a run: what it came from, what came from it; as text, Mermaid and Graphviz's dot."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rewindctl.catalog import Catalog
from rewindctl.console import OutputStyle
from rewindctl.registry import Registry, RunRecord
from rewindctl.registry import records as tag
from rewindctl.report.runs import accuracy_text, label, spec_order

PLAIN = {"├ ": "|-", "└ ": "`-", "│ ": "| "}


@dataclass(frozen=True)
class LineageNode:
    """A run of the tree, `depth` steps from its dense run; `relation` to the run asked for."""

    run: RunRecord
    parent: str | None
    depth: int
    relation: str
    last: tuple[bool, ...]  # of this node and the nodes above it but the first: whether no sibling follows


@dataclass(frozen=True)
class Family:
    """A run with its ancestors (the dense run first, itself last) and the children of it and its descendants."""

    chain: list[RunRecord]
    children: dict[str, list[RunRecord]]

    @property
    def asked(self) -> RunRecord:
        return self.chain[-1]

    def nodes(self) -> Iterator[LineageNode]:
        """Ancestors, the run, then its descendants depth first, siblings in the order of their specs."""
        above = None
        for depth, run in enumerate(self.chain):
            relation = "self" if run is self.asked else "ancestor"
            yield LineageNode(run, above, depth, relation, (True,) * depth)
            above = run.run_id
        yield from self._below(self.asked, (True,) * (len(self.chain) - 1))

    def _below(self, run: RunRecord, last: tuple[bool, ...]) -> Iterator[LineageNode]:
        children = sorted(self.children.get(run.run_id, []), key=spec_order)
        for child in children:
            at = (*last, child is children[-1])
            yield LineageNode(child, run.run_id, len(at), "descendant", at)
            yield from self._below(child, at)


def family_of(registry: Registry, run: RunRecord) -> Family:
    """Raises: RegistryError when an ancestor is gone."""
    return Family(registry.lineage(run), registry.descendants(run))


forms: Catalog[Callable[[Family, OutputStyle], str]] = Catalog("format")


@forms.register("text")
def text(family: Family, look: OutputStyle) -> str:
    """A line per run: ID, what it is, test accuracy, points against its dense run; the one asked for has a star."""
    rows: list[tuple[str, str, str, bool]] = []
    for node in family.nodes():
        branch = "".join("  " if last else "│ " for last in node.last[:-1])
        branch += ("└ " if node.last[-1] else "├ ") if node.last else ""
        for drawn, plain in () if look.unicode else PLAIN.items():
            branch = branch.replace(drawn, plain)
        rows.append((branch + node.run.run_id, label(node.run), numbers_text(node.run), node.relation == "self"))
    widths = (max(len(row[0]) for row in rows), max(len(row[1]) for row in rows))
    lines = [
        (f"{name:{widths[0]}}  {what:{widths[1]}}  {numbers}{'  *' if asked else ''}".rstrip(), asked)
        for name, what, numbers, asked in rows
    ]
    return "\n".join(look.strong(line) if asked else line for line, asked in lines)


@forms.register("mermaid")
def mermaid(family: Family, look: OutputStyle) -> str:
    """A Mermaid flowchart: an arrow from parent to child, a dotted one to a run from the weights it was rewound to."""
    del look
    lines = ["flowchart TD"]
    for node in family.nodes():
        words = "<br/>".join(map(_mermaid_escaped, _words(node.run)))
        lines.append(f'    r{node.run.run_id}["{words}"]')
    lines += [f"    r{parent} --> r{child}" for parent, child in _edges(family)]
    lines += [f'    r{source} -. "weights of {at}" .-> r{child}' for source, child, at in _rewound(family)]
    lines += ["    classDef asked stroke-width:3px", f"    class r{family.asked.run_id} asked"]
    return "\n".join(lines)


@forms.register("dot")
def dot(family: Family, look: OutputStyle) -> str:
    """A Graphviz digraph with the arrows of the Mermaid form, dashed for dotted."""
    del look
    lines = ["digraph lineage {", '    node [shape=box, fontname="sans-serif"];']
    for node in family.nodes():
        words = "\\n".join(map(_dot_escaped, _words(node.run)))
        bold = ", penwidth=3" if node.relation == "self" else ""
        lines.append(f'    "{node.run.run_id}" [label="{words}"{bold}];')
    lines += [f'    "{parent}" -> "{child}";' for parent, child in _edges(family)]
    lines += [
        f'    "{source}" -> "{child}" [style=dashed, label="weights of {at}"];'
        for source, child, at in _rewound(family)
    ]
    return "\n".join([*lines, "}"])


def numbers_text(run: RunRecord) -> str:
    """Test accuracy, its difference from the dense run's in points, and the status where it is not FINISHED."""
    delta = run.metrics.get("delta_accuracy")
    shown = f"{accuracy_text(run):>7}"
    shown += f" {100 * delta:+7.2f}" if delta is not None and run.kind != "dense" else ""
    return shown if run.finished else f"{shown}  {run.status}"


def _words(run: RunRecord) -> list[str]:
    return [label(run), " ".join(numbers_text(run).split()), run.run_id[:8]]


def _edges(family: Family) -> list[tuple[str, str]]:
    return [(node.parent, node.run.run_id) for node in family.nodes() if node.parent]


def _rewound(family: Family) -> list[tuple[str, str, str]]:
    """Source, run and iteration where a run's weights are from before the end of a run of the tree."""
    nodes = {node.run.run_id: node.run for node in family.nodes()}
    found = []
    for run in nodes.values():
        source, _, at = run.tags.get(tag.WEIGHTS_FROM, "").partition("@")
        if source in nodes and at.isdecimal() and nodes[source].params.get("iterations") != at:
            found.append((source, run.run_id, at))
    return found


def _mermaid_escaped(text: str) -> str:
    """Mermaid's own character codes for all but letters, digits and what no rule of its grammar starts with."""
    return "".join(c if c.isascii() and (c.isalnum() or c in " _-.,=+%:") else f"#{ord(c)};" for c in text)


def _dot_escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
