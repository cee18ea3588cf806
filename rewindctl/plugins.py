"""Packages that add to the catalogs by an entry point in the group `rewindctl.plugins`.

An entry point names a module, which registers its entries when it is imported, or a function without arguments that
does so. Each is loaded once, when a catalog is asked for a name that it has not, or for all its names: never to show
help. One that fails keeps no command from its work that does not ask for a name it was to give.
"""

import contextlib
import sys
from dataclasses import dataclass

GROUP = "rewindctl.plugins"


@dataclass(frozen=True)
class Failure:
    """A plugin that could not be loaded: its entry point, its distribution with version, and why."""

    name: str
    distribution: str
    reason: str

    @property
    def message(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} did not load: {self.reason}"

    @property
    def hint(self) -> str:
        return f"repair it, or remove it: pip uninstall {self.distribution.split()[0]}"


@dataclass
class _State:
    loaded: bool = False
    loading: bool = False
    failures: tuple[Failure, ...] = ()


_state = _State()


def load_plugins() -> tuple[Failure, ...]:
    """Load every plugin that is installed, the first time it is called. Returns those that failed."""
    if not _state.loaded:
        _state.loaded = _state.loading = True
        try:
            _state.failures = tuple(_load_all())
        finally:
            _state.loading = False
    return _state.failures


def loading() -> bool:
    """Whether what is registered now comes from a plugin."""
    return _state.loading


def _load_all() -> list[Failure]:
    from importlib.metadata import entry_points

    failures = []
    found = {(_distribution(entry), entry.name, entry.value): entry for entry in entry_points(group=GROUP)}
    for (distribution, name, _), entry in sorted(found.items()):  # one order, whatever the file system's
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for our data alone
                plugin = entry.load()
                if callable(plugin):
                    plugin()
        except (Exception, SystemExit) as error:
            failures.append(Failure(name, distribution, " ".join(f"{type(error).__name__}: {error}".split())))
    return failures


def _distribution(entry: object) -> str:
    """`name version` of what an entry point was installed with."""
    dist = getattr(entry, "dist", None)
    return f"{dist.name} {dist.version}" if dist is not None else "an unknown distribution"
