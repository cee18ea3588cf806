"""reproduce --until-decided and --power: begun, ended by the budget, gone on with, and judged as what it is."""

import json
from pathlib import Path

import pytest
from conftest import Cli
from studies import panel, study_of, text_of
from study_rows import made_rows

from rewindctl.registry import Registry

TINY = panel(iterations=2, methods=[{"method": "finetune", "iterations": 1}, {"method": "weight_rewind", "k": 1}])
TRIAL = 2 + 1 + 1  # updates of a trial
LINE = ("reproduce", "tiny.yaml", "--until-decided", "--max-trials", "7", "--json")


@pytest.fixture(autouse=True)
def study(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(text_of(TINY))


@pytest.mark.slow
def test_trials_are_added_until_the_budget_and_then_gone_on_with(store: Path, cli: Cli) -> None:
    first = cli(*LINE, "--budget", f"{2 * TRIAL + 1}it")
    assert first.code == 3
    assert (
        f"error: --budget {2 * TRIAL + 1}it was reached: 1 of 1 comparison not decided, {2 * TRIAL} iterations"
        in first.err
    )
    assert "next: seed 0 of finetune T=1 - weight_rewind k=1" in first.err
    assert "iterations from a decision, the nearest of 1 undecided" in first.err
    (decision,) = json.loads(first.out)["decisions"]
    assert (decision["n"], decision["verdict"]) == (2, "not decided")
    before = {run.run_id for run in Registry().search()}
    assert len(before) == 8

    second = cli(*LINE)
    result = json.loads(second.out)
    (decision,) = result["decisions"]
    assert (second.code, decision["n"], result["iterations_spent"]) == (0, 7, 5 * TRIAL)
    assert list(decision["effects"]) == [str(seed) for seed in range(7)]
    runs = Registry().search()
    assert before <= {run.run_id for run in runs}
    assert {run.tags["rewindctl.collected"] for run in runs} == {"until_decided"}

    again = json.loads(cli(*LINE).out)
    assert (again["iterations_spent"], again["decisions"]) == (0, result["decisions"])
    rows = json.loads(cli("compare", "--claims", "--json").out)
    (row,) = [row for row in rows if row["role"] == "part"]
    assert "a look after every trial" in row["test"]
    assert (row["n"], row["p_supported"]) == (7, pytest.approx(decision["p_below"]))
    assert "--until-decided" in cli("compare", "--claims").out


def test_known_trials_are_looked_at_and_a_half_known_one_is_run_whole(store: Path, cli: Cli) -> None:
    rows = made_rows(study_of(TINY), seeds=7)
    half = (rows["seed"] == 3) & (rows["method"] == "finetune")
    rows[~half].to_csv("lab.csv", index=False)
    answer = cli(*LINE, "--known", "lab.csv", "--output", "out")
    result = json.loads(answer.out)
    (decision,) = result["decisions"]
    assert (answer.code, decision["n"], result["iterations_spent"]) == (0, 7, TRIAL)
    assert {run.params["seed"] for run in Registry().search(kind="dense")} == {"3"}
    assert {run.params["method"] for run in Registry().search(kind="retrain")} == {"finetune", "weight_rewind"}
    claims = json.loads(cli("compare", "--claims", "--json", "--from", "out/runs.csv").out)
    assert {row["n"] for row in claims if row["role"] == "part"} == {7}


def test_power_needs_no_registry(cli: Cli, tmp_path: Path) -> None:
    rows = json.loads(cli("reproduce", "fig5", "--power", "0.2", "--json").out)
    (one_shot, iterative) = rows
    assert one_shot["levels"] == 6
    assert one_shot["fixed"] <= one_shot["worst"]
    assert one_shot["fixed_independent"] <= one_shot["fixed"]
    assert 0.05 < one_shot["deviation"] < 0.5
    assert iterative["published"]
    larger = json.loads(cli("reproduce", "fig5", "--power", "0.4", "--json").out)[0]
    assert larger["worst"] <= one_shot["worst"]
    assert "more likely too large than too small" in cli("reproduce", "fig5", "--power", "0.2").out.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
