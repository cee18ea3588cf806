"""No file of others runs code, hangs a reader, takes the memory or raises anything but an error of ours."""

import ast
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fuzz import section
from fuzz.mutate import mutated, tokens
from fuzz.targets import READERS, Trap
from fuzz.watch import Forbidden, Hang, read, watched
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rewindctl

CORPUS = [(name, index) for name, reader in READERS.items() for index in range(len(reader.corpus))]
ROOT = Path(rewindctl.__file__).parent


@pytest.mark.parametrize(("name", "index"), CORPUS, ids=[f"{name}-{index}" for name, index in CORPUS])
def test_file_of_the_corpus_is_read_or_refused(name: str, index: int, tmp_path: Path) -> None:
    assert read(READERS[name].target, READERS[name].corpus[index], tmp_path) in ("value", "refused")


READ = sorted(set(READERS) - {"space", "data-record", "bundle", "bundle-index", "run"})  # whose first file is right


@pytest.mark.parametrize("name", READ)
def test_a_right_file_is_read(name: str, tmp_path: Path) -> None:
    assert read(READERS[name].target, READERS[name].valid[0], tmp_path) == "value"


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.randoms(use_true_random=False), data=st.binary(max_size=200), raw=st.booleans())
def test_any_bytes_are_read_or_refused(name: str, tmp_path: Path, draw, data: bytes, raw: bool) -> None:  # type: ignore[no-untyped-def]
    reader = READERS[name]
    given_bytes = data if raw else mutated(draw, list(reader.corpus), tokens(reader.corpus))
    assert read(reader.target, given_bytes, tmp_path) in ("value", "refused")


def test_the_watch_sees_what_it_is_there_for(tmp_path: Path) -> None:
    """Else the laws above would hold for anything."""
    wrong = {
        "code": lambda data, folder: subprocess.run(["true"], check=True),
        "pickle": lambda data, folder: pickle.loads(pickle.dumps(Trap())),
        "outside": lambda data, folder: (folder.parent / "elsewhere").write_bytes(data),
        "above": lambda data, folder: (folder / ".." / "elsewhere").mkdir(),
    }
    for reader in wrong.values():
        with pytest.raises(Forbidden):
            read(reader, b"", tmp_path)
    assert not (tmp_path.parent / "elsewhere").exists()

    def forever(data: bytes, folder: Path) -> None:
        while True:
            np.zeros(1)

    with pytest.raises(Hang):
        read(forever, b"", tmp_path, patience=1)
    with watched(tmp_path):
        (tmp_path / "inside").write_bytes(b"")


# What could run code is not in the package at all.

UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "code", "codeop"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_METHODS = {
    ("torch", "load"),
    ("yaml", "load"),
    ("yaml", "load_all"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("os", "system"),
    ("os", "popen"),
    ("pd", "read_pickle"),
    ("pd", "eval"),
    ("pd", "read_html"),
}
UNPICKLER = "datasets/cifar.py"  # reads the published CIFAR files with a list of what they may name


def unsafe(source: str) -> Iterator[str]:
    """Every place in `source` where bytes could become code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"import {alias.name}" for alias in node.names if alias.name.split(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE_MODULES:
            yield f"from {node.module} import"
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in UNSAFE_CALLS:
                yield called.id
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
                if (called.value.id, called.attr) in UNSAFE_METHODS:
                    yield f"{called.value.id}.{called.attr}"
                if (called.value.id, called.attr) == ("np", "load"):
                    yield "np.load"
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if (keyword.arg == "shell" and value is not False) or (
                    keyword.arg == "allow_pickle" and value is not False
                ):
                    yield f"{keyword.arg}="


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_can_make_code_of_bytes(path: Path) -> None:
    found = set(unsafe(path.read_text()))
    assert found == ({"import pickle"} if str(path.relative_to(ROOT)) == UNPICKLER else set())


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    return eval('1')",
        "torch.load(path)",
        "yaml.load(text, yaml.Loader)",
        "np.load(path)",
        "read_array(member, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
    ],
)
def test_unsafe_code_is_noticed(source: str) -> None:
    assert len(list(unsafe(source))) == 1


# Longer runs: `make fuzz`.


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, None])
def test_a_run_counts_what_it_did_and_finds_nothing(guided: bool | None) -> None:
    found = section.run(4, seed=1, readers=("mask-shapes",), guided=guided)
    assert found["ok"], found
    (one,) = found["readers"].values()
    assert one["executions"] > 20
    assert (one["crashes"], one["hangs"]) == ([], 0)
    assert one["peak_mb"] < section.MOST_MB
