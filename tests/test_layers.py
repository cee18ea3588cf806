"""Imports go one way, MLflow has one importer, and names say what a module is for."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rewindctl
from rewindctl.registry.store.mlflow_internals import PLAIN

ROOT = Path(rewindctl.__file__).parent
MAP = (ROOT.parent / "docs" / "architecture.md").read_text()
# A module may import from its own room and from the rows below: the picture of the map, from its foot up.
ROWS = [
    line.partition("|")[0].split()
    for line in reversed(MAP.partition("<!-- rooms -->")[2].strip("\n").partition("\n\n")[0].splitlines())
]
ROW = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
VAGUE = {"utils", "util", "helpers", "helper", "base", "manager", "managers", "common", "misc"}
INTERNALS = "rewindctl.registry.store.mlflow_internals"
DOCUMENTED = ("mlflow.MlflowClient", "mlflow.entities.")  # of MLflow, where others may import it
TABLE = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(\w+)")
CATALOGS = ("rewindctl.rewinding.methods.", "rewindctl.engines.choose.")  # light, and the help names their entries
HEAVY = {"torch", "torchvision", "mlflow", "pandas", "matplotlib", "numpy", "sklearn", "scipy"}


def module_name(path: Path) -> str:
    parts = ("rewindctl", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Every module imported, wherever in the file: in functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = module.split(".")
                here = parts[: len(parts) - node.level + is_package]
                source = ".".join([*here, *filter(None, [source])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def undocumented(tree: ast.AST, module: str) -> Iterator[str]:
    """MLflow's private parts and tables in a module that is not the one for them."""
    for node in ast.walk(tree) if module != INTERNALS else ():
        if isinstance(node, ast.Attribute) and node.attr == "_tracking_client":
            yield f"{module} uses {node.attr} of MLflow: it belongs in {INTERNALS}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and PLAIN & {*TABLE.findall(node.value)}:
            yield f"{module} names a table of MLflow in {node.value!r}: it belongs in {INTERNALS}"


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """What of the rules the source of `module` breaks."""
    room = module.split(".")[1] if "." in module else ""
    tree = ast.parse(source)
    broken = list(undocumented(tree, module))
    for name in imports(tree, module, is_package):
        parts = name.split(".")
        if parts[0] == "mlflow" and room != "registry":
            broken.append(f"{module} imports {name}: only rewindctl.registry imports mlflow")
        elif parts[0] == "mlflow" and module != INTERNALS and not name.startswith(DOCUMENTED):
            broken.append(f"{module} imports {name}: what MLflow does not document belongs in {INTERNALS}")
        if parts[0] == "typer" and room != "cli":
            broken.append(f"{module} imports {name}: only rewindctl.cli imports typer")
        if parts[0] != "rewindctl" or len(parts) < 2 or parts[1] == "__version__":
            continue
        if parts[1] not in ROW:
            broken.append(f"{module} imports {name}: no such room")
        elif parts[1] != room and ROW[parts[1]] >= (ROW[room] if room else len(ROWS)):  # the package names its API
            broken.append(f"{module} imports {name}: not of an earlier row")
    return broken


@pytest.mark.parametrize("module", FILES)
def test_module_imports_from_its_own_room_or_earlier_rows(module: str) -> None:
    path = FILES[module]
    assert violations(module, path.read_text(), path.name == "__init__.py") == []


def test_every_module_has_its_room_and_every_room_a_module() -> None:
    rooms = {module.split(".")[1] for module in FILES if "." in module}
    assert rooms == set(ROW), "a new room gets its place on the map"


@pytest.mark.parametrize("module", FILES)
def test_no_module_has_a_name_that_says_nothing(module: str) -> None:
    assert not VAGUE & {part.strip("_") for part in module.split(".")}


@pytest.mark.parametrize("module", [module for module in FILES if module.split(".")[1:2] in (["cli"], ["__main__"])])
def test_command_line_loads_nothing_heavy_before_a_command_runs(module: str) -> None:
    tree = ast.parse(FILES[module].read_text())
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = list(imports(ast.Module(at_import, []), module, FILES[module].name == "__init__.py"))
    light = {"arithmetic", "cli", "console", "counting", "errors", "catalog", "system"}
    light |= {"durations", "options", "__version__"}
    assert not [name for name in names if name.split(".")[0] in HEAVY]
    ours = [name for name in names if name.startswith("rewindctl.") and not name.startswith(CATALOGS)]
    assert not [name for name in ours if name.split(".")[1] not in light]


BROKEN = [
    ("rewindctl.errors", "import rewindctl.catalog"),
    ("rewindctl.catalog", "from rewindctl.console import Console"),
    ("rewindctl.system.temporary", "from rewindctl import seeds"),
    ("rewindctl.specs", "from rewindctl.datasets import Dataset"),
    ("rewindctl.datasets.files", "from rewindctl.models import models"),
    ("rewindctl.pruning.mask", "def f():\n    from rewindctl.training.recipes import Schedule"),
    ("rewindctl.training.loop", "from rewindctl.registry import Registry"),
    ("rewindctl.registry.store.connect", "from rewindctl.training import loop"),
    ("rewindctl.pipeline.stages", "from ..report import cells"),
    ("rewindctl.engines.run", "def f():\n    from rewindctl.paper.allotment import telling_order"),
    ("rewindctl.paper.plan", "from rewindctl.engines.run import run_plan"),
    ("rewindctl.report.cells", "if TYPE_CHECKING:\n    from rewindctl.cli.session import Session"),
    ("rewindctl.report.frame", "import mlflow"),
    ("rewindctl.registry.store.connect", "def f():\n    from mlflow.store.db import utils"),
    ("rewindctl.registry.store.connect", "import mlflow"),
    ("rewindctl.registry.store.client", "x = client._tracking_client.store"),
    ("rewindctl.registry.shell_lookup", "x = f'SELECT name FROM experiments WHERE {y}'"),
    ("rewindctl.cli.ui", "def f():\n    from mlflow.entities import Run"),
    ("rewindctl.training.device", "import typer"),
    ("rewindctl.cli.show", "from rewindctl.utils import thing"),
]


@pytest.mark.parametrize(("module", "source"), BROKEN)
def test_broken_rule_is_noticed(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


def test_allowed_imports_are_allowed() -> None:
    assert violations("rewindctl.report.compare", "from rewindctl.pipeline.labels import method_label") == []
    assert violations("rewindctl.registry.store.connect", "def f():\n    from mlflow import MlflowClient") == []
    assert (
        violations("rewindctl.datasets.cifar", "from .files import places\nfrom rewindctl.errors import DataError")
        == []
    )
    assert violations("rewindctl.datasets", "from . import cifar\nfrom ..catalog import Catalog", is_package=True) == []
    assert violations("rewindctl.cli.show", "import typer\nfrom rewindctl import __version__") == []
