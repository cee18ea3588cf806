"""rewindctl reproduce: what it refuses, prints and leaves (its engines are in tests/engines)."""

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli
from studies import panel, study_of, text_of
from study_rows import made_rows

from rewindctl.engines.choose import EngineKind, EngineOptions, engines
from rewindctl.engines.contract import Engine
from rewindctl.errors import UsageError
from rewindctl.paper.study import parse_study, shipped
from rewindctl.registry import Registry

REFUSED = [
    ((), "no study is given", "reproduce --list"),
    (("fig7",), "unknown study 'fig7': did you mean 'fig6'?", "known: all, fig1"),
    (("none.yaml",), "study none.yaml cannot be read", "give a name or a YAML file"),
    (("--show", "fig7"), "unknown study 'fig7'", "known: all"),
    (("fig1", "--trials", "2", "--seeds", "0-1"), "both --trials 2 and --seeds 0-1 are given", "one of the two"),
    (("fig1", "--trials", "0"), "--trials", "--help"),
    (("fig1", "--trials", "100000000"), "--trials 100000000 is not from 1", "number of seeds"),
    (("fig1", "--seeds", "a"), "--seeds 'a' is not a list of seeds", "write 0-4"),
    (("fig1", "--scale", "0"), "--scale 0 is outside (0, 1]", "such as 0.01"),
    (("fig1", "--scale", "2"), "--scale 2 is outside (0, 1]", "such as 0.01"),
    (("fig1", "--scale", "nan"), "--scale nan is outside (0, 1]", "such as 0.01"),
    (("fig1", "--scale", "0.00001"), "--scale 1e-05 leaves nothing of iteration", "larger scale"),
    (("fig1", "--cells", "methd=finetune"), "unknown column 'methd'", "known: channel_norm, compression"),
    (("fig1", "--cells", "method=none"), "selects none of 60 cells", "loosen"),
    (("fig1", "--jobs", "0"), "--jobs", "--help"),
    (("fig1", "--engine", "slurm"), "unknown engine 'slurm'", "known: local, ray"),
    (("fig1", "--engine", "local", "--address", "auto"), "--address auto has no meaning", "--engine ray"),
    (("fig1", "--gpus", "0.5"), "--gpus 0.5 has no meaning for --engine local", "--engine ray"),
    (("fig1", "--lanes", "4"), "--lanes 4 has no meaning for --engine local", "--engine ray"),
    (("fig1", "--cpus", "2"), "--cpus 2.0 has no meaning for --engine local", "--engine ray"),
    (("fig1", "--device", "gpu"), "unknown device 'gpu'", "known: auto"),
    (("fig1", "--device", "cuda:99", "--jobs", "2"), "device 'cuda:99' is not there", "--device cpu"),
    (("fig1", "--time-limit", "90"), "--time-limit '90' is not a length of time", "write 30s, 9m, 2h or 1h30m, 90m"),
    (("fig1", "--time-limit", "soon"), "--time-limit 'soon' is not a length of time", "9m"),
    (("fig1", "--max-trials", "9"), "--max-trials 9 has no meaning without", "add --until-decided"),
    (("fig1", "--budget", "9m"), "--budget 9m has no meaning without", "add --until-decided"),
    (("fig1", "--until-decided", "--trials", "3"), "--until-decided chooses the trials", "--max-trials"),
    (("fig1", "--until-decided", "--max-trials", "6"), "--max-trials 6 is not from 7 to 100", "decide nothing"),
    (("fig1", "--until-decided", "--budget", "9"), "--budget '9' is not", "200000it"),
    (("fig6", "--until-decided"), "no two methods are compared", "two retraining methods"),
    (("fig1", "--power", "0"), "--power 0 is not a number of points", "0.2"),
    (("fig1", "--known", "none.csv"), "none.csv cannot be read", "runs.csv"),
    (("fig1", "--force"), "--force has no meaning for reproduce", "--experiment"),
]


