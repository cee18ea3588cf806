"""The sections of the soak. A new one is a module of this folder, named here with its share of the time.

It has `run(budget_seconds, seed) -> dict`: the figures for the page, numbers by what they count; under `table` rows of
counts by name, if there are some. It has `failures`, a list: a line for each broken law.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, cast

SHARES = {"kills": 0.48, "faults": 0.24, "crowds": 0.13, "fuzzed": 0.15}


class Failures(list[str]):
    """Broken laws, each told when it is found."""

    def append(self, line: str) -> None:
        sys.stderr.write(f"broken: {line}\n")
        super().append(line)

    def extend(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.append(line)


class Section(Protocol):
    """What a module has to have."""

    failures: list[str]
    run: Callable[[float, int], dict[str, Any]]


@dataclass
class Done:
    """What a section came to."""

    title: str
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def section(name: str) -> Section:
    return cast(Section, import_module(f"soak.{name}"))


def title(name: str) -> str:
    """The first line of the module's docstring, without `Section:`."""
    line = (import_module(f"soak.{name}").__doc__ or name).splitlines()[0]
    text = line.removeprefix("Section: ").removesuffix(".")
    return text[:1].upper() + text[1:]
