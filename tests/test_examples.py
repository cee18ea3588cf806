"""The notebooks of `examples/`, run as by a reader: every cell in order, in one namespace, in an empty folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from rewindctl import compare, list_runs

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))


def cells(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((EXAMPLES / name).read_text())["cells"]
    return found


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_without_output_and_parses(name: str) -> None:
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert code
    for cell in code:
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        compile(source(cell), name, "exec")


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_the_notebook_goes_from_baseline_to_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a fifth of the training: the calls are what a notebook can get wrong."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace: dict[str, Any] = {}
    code = [source(cell) for cell in cells("baseline_to_figure.ipynb") if cell["cell_type"] == "code"]
    shorter = [text.replace('"digits", seed=seed)', '"digits", seed=seed, iterations=60)') for text in code]
    assert shorter != code
    for text in shorter:
        exec(compile(text, "baseline_to_figure.ipynb", "exec"), namespace)
    assert (tmp_path / "baseline_to_figure.png").stat().st_size > 10_000
    assert len(list_runs(kind="retrain")) == 18
    assert set(compare().cells.query("schedule == 'one_shot'")["n"]) == {2}
