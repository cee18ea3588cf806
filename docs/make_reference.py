"""Writes docs/reference.md from the code: `python docs/make_reference.py` (`--check` only says whether it is stale).

Installed plug-ins and the terminal change nothing in it.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "rewindctl"
sys.path[:0] = [str(HERE), str(HERE.parent)]

import reference_words as words  # noqa: E402 (beside this file)
import typer  # noqa: E402

import rewindctl  # noqa: E402
from rewindctl import plugins  # noqa: E402

HEAD = """\
# Reference

Made from the code by `python docs/make_reference.py`: do not edit it. What the words mean: [concepts](concepts.md).
What to do with it: [how-to](how-to.md).
"""
EXIT_CODES = """\
| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | failed: a training, the store, the data, or runs that are not intact |
| 2 | wrong usage: an option, a value, a name, a parent; nothing was run |
| 130 | interrupted (Ctrl-C, SIGTERM): the same command goes on |

stdout has data only: run IDs, tables, or with `--json` one JSON document. Progress, remarks and errors go to stderr. An
error is one line that names the value and one that says what to do; `--debug` adds the traceback.
"""
Rows = Iterable[Iterable[str]]


def reference() -> str:
    """The whole page."""
    plugins.GROUP = "rewindctl.no-plugins"
    parts = [HEAD, *commands(), *catalogs(), *runs(), *environment(), *api()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def table(head: Iterable[str], rows: Rows) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def first_line(thing: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


# Commands


def commands() -> Iterator[str]:
    from rewindctl.cli import app

    root = typer.main.get_command(app)
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
    if get_origin(wanted) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(wanted))
    if issubclass(wanted, Enum):
        return ", ".join(f"`{member.value}`" for member in wanted)
    return {str: "text", int: "integer", float: "number", bool: "flag", Path: "path"}[wanted]


def slug(name: str) -> str:
    return name.replace(" ", "-")


# Catalogs


def catalogs() -> Iterator[str]:
    from rewindctl.datasets import datasets
    from rewindctl.pruning import criteria
    from rewindctl.report.figures import figures
    from rewindctl.report.formats import formats
    from rewindctl.report.lineage import forms
    from rewindctl.report.runs import orders
    from rewindctl.report.study_tables import study_tables
    from rewindctl.report.tables import tables
    from rewindctl.rewinding.methods import methods

    yield "## Names\n"
    yield "What options take. [Plug-ins](how-to.md#my-own-network-and-data) add to models, data sets and the like.\n"
    yield from networks()
    yield from listing("Data sets", "`--dataset`; and whatever `rewindctl data import` was given.", datasets)
    yield from listing("Methods", "`--method` of `retrain`, `iterate` and `tune`.", methods)
    yield from listing("Criteria", "`--criterion`: the lowest scores are removed first.", criteria)
    yield from recipe_table()
    yield from studies()
    yield from listing("Tables", "`compare --table`, of whatever runs there are.", tables)
    yield from listing("Tables of studies", "`compare --study NAME --table`.", study_tables)
    yield from listing("Figures", "`compare --figure`; a study's name draws that study.", figures)
    yield from listing("Formats of tables", "`compare --format`.", formats)
    yield from listing("Formats of lineage", "`lineage --format`, and `json`.", forms)
    yield f"### Orders\n\n`list --sort`: {', '.join(f'`{name}`' for name in orders)}.\n"


def listing(title: str, where: str, catalog: Any) -> Iterator[str]:
    yield f"### {title}\n"
    yield f"{where}\n"
    yield table(["name", "what"], ([f"`{name}`", first_line(catalog[name])] for name in catalog))


def networks() -> Iterator[str]:
    from rewindctl.models import NetworkConfig, kernels, models
    from rewindctl.training.recipes import default_recipe

    shown = ("resnet8", "resnet20", "resnet56", "resnet110", "wrn16_8")
    rows = []
    for name in shown:
        network = models[name](NetworkConfig(3, 10, 0.1, 1e-5))
        counts = [sum(p.numel() for p in network.parameters()), sum(p.numel() for p in kernels(network).values())]
        rows.append([f"`{name}`", *(f"{count:,}" for count in counts), f"`{default_recipe(name, 'cifar10')}`"])
    yield "### Models\n"
    yield f"`--model`: {', '.join(f'`{name}`' for name in models.names())}. With 3 input channels and 10 classes:\n"
    yield table(["name", "parameters", "kernel parameters (prunable)", "recipe"], rows)


def recipe_table() -> Iterator[str]:
    import dataclasses

    from rewindctl.training.recipes import recipes

    yield "### Recipes\n"
    yield "`--recipe`. Iteration counts scale together when a run is given another length (`--iterations`).\n"
    names = list(recipes)
    fields = [field.name for field in dataclasses.fields(recipes[names[0]])]
    rows = [[field, *(value_text(getattr(recipes[name], field)) for name in names)] for field in fields]
    yield table(["", *(f"`{name}`" for name in names)], rows)


def value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(value_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def studies() -> Iterator[str]:
    from rewindctl.paper.listing import cell_count
    from rewindctl.paper.study import shipped

    yield "### Studies\n"
    yield "Of `reproduce` and `compare --study`; `all` is all of the report's. `reproduce --show STUDY` prints one.\n"
    found = shipped().values()
    rows = (
        [f"`{s.name}`", str(cell_count(s)), str(s.trials), "yes" if s.part_of_report else "", s.title] for s in found
    )
    yield table(["name", "cells", "trials", "of the report", "what"], rows)


# Runs


def runs() -> Iterator[str]:
    from rewindctl import specs

    yield "## What is in a run\n"
    yield "Kinds: a finished run of the kind always has it; others have it where it applies.\n"
    yield "### Tags\n"
    require("tag", tags_of_code(), words.TAGS)
    yield known("tag", words.TAGS)
    kinds = (specs.DenseSpec, specs.PruneSpec, specs.RetrainSpec, specs.TuneSpec, specs.TrialSpec)
    require("field", {field for spec in kinds for field in spec.model_fields}, words.FIELDS)
    yield "### Params\n"
    yield "Every field of the specification, as text; lists joined by commas, what is not given as `none`.\n"
    for spec in kinds:
        yield f"#### Params of a {spec.model_fields['kind'].default} run\n"
        yield table(["param", "type", "what"], fields(spec))
    yield "#### Params of a report run\n"
    yield table(["param", "what"], ([f"`{name}`", text] for name, text in words.REPORT_PARAMS.items()))
    yield "### Metrics\n"
    yield "By iteration means a value at each evaluation. With `tune --seeds N` those of a seed end in `_seed_N`.\n"
    yield known("metric", words.METRICS)
    yield "### Artifacts\n"
    yield known("file", words.ARTIFACTS)


def known(title: str, found: Any) -> str:
    rows = ([f"`{name}`", kinds_text(kinds), text] for name, (kinds, text) in found.items())
    return table([title, "kinds", "what"], rows)


def kinds_text(kinds: tuple[str, ...]) -> str:
    return "all" if kinds == words.ALL else ", ".join(kinds)


def tags_of_code() -> set[str]:
    from rewindctl.registry import records

    values = {value for name, value in vars(records).items() if name.isupper() and isinstance(value, str)}
    return values - set(words.NO_TAGS)


def fields(spec: Any) -> Iterator[list[str]]:
    properties = spec.model_json_schema()["properties"]
    for name in spec.model_fields:
        yield [f"`{name}`", schema_type(properties[name]), words.FIELDS[name]]


def schema_type(schema: Any) -> str:
    if "anyOf" in schema:
        return " or ".join(schema_type(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return f"list of {schema_type(schema['items'])}"
    name = {"string": "text", "null": "none", "boolean": "yes or no"}.get(schema["type"], schema["type"])
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    text = name + "".join(f" {sign} {schema[key]}" for key, sign in bounds.items() if key in schema)
    return text.replace(str(2**32), "2^32")


def require(kind: str, of_code: set[str], described: Iterable[str]) -> None:
    """Raises: SystemExit naming what of the code has no words, or words that nothing of the code has."""
    described = set(described)
    if of_code != described:
        sys.exit(
            f"docs/reference_words.py: no words for {kind} {sorted(of_code - described)}, "
            f"words for no {kind} {sorted(described - of_code)}"
        )


# Environment


def environment() -> Iterator[str]:
    require("variable", variables_of_code(), words.ENVIRONMENT)
    yield "## Environment variables\n"
    rows = {**words.ENVIRONMENT, **words.ENVIRONMENT_OF_MLFLOW}
    yield table(["variable", "what"], ([f"`{name}`", text] for name, text in rows.items()))


def variables_of_code() -> set[str]:
    """Names in a call or a subscript of `environ`, and in a dictionary with all of it; constants of the file too."""
    found: set[str] = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)]
        values = {ast.unparse(node.targets[0]): node.value for node in assigned}
        for node in ast.walk(tree):
            for name in names_at(node):
                value = values.get(name.id) if isinstance(name, ast.Name) else name
                found |= {str(value.value)} if isinstance(value, ast.Constant) else set()
    return found


def names_at(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Subscript) and is_environ(node.value):
        yield node.slice
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_environ(node.func.value):
        yield from node.args[:1]
    elif isinstance(node, ast.Dict) and any(
        key is None and is_environ(v) for key, v in zip(node.keys, node.values, strict=True)
    ):
        yield from (key for key in node.keys if key is not None)


def is_environ(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "environ"


# Python


def api() -> Iterator[str]:
    yield "## Python\n"
    yield "`from rewindctl import ...`; `help(rewindctl.NAME)` says more. Options are those of the commands.\n"
    for name in sorted(rewindctl.__all__):
        thing = getattr(rewindctl, name)
        yield f"### {name}\n"
        yield from class_text(thing) if inspect.isclass(thing) else function_text(thing)
    from rewindctl.api import reading, stages

    yield "### options\n"
    for group in (reading.StoreOptions, stages.RunOptions):
        own = "; ".join(f"`{key}: {text}`" for key, text in annotations(group).items())
        yield f"`{group.__name__}`: {first_line(group)} {own}.\n"


def function_text(function: Any) -> Iterator[str]:
    yield f"```python\n{signature(function)}\n```\n"
    yield f"{first_line(function)}\n"


def class_text(kind: Any) -> Iterator[str]:
    yield f"{first_line(kind)}\n"
    rows = []
    for name, member in vars(kind).items():
        if name.startswith("_") or (not inspect.getdoc(member) and not isinstance(member, property)):
            continue
        if isinstance(member, property) or hasattr(member, "attrname"):
            rows.append([f"`{name}`", first_line(member)])
        elif inspect.isfunction(member):
            rows.append([f"`{signature(member)}`", first_line(member)])
    own = [[f"`{name}`", f"`{text}`"] for name, text in annotations(kind).items() if name not in vars(kind)]
    if own or rows:
        yield table(["", ""], [*own, *rows])


def node_of(thing: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def signature(function: Any) -> str:
    """As it is in the source, on lines of 110 characters."""
    node = node_of(function)
    arguments = ast.unparse(node.args).removeprefix("self, ").removeprefix("self")
    returns = f" -> {ast.unparse(node.returns).strip(chr(39))}" if node.returns else ""
    line = f"{function.__name__}({arguments}){returns}"
    line = re.sub(r"(?<=[\w\])])=(?=\S)", " = ", line)
    whole = re.sub(r" (?=\*|[a-z_]+:)", "\n", line).replace(" ", "\0").replace("\n", " ")  # breaks between arguments
    return "\n".join(textwrap.wrap(whole, 110, subsequent_indent="    ", break_on_hyphens=False)).replace("\0", " ")


def annotations(kind: Any) -> dict[str, str]:
    """Annotated names of a class, in its order."""
    body = node_of(kind).body
    return {ast.unparse(n.target): ast.unparse(n.annotation).strip("'\"") for n in body if isinstance(n, ast.AnnAssign)}


if __name__ == "__main__":
    page = HERE / "reference.md"
    made = reference()
    if "--check" in sys.argv[1:]:
        if not page.is_file() or page.read_text() != made:
            sys.exit("docs/reference.md is stale: python docs/make_reference.py")
    else:
        page.write_text(made)
