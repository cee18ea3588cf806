"""What is in a run of each kind, and the environment variables that are read."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from making import words
from making.tables import require, table

PACKAGE = Path(__file__).parents[2] / "rewindctl"


def runs() -> Iterator[str]:
    from rewindctl import specs

    yield "## What is in a run\n"
    yield "Kinds: a finished run of the kind always has it; others have it where it applies.\n"
    yield "### Tags\n"
    require("tag", tags_of_code(), words.TAGS)
    yield known("tag", words.TAGS)
    kinds = (specs.DenseSpec, specs.PruneSpec, specs.RetrainSpec, specs.ReplaySpec, specs.TuneSpec, specs.TrialSpec)
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
    return text.replace(str(2**32), "2^32").replace(str(10**12), "10^12")


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
