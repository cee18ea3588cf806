"""Name -> entry, filled by decorators: the only plug-in mechanism (models, data sets, criteria, methods, recipes).

Other packages fill them too, once a name is not found here or all names are asked for (`plugins.py`).
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from rewindctl.errors import UnknownNameError, UsageError
from rewindctl.plugins import load_plugins, loading, note

T = TypeVar("T")
LONGEST_LIST = 500  # characters of known names in a hint


class Catalog(Generic[T]):
    """Entries of one kind under unique names; families add entries whose names follow a pattern."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._families: list[tuple[str, re.Pattern[str], Callable[[re.Match[str]], T]]] = []

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds an entry. Raises: ValueError when the name is taken.

        A plugin cannot take a name of a family either: what it means must not hang on whether plugins were loaded.
        """

        def add(entry: T) -> T:
            if name in self._entries or (loading() and self._known(name)):
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            if loading():
                note(self.kind, name)
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
        """The entry. Raises: UnknownNameError listing the known names, with the nearest one as a suggestion.

        A plugin that did not load is named there: the name may have been its to give.
        """
        failures = () if self._known(name) else load_plugins()
        if name in self._entries:
            return self._entries[name]
        for _, pattern, make in self._families:
            if match := pattern.fullmatch(name):
                return make(match)
        error = unknown(f"unknown {self.kind}", name, sorted(self._entries), self._labels())
        message = "; ".join([error.message, *(failure.message for failure in failures)])
        raise UnknownNameError(message, "; ".join([*(failure.hint for failure in failures), error.hint]))

    def __contains__(self, name: str) -> bool:
        if not self._known(name):
            load_plugins()
        return self._known(name)

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(sorted(self._entries))

    def loaded(self) -> dict[str, T]:
        """The entries so far by name, in the order they came: no plugin is loaded for them."""
        return dict(self._entries)

    def names(self) -> tuple[str, ...]:
        """Registered names, then the labels of the families, for messages and help."""
        load_plugins()
        return (*sorted(self._entries), *self._labels())

    def _labels(self) -> tuple[str, ...]:
        return tuple(label for label, _, _ in self._families)

    def _known(self, name: str) -> bool:
        return name in self._entries or any(pattern.fullmatch(name) for _, pattern, _ in self._families)


def unknown(
    problem: str, name: str, known: Iterable[str], labels: Iterable[str] = (), others: str = ""
) -> UnknownNameError:
    """The error for a name that is none of the `known`: the nearest of them as a suggestion, and all of them.

    `labels` stand for the names of families, `others` says what else may be given.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return UnknownNameError(
        f"{problem} {name!r:.200}" + (f": did you mean {near[0]!r}?" if near else ""),
        f"known: {listed([*names, *labels])}" + (f"; {others}" if others else ""),
    )


def listed(names: list[str]) -> str:
    """As many of the names as a line has room for."""
    room = LONGEST_LIST
    shown: list[str] = []
    for name in names:
        room -= len(name) + 2
        if room < 0:
            return f"{', '.join(shown)} and {len(names) - len(shown)} more"
        shown.append(name)
    return ", ".join(shown)


def is_plain(name: str) -> bool:
    """Whether a name will do in files, tags, filters and the names of registered models."""
    return bool(re.fullmatch(r"[-_]*[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name))


def require_plain(kind: str, name: str) -> None:
    """Raises: UsageError when a name would not do in files, tags, filters and the names of registered models."""
    if not is_plain(name):
        raise UsageError(f"{name!r} cannot name a {kind}", "use letters, digits, - and _")
