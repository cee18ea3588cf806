"""The Python API: names, signatures as they are in the source, first lines of docstrings."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from making.tables import first_line, table

import rewindctl


def api() -> Iterator[str]:
    yield "## Python\n"
    yield "`from rewindctl import ...`; `help(rewindctl.NAME)` says more. Options are those of the commands.\n"
    for name in sorted(rewindctl.__all__):
        thing = getattr(rewindctl, name)
        yield f"### {name}\n"
        yield from class_text(thing) if inspect.isclass(thing) else function_text(thing)
    from rewindctl.api import reading, stages

    yield "### options\n"
    for group in (reading.StoreOptions, stages.RunOptions, stages.RetrainKeywords):
        own = "; ".join(f"`{key}: {text}`" for key, text in annotations(group).items())
        yield f"`{group.__name__}`: {first_line(group)} {own}.\n"


def function_text(function: Any) -> Iterator[str]:
    yield f"```python\n{signature(function)}\n```\n"
    yield f"{first_line(function)}\n"


def class_text(kind: Any) -> Iterator[str]:
    yield f"{first_line(kind)}\n"
    rows = []
    for name, member in vars(kind).items():
        if name.startswith("_") or (not inspect.getdoc(member) and not isinstance(member, property)):
            continue
        if isinstance(member, property) or hasattr(member, "attrname"):
            rows.append([f"`{name}`", first_line(member)])
        elif inspect.isfunction(member):
            rows.append([f"`{signature(member)}`", first_line(member)])
    own = [[f"`{name}`", f"`{text}`"] for name, text in annotations(kind).items() if name not in vars(kind)]
    if own or rows:
        yield table(["", ""], [*own, *rows])


def node_of(thing: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def signature(function: Any) -> str:
    """As it is in the source, on lines of 110 characters."""
    node = node_of(function)
    arguments = ast.unparse(node.args).removeprefix("self, ").removeprefix("self")
    returns = f" -> {ast.unparse(node.returns).strip(chr(39))}" if node.returns else ""
    line = f"{function.__name__}({arguments}){returns}"
    line = re.sub(r"(?<=[\w\])])=(?=\S)", " = ", line)
    whole = re.sub(r" (?=\*|[a-z_]+:)", "\n", line).replace(" ", "\0").replace("\n", " ")  # breaks between arguments
    return "\n".join(textwrap.wrap(whole, 110, subsequent_indent="    ", break_on_hyphens=False)).replace("\0", " ")


def annotations(kind: Any) -> dict[str, str]:
    """Annotated names of a class, in its order."""
    body = node_of(kind).body
    return {ast.unparse(n.target): ast.unparse(n.annotation).strip("'\"") for n in body if isinstance(n, ast.AnnAssign)}
