"""rewindctl demo"""

from pathlib import Path

from conftest import Cli

from rewindctl.registry import Registry

SMALL = ("--seeds", "0", "--compressions", "5", "--iterations", "12", "--k", "6")
FILES = {"curves.png", "curves.svg", "curves.csv", "results.txt", "runs.csv"}


def test_the_demo_makes_the_whole_chain_and_finds_it_the_second_time(store: Path, cli: Cli, tmp_path: Path) -> None:
    first = cli("demo", *SMALL)
    assert first.code == 0, first.err
    runs = Registry(f"sqlite:///{store}").search()
    assert [run.kind for run in runs] == ["dense", "prune", "retrain", "retrain", "retrain"]
    assert {run.params["method"] for run in runs[2:]} == {"finetune", "weight_rewind", "lr_rewind"}
    assert first.out == (tmp_path / "demo/results.txt").read_text()
    assert first.out.count("one-shot") == 3
    assert {path.name for path in (tmp_path / "demo").iterdir()} == FILES
    by_method = {run.params["method"]: run.metrics["test_accuracy"] for run in runs[2:]}
    for method, name in (("weight_rewind", "weight rewinding k=6"), ("lr_rewind", "LR rewinding")):
        assert f"{100 * (by_method['finetune'] - by_method[method]):+.2f} points against {name}" in first.err
    assert f"rewindctl ui --tracking-uri sqlite:///{store}" in first.err
    second = cli("demo", *SMALL, "--output", "again")
    assert (second.code, second.out) == (0, first.out)
    assert second.err.count("reused") >= 5
    assert Registry(f"sqlite:///{store}").search() == runs
    assert {path.name for path in (tmp_path / "again").iterdir()} == FILES


def test_a_rewind_point_that_does_not_fit_is_refused_before_anything_is_trained(store: Path, cli: Cli) -> None:
    for line in (("--iterations", "12", "--k", "12"), ("--iterations", "12", "--k", "13"), ("--k", "301")):
        answer = cli("demo", "--seeds", "0", "--compressions", "5", *line)
        assert (answer.code, answer.out) == (2, ""), line
        assert line[-1] in answer.err.splitlines()[-2]
        assert Registry(f"sqlite:///{store}").search() == [], line