def test_a_new_engine_is_one_registration(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(options: EngineOptions) -> None:
        raise UsageError("the tower has no room", f"of {options.jobs}")

    def opened(*given: object) -> AbstractContextManager[Engine]:
        raise AssertionError("it was refused")

    monkeypatch.setattr(engines, "_entries", dict(engines.loaded()))
    engines.register("tower")(EngineKind("in a tower", check, opened))
    answer = cli("reproduce", "fig1", "--engine", "tower", "--jobs", "7")
    assert "the tower has no room" in answer.err
    assert "of 7" in answer.err


@pytest.mark.parametrize(("line", "words", "hint"), REFUSED)
def test_a_wrong_request_is_refused_and_makes_nothing(
    line: tuple[str, ...], words: str, hint: str, cli: Cli, tmp_path: Path
) -> None:
    answer = cli("reproduce", *line)
    assert (answer.code, answer.out) == (2, "")
    error, advice = answer.err.splitlines()
    assert words in error
    assert hint in advice
    assert list(tmp_path.iterdir()) == []


def test_missing_data_is_told_before_anything_runs(store: Path, cli: Cli) -> None:
    answer = cli("reproduce", "fig1", "--trials", "1")
    assert (answer.code, answer.out) == (1, "")
    assert "data set 'cifar10' was not found" in answer.err
    assert Registry().search() == []


def test_studies_are_listed_and_shown(cli: Cli, tmp_path: Path) -> None:
    listed = cli("reproduce", "--list")
    assert [line.split()[0] for line in listed.out.splitlines()] == list(shipped())
    rows = json.loads(cli("reproduce", "--list", "--json").out)
    assert [row["name"] for row in rows] == list(shipped())
    assert parse_study(cli("reproduce", "--show", "fig5").out, "stdout") == shipped()["fig5"]
    assert list(tmp_path.iterdir()) == []


def study(tmp_path: Path, *panels: dict[str, Any], **fields: Any) -> str:
    (tmp_path / "tiny.yaml").write_text(text_of(*panels, **fields))
    return "tiny.yaml"


FEW = panel(iterations=4, sparsities=[0.5], methods=[{"method": "finetune"}])


def test_a_plan_is_printed_and_nothing_run(
    store: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewindctl.paper.cost.MEASURED_SECONDS", 0.0)
    name = study(tmp_path, FEW)
    planned = json.loads(cli("reproduce", name, "--trials", "2", "--plan", "--json").out)
    assert [row["kind"] for row in planned["stages"]] == ["dense", "prune", "retrain"] * 2
    assert planned["totals"]["hours"] > 0
    answer = cli("reproduce", name, "--trials", "2", "--plan")
    assert "to do: 16 of 16 iterations" in answer.out
    assert answer.err == "measuring resnet8 on digits ...\n"
    assert Registry().search() == []


DIVERGING = panel(
    iterations=4,
    sparsities=[0.5],
    methods=[{"method": "finetune", "lr": 1e30}, {"method": "lr_rewind"}],
    schedule="iterative",
)


@pytest.mark.slow
def test_one_failing_cell_stops_no_other_and_is_tried_again(store: Path, cli: Cli, tmp_path: Path) -> None:
    levels = DIVERGING | {"sparsities": [0.5, 0.75]}
    line = ("reproduce", study(tmp_path, levels), "--trials", "1", "--json")
    answer = cli(*line)
    assert answer.code == 1
    result = json.loads(answer.out)
    (failed,) = result["failed"]
    assert (result["stages"], result["done"], result["blocked"]) == (8, 5, 2)
    run = Registry().get(failed["run_id"])
    assert (run.status, failed["label"]) == ("FAILED", "finetune lr=1e+30 2x s0 resnet8-digits")
    assert "training loss is" in failed["message"]
    assert f"failed: {failed['label']} (run {run.run_id}): {failed['message']}" in answer.err
    assert "error: 1 of 8 stages failed, 2 wait for them" in answer.err
    before = {run.run_id for run in Registry().search()}
    assert cli(*line).code == 1
    (again,) = [run for run in Registry().search() if run.run_id not in before]
    assert (again.status, again.fingerprint) == ("FAILED", run.fingerprint)


def test_five_equal_failures_in_a_row_stop_the_rest(
    store: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rewindctl.errors import DataError
    from rewindctl.pipeline import Pipeline

    def broken(self: Pipeline, name: str) -> None:
        raise DataError("the disk is gone")

    monkeypatch.setattr(Pipeline, "dataset", broken)
    answer = cli("reproduce", study(tmp_path, FEW), "--seeds", "0-8", "--json")
    assert answer.code == 1
    result = json.loads(answer.out)
    assert (len(result["failed"]), result["stopped"]) == (5, "the disk is gone")
    assert "stopped: the disk is gone" in answer.err


def test_nothing_to_do_is_nothing_done(store: Path, cli: Cli, tmp_path: Path) -> None:
    line = ("reproduce", study(tmp_path, FEW), "--trials", "1", "--jobs", "2")
    assert cli(*line[:-1], "1").code == 0
    before = [run.run_id for run in Registry().search()]
    answer = cli(*line)
    assert (answer.code, answer.err.splitlines()[0]) == (0, "3 stages, 3 of them done")
    assert "finished" not in answer.err
    assert [run.run_id for run in Registry().search()] == before
    assert cli("reproduce", "table3").code == 0


def test_data_of_a_folder_of_ones_own_are_there_for_the_results_too(store: Path, cli: Cli, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    parts = {f"x_{part}": draw.integers(0, 256, (256, 8, 8, 1), dtype=np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "noise.npz", **parts, y_train=np.arange(256) % 10, y_test=np.arange(256) % 10)
    data = ("--data-dir", str(tmp_path / "data"))
    assert cli("data", "import", "noise", str(tmp_path / "noise.npz"), *data).code == 0
    noise = {"dataset": "noise", "recipe": "digits", "iterations": 4}
    name = study(tmp_path, panel(schedule="dense", **noise), FEW | noise, tables=["cells", "table1"])
    answer = cli("reproduce", name, "--trials", "1", *data)
    assert answer.code == 0, answer.err
    assert "noise" in answer.out


@pytest.mark.slow
def test_cells_that_were_not_selected_say_so(store: Path, cli: Cli, tmp_path: Path) -> None:
    both = FEW | {"methods": [{"method": "finetune"}, {"method": "lr_rewind"}]}
    line = ("reproduce", study(tmp_path, both), "--trials", "1")
    some = cli(*line, "--cells", "method=lr_rewind").out
    (row,) = [line for line in some.splitlines() if "fine-tuning" in line]
    assert "not selected" in row
    assert "no runs" not in some
    assert "not selected" not in cli(*line).out


@pytest.mark.slow
def test_more_at_once_than_there_is_memory_for_is_refused_before_anything_runs(
    store: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewindctl.engines.capacity.PROCESS_BYTES", 10**18)
    answer = cli("reproduce", study(tmp_path, FEW), "--trials", "2", "--jobs", "2", "--device", "cpu")
    assert (answer.code, answer.out) == (2, "")
    assert "error: --jobs 2: 2 trials at once do not fit: each takes about 1000000000.0 GB" in answer.err
    assert Registry().search() == []


@pytest.mark.slow
def test_a_scaled_study_is_none_of_the_full_one(store: Path, cli: Cli, tmp_path: Path) -> None:
    name = study(tmp_path, FEW)
    for scale in ("1", "0.5"):
        answer = cli("reproduce", name, "--trials", "1", "--scale", scale, "--json")
        assert json.loads(answer.out)["scale"] == float(scale)
    runs = Registry().search()
    assert len({run.fingerprint for run in runs}) == len(runs) == 6
    assert {run.params["iterations"] for run in runs if run.kind != "prune"} == {"4", "2"}


def test_a_limit_too_short_for_anything_says_what_is_left(store: Path, cli: Cli, tmp_path: Path) -> None:
    line = ("reproduce", study(tmp_path, FEW), "--trials", "1")
    answer = cli(*line, "--time-limit", "1s")
    assert answer.code == 3
    left = "error: --time-limit 1s was reached: 3 of 3 stages are left (1 dense, 1 prune, 1 retrain: 8 iterations)"
    assert answer.err.splitlines()[-2:] == [left, f"hint: go on with: rewindctl {' '.join(line)} --time-limit 1s"]
    assert json.loads(cli(*line, "--time-limit", "1s", "--json").out)["left"] == 3
    assert Registry().search() == []


@pytest.mark.slow
def test_a_limit_that_does_for_all_leaves_nothing(store: Path, cli: Cli, tmp_path: Path) -> None:
    line = ("reproduce", study(tmp_path, FEW), "--trials", "1", "--json", "--time-limit")
    answer = cli(*line, "1h")
    assert answer.code == 0
    assert (json.loads(answer.out)["done"], json.loads(answer.out)["left"]) == (3, 0)
    assert cli(*line, "1s").code == 0  # nothing is to do


TABLE = "tiny-scaled-x0.01333-cells.json"
LEVELS = FEW | {"schedule": "iterative", "sparsities": [0.5, 0.75]}


@pytest.mark.slow
def test_what_is_known_from_another_registry_is_not_run_and_counts(
    store: Path, empty_store: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewindctl.paper.cost.MEASURED_SECONDS", 0.0)
    there = ("--tracking-uri", f"sqlite:///{shutil.copy(empty_store, tmp_path / 'there.db')}")
    line = ("reproduce", study(tmp_path, LEVELS, figures=[]), "--json")
    assert cli(*line, "--seeds", "0", "--output", "there", *there).code == 0
    known = ("--known", "there/runs.csv", "--output", "here")
    plan = json.loads(cli(*line, "--trials", "2", *known, "--plan").out)
    assert {row["state"] for row in plan["stages"] if row["spec"].get("seed") == 0} == {"known"}
    assert (plan["totals"]["known"], plan["totals"]["todo"], plan["totals"]["iterations_todo"]) == (5, 5, 3 * 4)
    result = json.loads(cli(*line, "--trials", "2", *known, "--time-limit", "1h").out)
    assert (result["stages"], result["done"], result["known"], result["left"]) == (10, 5, 5, 0)
    assert {run.params["seed"] for run in Registry().search(kind="dense")} == {"1"}

    assert cli(*line, "--trials", "2", "--output", "alone", *there).code == 0
    here, alone = (json.loads((tmp_path / folder / TABLE).read_text()) for folder in ("here", "alone"))
    assert {cell["n"] for cell in here} == {2}
    assert [cell | {"run_ids": ""} for cell in here] == [cell | {"run_ids": ""} for cell in alone]

    third = ("--tracking-uri", f"sqlite:///{shutil.copy(empty_store, tmp_path / 'third.db')}")
    answer = cli(*line, "--trials", "2", "--known", "here/runs.csv", "--known", "alone/runs.csv", *third)
    assert (json.loads(answer.out)["known"], Registry(third[1]).search()) == (10, [])


def test_a_file_that_has_nothing_of_the_study_is_noted(
    store: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewindctl.paper.cost.MEASURED_SECONDS", 0.0)
    made_rows(study_of(FEW), seeds=1).to_csv("runs.csv", index=False)
    name = study(tmp_path, FEW | {"iterations": 6})
    answer = cli("reproduce", name, "--trials", "1", "--known", "runs.csv", "--plan")
    assert answer.code == 0
    assert "note: --known runs.csv has no row of the study" in answer.err
