"""The command line: one file per command; nothing here imports torch, mlflow or pandas before a command runs."""

import difflib
import os
import re
import shlex
import sys
import traceback
from functools import cache
from importlib import import_module
from typing import Any, NoReturn

import typer

from rewindctl.cli import complete
from rewindctl.cli.help import Group, arrange
from rewindctl.cli.session import Globals, StoppedError
from rewindctl.console import Console, hold_streams
from rewindctl.errors import LimitError, RewindError
from rewindctl.system.files import disk_error, of_the_disk
from rewindctl.system.processes import take_interrupts
from rewindctl.system.safe_text import redacted

INTERRUPTED = 130
# Each command is the function of its name in the module of its name, or a group of commands: the `app` there.
PANELS = {
    "Make runs": ("demo", "train-dense", "prune", "retrain", "iterate", "replay", "tune"),
    "The report": ("reproduce", "compare"),
    "Look at runs": ("list", "show", "lineage", "ui"),
    "Keep them": ("verify", "registry", "recover", "remove", "gc"),
    "Set up": ("init", "doctor", "bench", "data"),
}
LONGEST_REASON = 1_000

app = typer.Typer(
    name="rewindctl",
    cls=Group,
    help="Train, prune and rewind networks; every run, mask and checkpoint is kept in MLflow.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=True,
)
# Typer vendors Click; its base exception is reached through the public subclass.
ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

for name in (name for names in PANELS.values() for name in names):
    attribute = {"list": "list_runs"}.get(name, name.replace("-", "_"))
    module = import_module(f"rewindctl.cli.{attribute}")
    if hasattr(module, "app"):
        app.add_typer(module.app, name=name)
    else:
        app.command(name)(getattr(module, attribute))
arrange(app, PANELS)


@app.callback()
def options(
    context: typer.Context,
    tracking_uri: str = typer.Option(None, help="MLflow store or server. [$MLFLOW_TRACKING_URI, sqlite:///mlflow.db]"),
    experiment: str = typer.Option(
        None, help="MLflow experiment. [$MLFLOW_EXPERIMENT_NAME, rewindctl]", autocompletion=complete.experiments
    ),
    json: bool = typer.Option(False, "--json", help="Print JSON to stdout."),
    quiet: bool = typer.Option(False, "--quiet", help="No progress and no remarks."),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Options that hold for every command; all but --debug may also be given after the command."""
    context.obj = Globals(tracking_uri, experiment, json, quiet)
    del debug  # read from the arguments in `run`, where errors end up


@cache
def _command() -> Any:
    """All commands, with their options made from their signatures."""
    return typer.main.get_command(app)


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code.

    0 done, 1 failed, 2 wrong usage, 3 nothing failed but the time or budget given was over, 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    console = Console()
    complete.join_words(os.environ)
    arguments = ["--debug"] * debug + [argument for argument in arguments if argument != "--debug"]
    try:
        code = int(_command()(arguments, prog_name="rewindctl", standalone_mode=False) or 0)
        if code == INTERRUPTED:  # newer Typers make an exit code of Ctrl-C
            raise KeyboardInterrupt
        return code
    except RewindError as error:
        if debug:
            console.traceback(traceback.format_exc())
        if isinstance(error, LimitError) and not error.hint:
            error.hint = f"go on with: {_typed(arguments)}"
        console.error(error)
        return error.exit_code
    except ClickException as error:
        if debug:
            console.traceback(traceback.format_exc())
        return _wrong_usage(error, console)
    except (StoppedError, KeyboardInterrupt, typer.Abort) as stop:
        kept = str(stop) or "nothing was begun"
        console.error(RewindError(f"interrupted; {kept}", f"go on with: {_typed(arguments)}"))
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            console.traceback(traceback.format_exc())
        console.error(_told(error))
        return 1


def _told(error: Exception) -> RewindError:
    """What a person is told of an error that no module of ours has put into words."""
    if isinstance(error, OSError) and of_the_disk(error):
        return disk_error(error)
    if isinstance(error, FileNotFoundError) and _folder_is_gone():
        return RewindError("the working folder was deleted", "cd to an existing folder")
    what = f"{type(error).__name__}: {str(error)[:LONGEST_REASON]}"
    return RewindError(what, "this is a defect; --debug shows where")


def _folder_is_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _typed(arguments: list[str]) -> str:
    """The command line, to be typed again; passwords of addresses are left out."""
    return shlex.join(["rewindctl", *map(redacted, arguments)])


def _wrong_usage(error: Any, console: Console) -> int:
    """Say what Typer found wrong, the value by name; a group without a command gets its help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error.format_message()}\n")
        return 2
    message = error.format_message()
    if hasattr(error.__cause__, "errors"):  # pydantic's, which newer Typers leave the value out of
        value = error.__cause__.errors()[0]["input"]
        message = message.replace("Invalid value for", f"Invalid value {value!r} for", 1)
    if match := re.search(r"'([^']*)' is not one of (.*)", message):
        near = difflib.get_close_matches(match[1], re.findall(r"'(.*?)'", match[2]), n=1)
        message = message.replace("Value error, ", "") + (f" Did you mean {near[0]!r}?" if near else "")
    console.error(RewindError(message, f"see: {context.command_path if context else 'rewindctl'} --help"))
    return 2


def main() -> NoReturn:
    """The `rewindctl` command. SIGTERM ends a run as Ctrl-C does: recorded as KILLED."""
    take_interrupts()
    hold_streams()
    if sys.stdout is None:
        Console().error(
            RewindError("stdout is closed: the result cannot be printed", "to discard the output: > /dev/null")
        )
        sys.exit(1)
    sys.exit(run())
