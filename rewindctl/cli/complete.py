"""What a shell offers after an option: names from light lists, runs by a glance at the store. Never an error.

Each is Typer's `autocompletion` of an option; only those that begin with what was typed are shown. Kinds of run that a
command takes are those of its parents.
"""

import functools
import os
from collections.abc import Callable, MutableMapping
from pathlib import Path

import typer

from rewindctl.system.files import cache_folder

Found = list[tuple[str, str]]
# Dense runs have a name too, models:/NAME@alias.
PARENTS = {
    "prune": ("dense", "retrain"),
    "retrain": ("prune", "dense", "retrain"),
    "iterate": ("dense",),
    "replay": ("dense", "retrain"),
    "tune": ("prune",),
}


def quietly(complete: Callable[[typer.Context, str], Found]) -> Callable[[typer.Context, str], Found]:
    """Decorator: whatever goes wrong, nothing is offered and nothing is said."""

    @functools.wraps(complete)
    def offered(context: typer.Context, incomplete: str) -> Found:
        try:
            return complete(context, incomplete)
        except Exception:
            return []

    return offered


@quietly
def runs(context: typer.Context, incomplete: str) -> Found:
    """Runs of the kinds that the command takes (all, where it takes any), and baselines by name."""
    from rewindctl.registry import shell_lookup as glance

    uri, kinds = _given(context, "tracking_uri"), PARENTS.get(context.info_name or "", ())
    found = list(glance.runs(uri, incomplete, kinds).items())
    if not kinds or "dense" in kinds:
        found += [(name, "dense run") for name in glance.baselines(uri)]
    return found


@quietly
def experiments(context: typer.Context, incomplete: str) -> Found:
    from rewindctl.registry import shell_lookup as glance

    return [(name, "") for name in glance.experiments(_given(context, "tracking_uri"))]


def names(kind: str) -> Callable[[typer.Context, str], Found]:
    """The entries of a catalog, those of plug-ins too."""

    @quietly
    def offered(context: typer.Context, incomplete: str) -> Found:
        from rewindctl.names import known

        return list(known(kind).items())

    return offered


@quietly
def methods(context: typer.Context, incomplete: str) -> Found:
    """Retraining methods, those of plug-ins too."""
    from rewindctl.names import known
    from rewindctl.rewinding.methods import methods

    return list(({name: one.about for name, one in methods.loaded().items()} | known("method")).items())


@quietly
def engines(context: typer.Context, incomplete: str) -> Found:
    from rewindctl.engines.choose import engines
    from rewindctl.names import known

    return list(({name: one.about for name, one in engines.loaded().items()} | known("engine")).items())


@quietly
def datasets(context: typer.Context, incomplete: str) -> Found:
    """Built-in data sets, those of plug-ins, and those imported."""
    from rewindctl.names import known

    places = [_given(context, "data_dir"), os.environ.get("REWINDCTL_DATA"), cache_folder()]
    files = [path for place in places if place for path in Path(place).expanduser().glob("*.npz")]
    return list((dict.fromkeys(sorted(path.stem for path in files), "imported") | known("data set")).items())


def conditions(kind: str) -> Callable[[typer.Context, str], Found]:
    """The columns that the last of several conditions can be on."""

    @quietly
    def offered(context: typer.Context, incomplete: str) -> Found:
        from rewindctl.names import known

        before = incomplete[: incomplete.rfind(",") + 1]
        return [(before + column, text) for column, text in known(kind).items()]

    return offered


def _given(context: typer.Context, option: str) -> str | None:
    """The value of an option given so far, after the command or before it."""
    value = context.params.get(option) or context.find_root().params.get(option)
    return None if value is None else str(value)


def join_words(environment: MutableMapping[str, str]) -> None:
    """Put together what bash took apart at `:` and `=` before the word that is typed: `sqlite:///mlflow.db`."""
    if environment.get("_REWINDCTL_COMPLETE") != "complete_bash":
        return
    words, at = environment.get("COMP_WORDS", "").split("\n"), environment.get("COMP_CWORD", "")
    before = words[: int(at)] if at.isdecimal() else []
    joined: list[str] = []
    glue = False
    for word in before:
        breaks = word != "" and set(word) <= {":", "="}
        if joined and (breaks or glue):
            joined[-1] += word
        else:
            joined.append(word)
        glue = breaks
    if glue and joined[-1].startswith("--"):
        joined[-1] = joined[-1].rstrip("=")  # --method=lr: what is typed is the option's value
    environment["COMP_WORDS"] = "\n".join([*joined, *words[len(before) :]])
    environment["COMP_CWORD"] = str(len(joined))
