"""Every command with its options, from what Typer was told."""

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from making.tables import table

EXIT_CODES = """\
| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | failed: a training, the store, the data, or runs that are not intact |
| 2 | wrong usage: an option, a value, a name, a parent; nothing was run |
| 3 | nothing failed, but the time or budget given was over: the same command goes on |
| 130 | interrupted (Ctrl-C, SIGTERM): the same command goes on |

stdout has data only: run IDs, tables, or with `--json` one JSON document; where a command makes several runs, one JSON
object a run, a line each. Progress, remarks and errors go to stderr, with `--json` too. An error is one line that names
the value and one that says what to do; `--debug` adds the traceback.
"""


def commands() -> Iterator[str]:
    from rewindctl.cli import app

    root = typer.main.get_command(app)
    give_types(root, app.registered_callback.callback)
    found = dict(sorted(leaves(root, app)))
    everywhere = shared(found.values())
    running = [command for command in found.values() if "--force" in spellings(command)]
    at_runs = {key: option for key, option in shared(running).items() if key not in everywhere}
    yield "## Commands\n"
    yield EXIT_CODES
    yield table(["command", "what"], ([f"[{name}](#rewindctl-{slug(name)})", summary(c)] for name, c in found.items()))
    yield "### Options of every command\n"
    yield "They may stand before or after the command.\n"
    names = {option.name for option in everywhere.values()} | {"debug"}
    yield options(option for option in root.params if option.name in names)
    yield "### Options of every command that runs stages\n"
    yield options(at_runs.values())
    for name, command in found.items():
        yield from one_command(name, command, everywhere, at_runs)


def leaves(command: Any, app: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command under its full name, with the types of its parameters, which Typer's own objects do not keep."""
    callbacks = {entry.name: entry.callback for entry in app.registered_commands}
    groups = {group.typer_instance.info.name or group.name: group.typer_instance for group in app.registered_groups}
    for name, child in command.commands.items():
        if hasattr(child, "commands"):
            yield from leaves(child, groups[name], f"{path}{name} ")
        elif not child.hidden:
            give_types(child, callbacks[name])
            yield path + name, child


def give_types(command: Any, callback: Any) -> None:
    parameters = inspect.signature(callback).parameters
    for option in command.params:
        if option.name in parameters:
            option.wanted = parameters[option.name].annotation


def key_of(option: Any) -> tuple[str, ...]:
    return (*option.opts, str(option.help), str(option.default))


def shared(found: Iterable[Any]) -> dict[tuple[str, ...], Any]:
    """The options that all of the commands take in the same form."""
    by_key = [{key_of(option): option for option in command.params} for command in found]
    return {key: option for key, option in by_key[0].items() if all(key in other for other in by_key)}


def spellings(command: Any) -> set[str]:
    return {text for option in command.params for text in option.opts}


def one_command(name: str, command: Any, everywhere: Any, at_runs: Any) -> Iterator[str]:
    text, _, examples = (command.help or "").partition("\nExample")
    lines = [line.strip() for line in examples.partition(":")[2].splitlines() if line.strip()]
    yield f"### rewindctl {name}\n"
    yield "\n\n".join(map(paragraph, text.strip().split("\n\n"))) + "\n"
    yield "\n".join(f"    {line}" for line in lines) + "\n"
    keys = {key_of(option) for option in command.params}
    runs_stages = at_runs.keys() <= keys
    own = [o for o in command.params if key_of(o) not in everywhere and not (runs_stages and key_of(o) in at_runs)]
    if own:
        yield options(own)
    more = "[options of every command that runs stages](#options-of-every-command-that-runs-stages) and the "
    yield f"And the {more if runs_stages else ''}[options of every command](#options-of-every-command).\n"


def paragraph(text: str) -> str:
    """On one line; one that begins with a backspace, which Typer does not wrap either, as it stands."""
    if not text.lstrip().startswith("\b"):
        return " ".join(text.split())
    return textwrap.indent(textwrap.dedent(text.lstrip("\b\n ")), "    ")


def summary(command: Any) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split())


def options(found: Iterable[Any]) -> str:
    return table(["option", "type", "default", "what"], map(option_row, found))


def option_row(option: Any) -> list[str]:
    help_text, default = (option.help or "").strip(), ""
    if (match := re.fullmatch(r"(.*?)\s*\[(.+)\]", help_text, re.DOTALL)) and option.default in (None, ()):
        help_text, default = match[1], match[2]
    elif option.required:
        default = "needed"
    elif option.default is not None and option.default is not False and not callable(option.default):
        default = "on" if option.default is True else f"`{option.default}`"
    if option.param_type_name == "argument":
        name = f"{option.name.upper()}{' ...' if option.nargs == -1 else ''}"
    else:
        name = " / ".join(f"`{text}`" for text in [*option.opts, *option.secondary_opts])
    return [name, type_name(option), default, help_text.replace("<", "\\<")]


def type_name(option: Any) -> str:
    """In words, from the annotation: `int | None` with a bound is `integer ≥ 1`."""
    wanted, info = getattr(option, "wanted", bool), None
    if get_origin(wanted) is Annotated:
        wanted, info = get_args(wanted)[:2]
    parts = [part for part in get_args(wanted) if part is not NoneType] if is_union(wanted) else [wanted]
    text = ", ".join(map(word_of, parts))
    low, high = getattr(info, "min", None), getattr(info, "max", None)
    return text + "".join(f" {sign} {value}" for sign, value in (("≥", low), ("≤", high)) if value is not None)


def is_union(wanted: Any) -> bool:
    return get_origin(wanted) in (Union, UnionType)


def word_of(wanted: Any) -> str:
    if get_origin(wanted) is list:
        return f"{word_of(get_args(wanted)[0])}, repeatable"
    if get_origin(wanted) is tuple:
        return " and ".join(map(word_of, get_args(wanted)))
    if get_origin(wanted) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(wanted))
    if issubclass(wanted, Enum):
        return ", ".join(f"`{member.value}`" for member in wanted)
    return {str: "text", int: "integer", float: "number", bool: "flag", Path: "path"}[wanted]


def slug(name: str) -> str:
    return name.replace(" ", "-")
