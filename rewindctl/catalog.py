"""Name -> entry, filled by decorators: the only plug-in mechanism (models, data sets, criteria, methods, recipes)."""

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from rewindctl.errors import UnknownNameError

T = TypeVar("T")


class Catalog(Generic[T]):
    """Entries of one kind under unique names; families add entries whose names follow a pattern."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._families: list[tuple[str, re.Pattern[str], Callable[[re.Match[str]], T]]] = []

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds an entry. Raises: ValueError when the name is taken."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def register_family(
        self, label: str, pattern: str
    ) -> Callable[[Callable[[re.Match[str]], T]], Callable[[re.Match[str]], T]]:
        """Decorator for a function from the match of `pattern` to an entry; it may raise UsageError."""

        def add(make: Callable[[re.Match[str]], T]) -> Callable[[re.Match[str]], T]:
            self._families.append((label, re.compile(pattern), make))
            return make

        return add

    def __getitem__(self, name: str) -> T:
        """The entry. Raises: UnknownNameError listing the known names, with the nearest one as a suggestion."""
        if name in self._entries:
            return self._entries[name]
        for _, pattern, make in self._families:
            if match := pattern.fullmatch(name):
                return make(match)
        near = difflib.get_close_matches(name, self._entries, n=1)
        raise UnknownNameError(
            f"unknown {self.kind} {name!r}" + (f": did you mean {near[0]!r}?" if near else ""),
            f"known: {', '.join(self.names())}",
        )

    def __contains__(self, name: str) -> bool:
        return name in self._entries or any(pattern.fullmatch(name) for _, pattern, _ in self._families)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def names(self) -> tuple[str, ...]:
        """Registered names, then the labels of the families, for messages and help."""
        return (*sorted(self._entries), *(label for label, _, _ in self._families))
