"""Help in groups: commands and options under their panels, examples as they are typed.

Plain text at any width: no markup that takes `[0.001]` for a style, no colour, and examples that wrap nowhere.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

WORD, OPTIONS, OTHER = "Example", "Options", "More"
WHOLE = 500  # characters of the first sentence that the list of commands gives


class Command(TyperCommand):
    """A command whose options stand under their panels, and whose docstring may end in `Examples:` and lines."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text_of(self.help or ""))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        lines = examples_of(self.help or "")
        if lines:
            with formatter.section("Examples"):
                for line in lines:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class Group(TyperGroup):
    """A group whose commands stand under their panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_options(self, ctx, formatter)
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (getattr(command, "rich_help_panel", None) or "Commands", (name, command.get_short_help_str(WHOLE)))
            for name, command in commands
            if command is not None and not command.hidden
        ]
        _write_panels(rows, formatter)


def arrange(app: typer.Typer, panels: Mapping[str, Iterable[str]]) -> None:
    """Give every command of `app` this help, and those of its first level the panel that names them."""
    panel_of = {name: panel for panel, names in panels.items() for name in names}
    order = {name: place for place, name in enumerate(panel_of)}
    app.registered_commands.sort(key=lambda command: order.get(command.name or "", len(order)))
    for command in app.registered_commands:
        command.cls, command.rich_help_panel = Command, panel_of.get(command.name or "", OTHER)
    for group in app.registered_groups:
        group.cls, group.rich_help_panel = Group, panel_of.get(group.name or "", OTHER)
        for command in group.typer_instance.registered_commands if group.typer_instance else ():
            command.cls = Command


def text_of(help: str) -> str:
    """What a docstring says before its examples."""
    return help.partition(f"\n{WORD}")[0].rstrip()


def examples_of(help: str) -> list[str]:
    """The command lines under `Examples:`, or after `Example:`."""
    lines = help.partition(f"\n{WORD}")[2].partition(":")[2].splitlines()
    return [line.strip() for line in lines if line.strip()]


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Arguments, options without a panel, then the panels in the order of their first option."""
    rows = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            own = "Arguments" if parameter.param_type_name == "argument" else OPTIONS
            rows.append((getattr(parameter, "rich_help_panel", None) or own, record))
    first = ("Arguments", OPTIONS)
    _write_panels(sorted(rows, key=lambda row: first.index(row[0]) if row[0] in first else len(first)), formatter)


def _write_panels(rows: Iterable[tuple[str, tuple[str, str]]], formatter: Any) -> None:
    found: dict[str, list[tuple[str, str]]] = {}
    for panel, row in rows:
        found.setdefault(panel, []).append(row)
    for panel, under in found.items():
        with formatter.section(panel):
            formatter.write_dl(under)
