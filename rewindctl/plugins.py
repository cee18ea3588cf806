"""Packages that add to the catalogs by an entry point in the group `rewindctl.plugins`.

An entry point names a module, which registers its entries when it is imported, or a function without arguments that
does so. Each is loaded once, when a catalog is asked for a name that it has not, or for all its names: never to show
help. One that fails keeps no command from its work that does not ask for a name it was to give.
"""

import contextlib
import json
import sys
from dataclasses import dataclass, field

from rewindctl.system.files import keep_text, state_folder

GROUP = "rewindctl.plugins"
NAMES_FILE = "plugin-names.json"


@dataclass(frozen=True)
class PluginFailure:
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
    failures: tuple[PluginFailure, ...] = ()
    names: dict[str, list[str]] = field(default_factory=dict)


_state = _State()


def load_plugins() -> tuple[PluginFailure, ...]:
    """Load every plugin that is installed, the first time it is called. Returns those that failed."""
    if not _state.loaded:
        _state.loaded = _state.loading = True
        try:
            _state.failures = tuple(_load_all())
        finally:
            _state.loading = False
        if _state.names != remembered():
            keep_text(state_folder() / NAMES_FILE, json.dumps(_state.names))
    return _state.failures


def loading() -> bool:
    """Whether what is registered now comes from a plugin."""
    return _state.loading


def note(kind: str, name: str) -> None:
    """A plugin has registered `name`: shells offer it from now on."""
    _state.names.setdefault(kind, []).append(name)


def remembered() -> dict[str, list[str]]:
    """What plugins registered when they were last loaded, by kind of catalog: known without loading any."""
    try:
        found = json.loads((state_folder() / NAMES_FILE).read_text())
        return {str(kind): [str(name) for name in names] for kind, names in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none yet, or not ours
        return {}


def _load_all() -> list[PluginFailure]:
    from importlib.metadata import entry_points

    failures = []
    found = {(_distribution(entry), entry.name, entry.value): entry for entry in entry_points(group=GROUP)}
    for (distribution, name, _), entry in sorted(found.items()):  # one order, whatever the file system's
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for our data alone
                plugin = entry.load()
                if callable(plugin):
                    plugin()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            failures.append(PluginFailure(name, distribution, " ".join(f"{type(error).__name__}: {error}".split())))
    return failures


def _distribution(entry: object) -> str:
    """`name version` of what an entry point was installed with."""
    dist = getattr(entry, "dist", None)
    return f"{dist.name} {dist.version}" if dist is not None else "an unknown distribution"
