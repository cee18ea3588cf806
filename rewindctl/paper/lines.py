"""YAML from others: plain values with the line of each, bounded in size and depth, nothing constructed."""

from dataclasses import dataclass
from typing import Any

import yaml

from rewindctl.errors import UsageError

MOST_VALUES = 100_000
DEEPEST = 20
LARGEST_NUMBER = 2**63
LONGEST_REASON = 200
LONGEST_NUMBER = 100  # characters; YAML has base 60, which takes a minute for a million digits
CORE = "tag:yaml.org,2002:"
TEXT = (f"{CORE}str", f"{CORE}timestamp", f"{CORE}value")  # a date is no type of ours: it stays as it is written
PLAIN = (*TEXT, *(CORE + name for name in ("null", "bool", "int", "float")))
# What PyYAML raises for `!!bool maybe`, `!!int ""`, a number of a million digits, ...
NO_VALUE = (yaml.YAMLError, ValueError, OverflowError, LookupError)


@dataclass(frozen=True)
class Document:
    """The value of a YAML document and the line of each of its parts, by path."""

    value: Any
    lines: dict[tuple[Any, ...], int]

    def line(self, path: tuple[Any, ...]) -> int:
        """The line of the part at `path`, or of the nearest part around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse_yaml(text: str, where: str) -> Document:
    """The one document of `text`. Raises: UsageError naming `where` and the line."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except _TooDeepError as error:
        raise UsageError(
            f"{where}, line {error.line}: too many values or levels", f"at most {DEEPEST} levels"
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{where}{line}: not YAML: {reason[:LONGEST_REASON]}", "correct the file") from None
    reader = _Reader(where)
    value = None if node is None else reader.read(node, ())
    return Document(value, reader.lines)


class _TooDeepError(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Stops at the level where a document becomes too deep: PyYAML itself goes on until Python's stack is full."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST + 2:
            raise _TooDeepError(self.peek_event().start_mark.line + 1)  # type: ignore[no-untyped-call]
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def fetch_flow_collection_start(self, token: Any) -> None:
        """The scanner looks a thousand signs ahead of the composer, at each of them at every level."""
        if self.flow_level > DEEPEST + 2:
            raise _TooDeepError(self.line + 1)
        super().fetch_flow_collection_start(token)


class _Reader:
    """Values from nodes; an alias counts every time it is used, so that a small file cannot become a huge value."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.lines: dict[tuple[Any, ...], int] = {}
        self._scalars = yaml.SafeLoader("")

    def read(self, node: Any, path: tuple[Any, ...]) -> Any:
        line = node.start_mark.line + 1
        if len(self.lines) >= MOST_VALUES or len(path) > DEEPEST:
            raise UsageError(f"{self.where}, line {line}: too many values or levels", f"at most {MOST_VALUES:,}")
        self.lines[path] = line
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, f"{CORE}seq")
            return [self.read(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            self._check_tag(node, f"{CORE}map")
            return self._mapping(node, path)
        self._check_tag(node, *PLAIN)
        return self._scalar(node)

    def _check_tag(self, node: Any, *allowed: str) -> None:
        if node.tag not in allowed:
            line = node.start_mark.line + 1
            raise UsageError(f"{self.where}, line {line}: the tag {node.tag!r:.80} is not allowed", "leave it out")

    def _scalar(self, node: Any) -> Any:
        try:
            if node.tag in (f"{CORE}int", f"{CORE}float") and len(node.value) > LONGEST_NUMBER:
                raise ValueError
            value = node.value if node.tag in TEXT else self._scalars.construct_object(node)
            if isinstance(value, str):
                value.encode()  # half a surrogate pair can be written, and printed nowhere
            elif isinstance(value, int) and abs(value) >= LARGEST_NUMBER:
                raise ValueError
        except NO_VALUE:
            line = node.start_mark.line + 1
            raise UsageError(
                f"{self.where}, line {line}: {node.value!r:.80} is not a valid value", "quote it"
            ) from None
        return value

    def _mapping(self, node: Any, path: tuple[Any, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise UsageError(f"{self.where}, line {line}: a key must be a word", "correct the file")
            if key.value in found:
                raise UsageError(f"{self.where}, line {line}: {key.value!r:.80} appears twice", "keep one of them")
            found[key.value] = self.read(child, (*path, key.value))
            self.lines[(*path, key.value)] = line
        return found
